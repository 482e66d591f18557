"""The pool: the async shell around the ledger. It runs what the books say has to be done.

Every change of the books happens between two awaits; every entry point ends
with `_settle`, which tells watchers and listeners once the books are closed.
"""

from __future__ import annotations

import asyncio
import inspect
import random as random_module
import sys
import warnings
from asyncio import _get_running_loop as running_loop
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from types import TracebackType
from typing import Any, Final, Generic, Literal, Self, TypeVar

from millpond._core import forks
from millpond._core.alarm import Alarm
from millpond._core.allowance import Allowance
from millpond._core.announcing import Announcer
from millpond._core.calls import Call, Calls
from millpond._core.checking import check
from millpond._core.keeping import Keeper
from millpond._core.lease import (
    RELEASED,
    UNASKED,
    Acquire,
    AttendedAcquire,
    AttendedLease,
    Lease,
    SharingAcquire,
    SharingLease,
)
from millpond._core.ledger import Ledger
from millpond._core.lending import Lender
from millpond._core.life import LEGAL, Life
from millpond._core.opening import HEDGE_S, Opener
from millpond._core.reporting import Reporting
from millpond._core.retirement import trusted_s, tune
from millpond._core.slot import Slot, SlotState
from millpond._core.tending import Tender
from millpond._core.upkeep import Upkeep
from millpond._core.waiting import Waiting
from millpond._core.whereabouts import NOWHERE, clock_of, future_of, here, task_of
from millpond.driver import Configurable, Driver, Redacting, Verdict
from millpond.errors import (
    InvariantBroken,
    PoolClosed,
    ReleaseError,
    WrongLoop,
)
from millpond.events import CloseReason, EventKind, Listener
from millpond.settings import (
    UNSET,
    Change,
    PoolSettings,
    Range,
    Reload,
    Timeout,
    Unset,
    difference,
    invalid,
    setting_fields,
)
from millpond.status import BreakerState, Histogram, PoolCheck, PoolState

C = TypeVar("C")

_SPREAD: Final = Range(float, least=0.0)
_OPENS: Final = frozenset({PoolState.OPEN, PoolState.PAUSED})  # states in which connections are opened

T = TypeVar("T")


def _required(given: T | None, kind: type[T], what: str) -> T | None:
    if given is not None and not isinstance(given, kind):
        raise TypeError(f"{what} must be {kind.__name__}, got {type(given).__name__}")
    return given


