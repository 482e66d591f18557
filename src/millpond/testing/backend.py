"""The scripted backend: a server made of rules, which knows all its connections and what is done to them.

It works on every event loop: it needs futures, `call_at` and the loop's clock.
No call suspends longer than its script says, and none leaves a timer behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from millpond.driver import Verdict
from millpond.testing.faults import Fault, FaultKind, FaultsFound
from millpond.testing.script import (
    BackendDown,
    Call,
    ConnectionLost,
    Dawdle,
    Decision,
    Fail,
    Hang,
    Lose,
    Script,
    Succeed,
    TooManyClients,
    Verb,
)
from millpond.testing.session import Ending, ScriptedConnection
from millpond.testing.simulated import SimulatedLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from millpond.settings import ResetLevel
    from millpond.testing.script import Behaviour


@dataclass(slots=True)
class Attempt:
    """One attempt to connect.

    Attributes:
        number: of all attempts, from 1.
        started_at: seconds on the loop's clock.
        ended_at: the same; None: it is under way.
        outcome: "connection 7", or the error's type; empty while it is under way.
    """

    number: int
    started_at: float
    ended_at: float | None = None
    outcome: str = ""


class _Default:
    """What the calls of one verb do when nothing is queued: an attribute of the backend."""

    def __init__(self, verb: Verb) -> None:
        self._verb = verb

    def __get__(self, backend: ScriptedBackend, owner: object = None) -> Decision:
        return backend.scripts[self._verb].default

    def __set__(self, backend: ScriptedBackend, decision: Decision) -> None:
        backend.scripts[self._verb].default = decision


class _Queue:
    """What the next calls of one verb do, one each: an attribute of the backend."""

    def __init__(self, verb: Verb) -> None:
        self._verb = verb

    def __get__(self, backend: ScriptedBackend, owner: object = None) -> deque[Decision]:
        return backend.scripts[self._verb].queue


class ScriptedBackend:
    """A world of connections whose every call follows a script.

    Args:
        latency: seconds of one round trip; 0: calls that succeed do not suspend at all.
        seed: of `random`, from which scripts and mixtures draw.
        max_clients: most connections the server takes; None: any number.
        max_borrowers: how many may use one connection at once; above 1, answers
            are told apart by number and an unread one does no harm.
        remember: how many lines of the log and how many attempts are kept.

    Attributes:
        connects, pings, resets, closes, requests: what a call of the verb does:
            a behaviour, or a function of the `Call` that decides. While the
            backend is down, connects fail without asking it.
        connect_script, ping_script, reset_script, close_script, request_script:
            queues of behaviours for the next calls, one each, before the above.
        is_up, is_primary, is_frozen: the state of the server; see `down`, `demote`, `freeze`.
        calls: calls made so far, by verb.
        active, peak: calls under way, and the most at once, by verb.
        opened, closed, terminated: connections made, politely closed, cut. Each counts once.
        peak_live: most connections open at the server at once.
        attempts: the latest attempts to connect.
        faults: what was done wrong, in order.
        failovers: the connections of which `after_lease` said DISCARD_ALL, in order.
        ignored: kinds of faults that are not recorded.
        log: what happened, one line each, the latest.
        unread_verdict: what `after_lease` says of a connection with an unread answer.
        clean_verdict: what it says of a clean one.
        after_leases: called with the connection, the lease's error and the verdict;
            what it returns is the verdict. None: nothing is changed.
        after_lease_script: verdicts for the next leases, one each, before all else.
        is_permanent: decides for `driver.is_permanent`, besides the error's own `permanent`.
    """

    connects, connect_script = _Default(Verb.CONNECT), _Queue(Verb.CONNECT)
    pings, ping_script = _Default(Verb.PING), _Queue(Verb.PING)
    resets, reset_script = _Default(Verb.RESET), _Queue(Verb.RESET)
    closes, close_script = _Default(Verb.CLOSE), _Queue(Verb.CLOSE)
    requests, request_script = _Default(Verb.REQUEST), _Queue(Verb.REQUEST)

    def __init__(
        self,
        *,
        latency: float = 0.001,
        seed: int = 0,
        max_clients: int | None = None,
        max_borrowers: int = 1,
        remember: int = 2000,
    ) -> None:
        self.latency = latency
        self.random = random.Random(f"backend {seed}")
        self.max_clients = max_clients
        self.max_borrowers = max_borrowers
        self.is_up = self.is_primary = True
        self.is_frozen = False
        self.calls: Counter[Verb] = Counter()
        self.active: Counter[Verb] = Counter()
        self.peak: Counter[Verb] = Counter()
        self.opened = self.closed = self.terminated = self.peak_live = 0
        self.attempts: deque[Attempt] = deque(maxlen=remember)
        self.faults: list[Fault] = []
        self.failovers: list[ScriptedConnection] = []
        self.ignored: set[FaultKind] = set()
        self.log: deque[str] = deque(maxlen=remember)
        self.unread_verdict = Verdict.DISCARD
        self.clean_verdict = Verdict.KEEP
        self.after_leases: Callable[[ScriptedConnection, BaseException | None, Verdict], Verdict] | None = (
            None
        )
        self.after_lease_script: deque[Verdict] = deque()
        self.is_permanent: Callable[[BaseException], bool] = _never
        self.scripts = {verb: Script() for verb in Verb}
        # Connections that this side has neither closed nor terminated, by number.
        self._held: dict[int, ScriptedConnection] = {}
        self._connecting: dict[asyncio.Future[None], None] = {}
        self._hanging: dict[asyncio.Future[None], None] = {}
        self._frozen: dict[asyncio.Future[None], None] = {}
        self._last_seen = 0.0

    def __repr__(self) -> str:
        state = "frozen" if self.is_frozen else "up" if self.is_up else "down"
        counts = f"{len(self.live)} live, {self.opened} opened, {len(self.faults)} faults"
        return f"<ScriptedBackend {state} {counts}>"

    @property
    def is_shared(self) -> bool:
        """True when a connection may have several borrowers at once."""
        return self.max_borrowers > 1

    # -- the state of the server ---------------------------------------------------------------------

    def down(self, *, silently: bool = False) -> None:
        """Die: every connection with it; attempts to connect fail.

        Args:
            silently: this side learns of it at the next use only.
        """
        self.is_up = False
        self._say("backend down")
        for conn in self.live:
            self.kill(conn, silently=silently)
        for future in list(self._connecting):
            if not future.done():
                future.set_exception(BackendDown("the backend went down"))

    def up(self) -> None:
        """Come back, with no connections."""
        self.is_up = True
        self._say("backend up")

    def demote(self) -> None:
        """Lose the primary role: connections, old and new, refuse requests and pings with `ReadOnly`."""
        self.is_primary = False
        self._say("backend demoted")
        for conn in self.live:
            conn.read_only = True

    def promote(self) -> None:
        """Have a new primary: new connections work, old ones stay read-only."""
        self.is_primary = True
        self._say("backend promoted")

    def freeze(self) -> None:
        """Answer nothing more until `thaw()`, as a stopped process does."""
        self.is_frozen = True
        self._say("backend frozen")

    def thaw(self) -> None:
        """Answer what has been waiting."""
        self.is_frozen = False
        self._say("backend thawed")
        _wake_all(self._frozen)

    def unhang(self) -> None:
        """Let every call that hangs go on with its `then`."""
        _wake_all(self._hanging)

    def kill(self, conn: ScriptedConnection, *, silently: bool = False, after: float = 0.0) -> None:
        """Let the server drop one connection.

        Args:
            conn: which.
            silently: `is_closed` does not know until the next request, ping, reset or close.
            after: seconds until then; no timer is set.
        """
        if after > 0:
            conn.die_later(self.now() + after, silently=silently)
        elif conn.is_alive:
            self._say(f"{_name(conn)} killed{' silently' if silently else ''}")
            conn.die(self.now(), silently=silently)

    # -- what it knows ---------------------------------------------------------------------------------

    @property
    def live(self) -> list[ScriptedConnection]:
        """The connections open at the server, oldest first."""
        return [conn for conn in self._held.values() if not conn.is_dead]

    @property
    def held(self) -> list[ScriptedConnection]:
        """The connections that this side has neither closed nor terminated, oldest first: dead ones too."""
        return list(self._held.values())

    @property
    def held_count(self) -> int:
        """How many connections this side has neither closed nor terminated."""
        return len(self._held)

    @property
    def connecting(self) -> int:
        """Attempts to connect that are under way."""
        return self.active[Verb.CONNECT]

    @property
    def peak_connecting(self) -> int:
        """Most attempts to connect at once."""
        return self.peak[Verb.CONNECT]

    @property
    def attempt_times(self) -> list[float]:
        """When the latest attempts started, seconds on the loop's clock."""
        return [attempt.started_at for attempt in self.attempts]

    def dirty_for(self, conn: ScriptedConnection) -> tuple[str, ...]:
        """What the next borrower of `conn` would find of another, as far as the reset level covers it."""
        covered = {"none": 1, "rollback": 2, "full": 3}[conn.level]
        kinds = ("unread answer", "open transaction", "session variables")[:covered]
        return tuple(word for word in conn.dirt if word in kinds)

    def story(self, lines: int | None = None) -> str:
        """The log as text; the last `lines` of it."""
        return "\n".join(list(self.log)[-lines if lines else 0 :])

    def check(self, *, all_closed: bool = False) -> None:
        """Raise when anything was done wrong.

        Args:
            all_closed: every connection must have been closed or terminated as well.

        Raises:
            FaultsFound: says what, with the end of the log.
        """
        left = tuple(self._held) if all_closed else ()
        if self.faults or left:
            raise FaultsFound(tuple(self.faults), left, self.story(30))

    # -- who uses what -----------------------------------------------------------------------------------

    def borrowed(self, conn: ScriptedConnection, who: Hashable = None) -> None:
        """`who` (else the current task) has `conn` now; records a fault when it may not."""
        who = _someone() if who is None else who
        if len(conn.borrowers) >= self.max_borrowers:
            others = ", ".join(map(_told, conn.borrowers))
            self.blame(FaultKind.TWO_BORROWERS, conn, f"lent to {_told(who)} while {others} has it")
        if conn.ending is not Ending.OPEN:
            self.blame(FaultKind.LENT_CLOSED, conn, f"lent to {_told(who)} when {conn.ending.value}")
        elif conn.is_closed and conn.died_at is not None and conn.died_at < self.now():
            # One that dies between the hand-over and the borrower's first step is nobody's fault.
            self.blame(
                FaultKind.LENT_CLOSED, conn, f"lent to {_told(who)} though dead since {conn.died_at:.6f}"
            )
        if conn.condemned:
            self.blame(FaultKind.LENT_CONDEMNED, conn, f"lent to {_told(who)} against the driver's verdict")
        if not conn.borrowers:
            dirt = [*self.dirty_for(conn), *["reset that is due"] * (conn.needs_reset and not conn.dirt)]
            if dirt:
                self.blame(FaultKind.LENT_DIRTY, conn, f"lent to {_told(who)} with {', '.join(dirt)}")
        if conn.tending is not None and not self.is_shared:
            self.blame(FaultKind.TENDED_WHILE_LENT, conn, f"lent to {_told(who)} during a {conn.tending}")
        conn.borrowers.append(who)
        conn.uses += 1
        self._say(f"{_name(conn)} borrowed by {_told(who)}")

    def returned(self, conn: ScriptedConnection, who: Hashable = None) -> None:
        """`who` (else the current task) gives `conn` back. Say it before the pool's `release`."""
        who = _someone() if who is None else who
        if who in conn.borrowers:
            conn.borrowers.remove(who)
            self._say(f"{_name(conn)} returned by {_told(who)}")
        else:
            self.blame(FaultKind.NOT_BORROWED, conn, f"returned by {_told(who)}, who does not have it")

    @contextlib.contextmanager
    def using(self, conn: ScriptedConnection, who: Hashable = None) -> Iterator[ScriptedConnection]:
        """`borrowed` on the way in, `returned` on the way out: goes inside the lease."""
        who = _someone() if who is None else who
        self.borrowed(conn, who)
        try:
            yield conn
        finally:
            self.returned(conn, who)

    def blame(self, kind: FaultKind, conn: ScriptedConnection, detail: str) -> None:
        """Record a fault."""
        if kind not in self.ignored:
            self.faults.append(Fault(kind, self.now(), conn.number, detail))
            self._say(f"{_name(conn)} FAULT {kind.value}: {detail}")

    # -- what the driver does ------------------------------------------------------------------------------

    async def open(self, level: ResetLevel) -> ScriptedConnection:
        """Connect, as the script says."""
        attempt = Attempt(self.calls[Verb.CONNECT] + 1, self.now())
        self.attempts.append(attempt)
        try:
            lose = await self.act(Verb.CONNECT, None)
            if not self.is_up:
                raise BackendDown("the backend is down")
            if self.max_clients is not None and len(self.live) >= self.max_clients:
                raise TooManyClients(f"too many clients: {self.max_clients} already")
            self.opened += 1
            conn = ScriptedConnection(
                self, self.opened, at=self.now(), level=level, read_only=not self.is_primary
            )
        except BaseException as error:
            attempt.ended_at, attempt.outcome = self.now(), type(error).__name__
            self._say(f"attempt {attempt.number} ended: {_spoken(error)}")
            raise
        attempt.ended_at, attempt.outcome = self.now(), _name(conn)
        self._held[conn.number] = conn
        self.peak_live = max(self.peak_live, len(self.live))
        self._say(f"{_name(conn)} opened by attempt {attempt.number}")
        if lose is not None:
            conn.die_later(self.now() + lose.after, silently=lose.silently)
        return conn

    async def act(self, verb: Verb, conn: ScriptedConnection | None) -> Lose | None:
        """Do what the script says for this call; the caller gives it its meaning."""
        self.calls[verb] += 1
        self.active[verb] += 1
        self.peak[verb] = max(self.peak[verb], self.active[verb])
        try:
            if conn is None and not self.is_up and not self.is_frozen:
                await self._wait(None, self.latency)
                return None
            call = Call(verb, self.calls[verb], self.now(), conn, self.random)
            return await self._perform(self.scripts[verb].next(call), conn, self.latency)
        except BaseException as error:
            if conn is not None:
                if isinstance(error, ConnectionLost):
                    self.kill(conn)  # a script may say so of a connection that was well until now
                self._say(f"{_name(conn)} {verb} ended: {_spoken(error)}")
            raise
        finally:
            self.active[verb] -= 1

    def end(self, conn: ScriptedConnection, ending: Ending) -> None:
        """This side has closed or cut `conn`."""
        if ending is Ending.CLOSED:
            self.closed += 1
        else:
            self.terminated += 1
        self._held.pop(conn.number, None)
        self._say(f"{_name(conn)} {ending.value}")
        conn.end(ending)

    def now(self) -> float:
        """The running loop's clock, seconds; outside a loop what it showed last."""
        with contextlib.suppress(RuntimeError):
            self._last_seen = asyncio.get_running_loop().time()
        return self._last_seen

    def instant(self) -> float:
        """When this instant began: what the clock shows, or the start of the stall that has just ended."""
        now = self.now()
        loop = asyncio.get_running_loop()
        return loop.stalled_since if isinstance(loop, SimulatedLoop) and loop.stalled_until == now else now

    async def _perform(
        self, behaviour: Behaviour, conn: ScriptedConnection | None, round_trip: float
    ) -> Lose | None:
        """Do what `behaviour` says; the answer is how to lose the connection that is being made, if so."""
        match behaviour:
            case Succeed():
                await self._wait(conn, round_trip)
            case Fail(after=after):
                await self._wait(conn, round_trip if after is None else after)
                raise behaviour.made()
            case Dawdle(seconds=seconds, then=then, stubborn=stubborn):
                await self._wait(conn, seconds, ignore=math.inf if stubborn else 0, deaf=stubborn)
                return await self._perform(then, conn, 0.0)
            case Hang(then=then):
                await self._wait(
                    conn, None, ignore=behaviour.ignore, finishes=behaviour.finishes, deaf=behaviour.deaf
                )
                return await self._perform(then, conn, 0.0)
            case Lose(then=then):
                await self._perform(then, conn, round_trip)
                if conn is None:
                    return behaviour
                conn.die_later(self.now() + behaviour.after, silently=behaviour.silently)
        return None

    async def _wait(
        self,
        conn: ScriptedConnection | None,
        seconds: float | None,
        *,
        ignore: float = 0,
        finishes: bool = False,
        deaf: bool = False,
    ) -> None:
        """Suspend for `seconds` (None: until `unhang()`), and on while the backend is frozen.

        Raises:
            ConnectionLost: the connection went meanwhile; not when `deaf`.
            BackendDown: the backend went down during a connect; not when `deaf`.
        """
        woken_with = [] if deaf else [self._connecting if conn is None else conn.waits]
        ends_at = None if seconds is None else self.now() + seconds
        if conn is not None and not deaf and (dies_at := conn.dies_audibly_at) is not None:
            ends_at = dies_at if ends_at is None else min(ends_at, dies_at)
        if seconds is None:
            await self._suspend(ends_at, [*woken_with, self._hanging], ignore, finishes)
        elif seconds > 0:
            await self._suspend(ends_at, woken_with, ignore, finishes)
        while self.is_frozen:
            await self._suspend(None, [*woken_with, self._frozen], ignore, finishes)
        if conn is not None and not deaf and conn.is_closed:
            raise ConnectionLost(f"{_name(conn)} is gone")

    async def _suspend(
        self,
        until: float | None,
        woken_with: list[dict[asyncio.Future[None], None]],
        ignore: float,
        finishes: bool,
    ) -> None:
        """Wait until the clock shows `until`, or somebody wakes one of the groups."""
        loop = asyncio.get_running_loop()
        ignored = 0
        while True:
            future: asyncio.Future[None] = loop.create_future()
            timer = None if until is None else loop.call_at(until, _wake, future)
            for group in woken_with:
                group[future] = None
            try:
                return await future
            except asyncio.CancelledError:
                if ignored >= ignore:
                    if finishes:
                        return None
                    raise
                ignored += 1
            finally:
                if timer is not None:
                    timer.cancel()
                for group in woken_with:
                    group.pop(future, None)
                if future.done() and not future.cancelled():
                    future.exception()  # a cancellation may have come between the loss and its arrival

    def _say(self, what: str) -> None:
        self.log.append(f"{self.now():.6f} {what}")


def _never(error: BaseException) -> bool:
    return False


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _wake_all(group: dict[asyncio.Future[None], None]) -> None:
    for future in list(group):
        _wake(future)


def _name(conn: ScriptedConnection) -> str:
    return f"connection {conn.number}"


def _spoken(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _someone() -> Hashable:
    return asyncio.current_task()


def _told(who: Hashable) -> str:
    return who.get_name() if isinstance(who, asyncio.Task) else str(who)