class ConnectionPool(Reporting, Generic[C]):
    """This lends the connections of one driver to one borrower at a time, or to several if shared.

    A pool may be built before any event loop runs; the first use binds it to
    the running loop, and it serves no other.

    Args:
        driver: knows the backend.
        settings: how the pool behaves.
        name: stands in every error, event and metric.
        allowance: a limit shared with other pools; None: only `max_size` counts.
        on_connect: called with every fresh connection, within `connect_timeout`; may be async.
        random: source of jitter, for tests that want to choose it.
    """

    def __init__(
        self,
        driver: Driver[C],
        *,
        settings: PoolSettings | None = None,
        name: str | None = None,
        allowance: Allowance | None = None,
        on_connect: Callable[[C], Awaitable[object] | object] | None = None,
        random: random_module.Random | None = None,
    ) -> None:
        self.settings = _required(settings, PoolSettings, "settings") or PoolSettings()
        _required(name, str, "name")
        if isinstance(driver, str) or not callable(getattr(driver, "connect", None)):
            hint = "; create_pool() makes a pool from a URL" if isinstance(driver, str) else ""
            raise TypeError(f"driver must be a Driver, got {type(driver).__name__}{hint}")
        self.driver: Driver[C] = (
            driver.configured(self.settings) if isinstance(driver, Configurable) else driver
        )
        self.name = name if name is not None else driver.name
        self.state = PoolState.NEW
        self._on_connect: Callable[[Any], Any] | None = on_connect
        self._random = random if random is not None else random_module.Random()
        self._redact = self.driver.redact if isinstance(self.driver, Redacting) else None
        self._is_closed = self.driver.is_closed
        self._after_lease = self.driver.after_lease
        self._loop: asyncio.AbstractEventLoop | None = None
        self._now: Callable[[], float] = lambda: 0.0
        self._new_future: Callable[[], asyncio.Future[Any]]  # known once the loop is
        self._allowance = _required(allowance, Allowance, "allowance")
        self._here: object = NOWHERE  # what tells that this pool's loop runs; known once it is bound
        self._home: Any = NOWHERE  # the loop in which leases may take the short way; see _refresh_plain
        self._commons: Any = NOWHERE  # likewise in a shared pool
        self._pause_mode: Literal["queue", "refuse"] = "queue"
        self._heir: ConnectionPool[Any] | None = None  # lends in this pool's stead; see _bequeath
        self._announcer = Announcer(self)
        self._acquire_class: type[Acquire[Any]]
        self._lease_class: type[Lease[Any]]
        self._is_attended: bool
        self._is_noted: bool
        self._start_books()
        self._attend()
        forks.watch(self)

    def _start_books(self) -> None:
        """Empty books: a new pool, or what a forked child begins with."""
        settings = self.settings
        self._ledger = Ledger(settings.max_size, settings.max_leases_per_connection, self._allowance, self)
        self._idle = self._ledger.idle
        self._by_id = self._ledger.by_id
        self._queue = self._ledger.waiters
        self._order = self._queue.order
        self._hold_times = self._ledger.hold_times
        self._held = self._hold_times.fresh
        self._wait_times = Histogram()
        self._openings: dict[int, Call[Any]] = {}
        self._calls = Calls(self)
        self._deadlines: Alarm | None = None
        self._hedge: Alarm | None = None
        self._lender = Lender(self)
        self._waiting = Waiting(self)
        self._keeper = Keeper(self)
        self._life = Life(self)
        self._opener = Opener(self)
        self._tender = Tender(self)
        self._upkeep = Upkeep(self)
        self._retune()

    @classmethod
    def from_factory(
        cls,
        connect: Callable[[], Awaitable[C] | C],
        *,
        close: Callable[[C], object] | None = None,
        terminate: Callable[[C], object] | None = None,
        validate: Callable[[C], object] | None = None,
        reset: Callable[[C], object] | None = None,
        after_lease: Callable[[C, BaseException | None], Verdict] | None = None,
        blocking: bool = False,
        name: str = "factory",
        settings: PoolSettings | None = None,
        allowance: Allowance | None = None,
    ) -> ConnectionPool[C]:
        """A pool over anything that can be opened and closed.

        Args:
            connect: makes a connection.
            close: ends one; without it, `terminate` or nothing is called.
            terminate: ends one at once, without waiting; without it, `close` if that is not async.
            validate: False or an error means dead; without it there are no pings.
            reset: cleans a connection after each lease.
            after_lease: judges a connection after its lease; without it, a lease that
                ended in an error or a cancellation discards its connection.
            blocking: run those of the functions that are not async in threads.
            name: of the pool.
            settings: of the pool.
            allowance: of the pool.
        """
        from millpond._core.factory import FunctionDriver

        driver = FunctionDriver(
            connect, close=close, terminate=terminate, validate=validate, reset=reset,
            after_lease=after_lease, blocking=blocking, name=name,
        )  # fmt: skip
        return ConnectionPool(driver, settings=settings, name=name, allowance=allowance)

    # -- life -----------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.initialize()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is GeneratorExit:  # the coroutine is being closed: nothing can be awaited any more
            self._life.break_off()
            return
        await self.close()

    async def initialize(self, timeout: float | None = None) -> None:
        """Open the pool; with `eager_init`, wait until `min_size` connections are open.

        Args:
            timeout: most seconds to wait; None: as long as attempts and their pauses take.

        Raises:
            ConnectFailed: `eager_init`, and the backend cannot be reached; nothing that it opened is left.
            PoolTimeout: `eager_init`, and it took longer than `timeout`, or the pool is draining; as above.
            PoolClosed: the pool is closed.
        """
        await self._life.initialize(timeout)

    def pause(self, mode: Literal["queue", "refuse"] = "queue") -> None:
        """Lend nothing until `resume()`: borrowers queue, or get `PoolClosed` at once."""
        if mode not in ("queue", "refuse"):
            raise ValueError(f'mode must be "queue" or "refuse", got {mode!r}')
        self._enter()
        self._refuse_if_closed()
        self._pause_mode = mode
        self._enter_state(PoolState.PAUSED)
        if mode == "refuse":
            self._waiting.fail_all(lambda: self._closed_error("paused"))
        self._pump()
        self._announcer.settle()

    def resume(self) -> None:
        """Lend again, after `pause()` or `drain()`."""
        self._enter()
        self._refuse_if_closed()
        self._enter_state(PoolState.OPEN)
        self._pump()
        self._upkeep.plan()
        self._announcer.settle()

    async def drain(self, timeout: float | None = 30.0) -> None:
        """Give no new leases and wait until the last one is back; newcomers queue until `resume()`.

        Raises:
            PoolTimeout: leases are still out after `timeout` seconds; the pool goes on draining.
        """
        await self._life.drain(timeout)

    async def close(self, timeout: Timeout = UNSET) -> None:
        """Refuse newcomers, fail waiters, wait for borrowers, then cut what is left.

        May be cancelled and called again. Leases of the calling task itself are
        not waited for: nobody else could give them back.

        Args:
            timeout: seconds to wait for borrowers; left out: `close_timeout`.
        """
        await self._life.close(self.settings.close_timeout if isinstance(timeout, Unset) else timeout)

    def __del__(self) -> None:
        # Read defensively: a constructor that raised leaves half of an object.
        ledger = getattr(self, "_ledger", None)
        if ledger is not None and any(slot.conn is not None for slot in ledger.slots.values()):
            warnings.warn(
                f"unclosed {self!r}: await pool.close(), or use `async with`",
                ResourceWarning, stacklevel=2, source=self,
            )  # fmt: skip

    # -- which loop -----------------------------------------------------------------------------

    def _enter(self) -> None:
        """Bind to the running loop on first use; open a new pool."""
        self._check_loop()
        if self.state is PoolState.NEW:
            self._enter_state(PoolState.OPEN)
            assert self._loop is not None  # noqa: S101 - _check_loop bound it
            self._opener.bind(self._loop)
            self._upkeep.start(self._loop)
            self._pump()

    def _check_loop(self) -> None:
        if here() == self._here and task_of(self._loop) is not None:
            return  # the usual case, asked in the cheapest way
        loop = running_loop()
        if loop is None:
            raise WrongLoop(self.name, why="used outside of a running event loop")
        if self._loop is loop:
            return
        if self._loop is None:
            self._loop = loop
            self._here = here()
            self._now = clock_of(loop)
            self._new_future = future_of(loop)
            self._deadlines = Alarm(loop, self._waiting.on_deadline)
            self._hedge = Alarm(loop, lambda _late: self._wake())
            self._calls.bind(loop)
            if self._allowance is not None and self.state is not PoolState.CLOSED:
                self._allowance.join(self)
            return
        if self._loop.is_closed():
            self._life.drop_everything()
            raise WrongLoop(
                self.name,
                why="the event loop this pool was bound to has been closed and its connections were dropped; "
                "make a new pool in the new loop",
            )
        raise WrongLoop(self.name, why="bound to another event loop; make one pool for each loop")

    def _after_fork(self) -> None:
        """In the child of a fork: begin empty; the parent's connections are not ours to speak on."""
        forks.close_descriptors(self.driver, [slot.conn for slot in self._slots() if slot.conn is not None])
        if self._allowance is not None:
            self._allowance.forget(self)
        forks.bury(self._ledger, self._loop, self._calls, self._openings, self._announcer)
        if self.state is not PoolState.CLOSED:
            self.state = PoolState.NEW
        self._loop = None
        self._announcer = self._announcer.reborn()
        self._start_books()

    # -- leases ---------------------------------------------------------------------------------

    def acquire(self, timeout: Timeout = UNSET) -> Acquire[C]:
        """Borrow a connection: `async with pool.acquire() as conn`, or `conn = await pool.acquire()`.

        Args:
            timeout: seconds for everything it takes; left out: `acquire_timeout`; None: no limit;
                0: only what is idle now.

        Raises:
            PoolTimeout: nothing came free in time.
            PoolExhausted: `max_waiting` borrowers wait already.
            PoolClosed: the pool is closed, or paused to refuse.
            ConnectFailed: the backend cannot be reached.
            CircuitOpen: the backend is known to be down.
            WrongLoop: the pool belongs to another event loop.
        """
        make = self._acquire_class  # looked up first, as in Hold._begin
        hold: Acquire[C] = make()
        hold.pool = self
        hold.timeout = timeout
        hold.slot = UNASKED
        hold.explicit = False
        return hold

    async def lease(self, timeout: Timeout = UNSET) -> Lease[C]:
        """Borrow with an identity: a lease that knows how to end itself; raises as `acquire`."""
        hold = self._lease_class(self, timeout)
        await hold.begin()
        return hold

    def release(
        self, conn: C, *, error: BaseException | Unset | None = UNSET, discard: bool = False
    ) -> Coroutine[Any, Any, None]:
        """Give back what `await pool.acquire()` gave; to be awaited, which never suspends.

        Args:
            conn: the connection.
            error: what the lease ended with; left out: the exception being handled, if any.
            discard: it is broken; terminate it.

        Raises:
            ReleaseError: it is not on loan by `await pool.acquire()`.
        """
        if here() != self._here:
            self._check_loop()  # the task that runs in the pool's loop may be waiting for this very thread
        slot = self._by_id.get(id(conn))
        if slot is not None and (hold := slot.hold) is not None and hold.explicit and slot.conn is conn:
            said = sys.exception() if error is UNSET else error
            if discard:
                self._lender.end(hold, said, discard=True)
            else:
                hold._end(None, said, None)
            return RELEASED
        self._check_loop()
        self._slot_of(conn)
        why = "this lease belongs to an `async with` or a lease object, which ends it"
        raise ReleaseError(self.name, why=why)

    def report(self, conn: C, error: BaseException) -> None:
        """Tell the pool of an error you handled: the driver judges the connection by it when it comes back.

        Raises:
            ReleaseError: the connection is not on loan.
        """
        self._check_loop()
        slot = self._slot_of(conn)
        match self._lender.judge(slot, error):
            case Verdict.KEEP:
                pass
            case Verdict.RESET:
                slot.soil()
            case Verdict.DISCARD:
                slot.condemn(CloseReason.REPORTED)
            case Verdict.DISCARD_ALL:
                self._keeper.fail_over(slot, error)
                slot.condemn(CloseReason.FAILOVER)
        self._ledger.note_room(slot)
        self._pump()
        self._announcer.settle()

    def detach(self, conn: C) -> C:
        """Take a borrowed connection out of the pool for good; its place is free, closing it is yours.

        Raises:
            ReleaseError: it is not on loan, or several leases share it.
        """
        self._check_loop()
        slot = self._slot_of(conn)
        if len(slot.leases) != 1 or slot.state is not SlotState.BUSY:
            raise ReleaseError(self.name, why="only a connection with exactly one lease can be detached")
        hold = slot.leases[0]
        self._ledger.end_lease(slot, hold)
        self._upkeep.forget(hold)
        self._keeper.dismiss(slot, CloseReason.DETACHED)
        self._pump()
        self._announcer.settle()
        return conn

    def _slot_of(self, conn: C) -> Slot:
        slot = self._ledger.by_id.get(id(conn))
        if slot is None or slot.conn is not conn:
            raise ReleaseError(self.name, why="this connection is not one of this pool's")
        if not slot.leases:
            raise ReleaseError(self.name, why="this connection is not on loan; it was given back already")
        return slot

    # -- what becomes of a connection -----------------------------------------------------------

    def clear(self, spread: float = 0.0) -> None:
        """Begin a new generation: idle connections go, busy ones when they come back.

        Args:
            spread: seconds over which the idle ones are closed; a waiter who needs a place takes one sooner.

        Raises:
            InvalidSettings: `spread` is negative, or no number.
        """
        if not _SPREAD.holds(spread):
            raise invalid("spread", spread, _SPREAD)
        if self.state in (PoolState.CLOSING, PoolState.CLOSED):
            return
        if self._loop is None:
            self._ledger.generation += 1
            return
        self._check_loop()
        self._keeper.new_generation(spread)
        self._pump()
        self._announcer.settle()

    # -- settings -------------------------------------------------------------------------------

    def apply(self, settings: PoolSettings) -> Change:
        """Take over what can be changed in place; say what that was, and what would need a new pool."""
        if not isinstance(settings, PoolSettings):
            raise TypeError(f"settings must be PoolSettings, got {type(settings).__name__}")
        was = self.settings
        change = difference(was, settings)
        kept = {
            each.name: getattr(self.settings, each.name)
            for each in setting_fields()
            if each.metadata["reload"] is Reload.NEW_POOL
        }
        if self._loop is not None and self.state is not PoolState.CLOSED:
            self._check_loop()
        self.settings = settings.changed(**kept)
        self._ledger.max_size = self.settings.max_size
        if "max_uses" in change.in_place:
            self._ledger.count_uses(was_counting=was.max_uses is not None)
        self._opener.tune(self._now())
        self._retune()
        self._attend()
        if self._loop is None or self.state in (PoolState.CLOSING, PoolState.CLOSED):
            return change
        self._keeper.shrink()
        self._upkeep.retire(self._now())
        if change.in_place:
            self._announcer.tell(EventKind.CHANGED, reason="settings", detail=", ".join(change.in_place))
        self._pump()
        self._upkeep.plan()
        self._announcer.settle()
        return change

    def resize(self, *, min_size: int | Unset = UNSET, max_size: int | Unset = UNSET) -> Change:
        """Change the sizes of the running pool; short for `apply`."""
        sizes = {"min_size": min_size, "max_size": max_size}
        given = {name: size for name, size in sizes.items() if not isinstance(size, Unset)}
        return self.apply(self.settings.changed(**given))

    def _retune(self) -> None:
        """Cache what the hot path compares with."""
        settings = self.settings
        self._trusted_s = trusted_s(settings)
        for slot in self._slots():
            tune(slot, settings)
        self._refresh_plain()

    def _refresh_plain(self) -> None:
        """May leases take the short way? Only while each of them changes nothing but its own connection."""
        plain = (
            self.state is PoolState.OPEN
            and not self._announcer.is_watched
            and not self._ledger.has_company
            and self._heir is None
            and self._opener.breaker.state is BreakerState.CLOSED
            and self.settings.max_idle is None
            and not self._ledger.surplus
        )
        home = self._loop if plain and self._loop is not None else NOWHERE
        if self._ledger.leases_per_connection == 1:
            self._home = home
        else:
            self._commons = home

    def _attend(self) -> None:
        """Somebody wants to know of every lease, or nobody any more: who listens, counts or looks for leaks.

        What was asked for before goes the long way, which tells, counts and forgets.
        """
        settings = self.settings
        self._is_noted = settings.max_uses is not None or settings.leak_detection_threshold is not None
        self._is_attended = self._is_noted or self._announcer.is_heard
        if self._is_attended:
            self._acquire_class, self._lease_class = AttendedAcquire, AttendedLease
        elif settings.max_leases_per_connection > 1:
            self._acquire_class, self._lease_class = SharingAcquire, SharingLease
        else:
            self._acquire_class, self._lease_class = Acquire, Lease
        for slot in self._slots():
            if slot.leases:
                slot.close_short_way()

    # -- the pump -------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Do what the books ask for. Called after every change of them."""
        if self.state in _OPENS and (not self._ledger.is_used_up or self._opener.breaker.is_open):
            self._serve()
        if self._allowance is not None:
            self._keeper.shed()
            if self.state not in _OPENS:
                self._allowance.no_longer_wants(self)

    def _serve(self) -> None:
        """Serve who can be served, and start what that needs."""
        ledger = self._ledger
        now = self._now()
        if self.state is PoolState.OPEN and ledger.waiters.live:
            self._opener.fail_waiters_if_cut_off(now)
            while (waiter := ledger.waiters.first()) is not None and (
                slot := self._lender.find(now)
            ) is not None:
                self._lender.hand(waiter, slot, now)
            missing = ledger.waiters.live - ledger.opening - self._tender.prospects(now)
            for slot in list(self._idle)[::-1]:
                if missing <= 0 or self._tender.pinging >= self.settings.max_connecting:
                    break
                self._tender.ping(slot)
                missing -= 1
            if self._tender.prospects(now):
                self._hedge_soon()
        self._opener.pump(now)

    def _hedge_soon(self) -> None:
        """A borrower relies on a ping or reset under way: look again when that has taken too long."""
        if self._hedge is not None:
            self._hedge.set(self._now() + HEDGE_S)

    def _wake(self) -> None:
        """A timer says that something may be due."""
        self._pump()
        self._announcer.settle()

    def _place_is_free(self) -> None:
        """The shared allowance has a place for this pool."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon(self._wake, context=Context())

    def _please_shed(self) -> None:
        """Another pool on the shared allowance needs a place."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon(self._shed, context=Context())

    def _shed(self) -> None:
        # Not the whole pump: two pools that want a place would ask each other for ever.
        self._keeper.shed()
        self._announcer.settle()

    def _company_changed(self) -> None:
        """Another pool has joined the shared allowance, or the last other one has left."""
        was_alone = not self._ledger.has_company
        self._ledger.note_company()
        self._refresh_plain()
        if was_alone and self._ledger.has_company:
            self._place_is_free()  # not that there is one: what this pool wants has to be told anew

    def _bequeath(self, heir: ConnectionPool[Any]) -> None:
        """End in favour of another pool: who waits moves there, who still asks here is served there.

        Leases that are out come back to this pool. It is closing from now on;
        `close()` waits for the end of that. Paused or draining, the heir is so too.

        Raises:
            WrongLoop: this pool or `heir` belongs to another event loop; nothing has changed.
            PoolClosed: this pool is closed already.
            ValueError: `heir` is this pool, or has it for an heir: who asks would be sent round and round.
        """
        if heir._last_heir() is self:
            raise ValueError("a pool cannot be its own heir")
        self._refuse_if_closed()
        if self.state is PoolState.NEW:
            # Nobody waits, nothing is open: whoever comes will be the heir's first.
            self._heir = heir
            self._life.end_unused()
            return
        self._enter()
        heir._enter()
        if self.state in (PoolState.PAUSED, PoolState.DRAINING) and heir.state is PoolState.OPEN:
            heir._pause_mode = self._pause_mode
            heir._enter_state(self.state)
        self._heir = heir
        self._refresh_plain()
        self._hand_over_waiters(heir)
        self._life.begin_to_close()

    def _owns(self, conn: Any) -> bool:
        """True while `conn` is one of this pool's connections."""
        slot = self._ledger.by_id.get(id(conn))
        return slot is not None and slot.conn is conn

    @property
    def _is_owed(self) -> bool:
        """True while connections are out, those that were cut under their borrowers included."""
        return any(slot.leases for slot in self._ledger.by_id.values())

    def _last_heir(self) -> ConnectionPool[Any]:
        """The pool that lends in this one's stead; itself while it has no heir."""
        pool: ConnectionPool[Any] = self
        while pool._heir is not None:
            pool = pool._heir
        return pool

    def _hand_over_waiters(self, heir: ConnectionPool[Any]) -> None:
        """Move everybody who waits to another pool, order and deadline kept (a new version takes over)."""
        self._waiting.hand_over(heir)

    # -- watchers and listeners -----------------------------------------------------------------

    def add_listener(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every event from now on; returns a function that ends this."""
        given: object = listener
        if not callable(given) or inspect.iscoroutinefunction(given):
            raise TypeError("a listener must be a plain function: it is called, not awaited")
        return self._announcer.add(listener)

    def _enter_state(self, state: PoolState) -> None:
        if state is not self.state:
            if state not in LEGAL[self.state]:
                raise InvariantBroken(f"pool {self.name!r}: {self.state.value} -> {state.value}")
            self.state = state
            self._announcer.tell(EventKind.CHANGED, reason="state", detail=state.value)
            if self._allowance is not None and state not in _OPENS:
                self._allowance.no_longer_wants(self)
        self._refresh_plain()

    def _refuse_if_closed(self) -> None:
        if self.state in (PoolState.CLOSING, PoolState.CLOSED):
            raise self._closed_error(self.state.value)

    def _slots(self) -> list[Slot]:
        return list(self._ledger.slots.values())

    def _closed_error(self, word: str) -> PoolClosed:
        hint = "call resume() to reopen it" if word == "paused" else "make a new pool"
        retry_after = 1.0 if word != "closed" else None
        return PoolClosed(
            self.name, why=f"the pool is {word}; {hint}.", status=self.status(), retry_after=retry_after
        )

    # -- is the backend there? ------------------------------------------------------------------

    async def check(self, timeout: float = 5.0) -> PoolCheck:
        """Is the backend there? Recent proof of life, else one ping, else one connect; never queues.

        Args:
            timeout: most seconds it takes.
        """
        return await check(self, timeout)
