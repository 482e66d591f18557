"""What an auditor remembers from one step to the next: of a pool, of a backend, of a shared allowance.

Nothing here judges; what must hold is in `guarantees`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from millpond._core.retirement import reason_to_retire
from millpond._core.slot import Slot, SlotState
from millpond._core.waiters import Waiter, WaiterState
from millpond.events import CloseReason
from millpond.settings import PoolSettings
from millpond.status import BreakerState, PoolState
from millpond.testing.driver import Ending, ScriptedBackend, ScriptedDriver, Verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from millpond._core.allowance import Allowance
    from millpond._core.lease import Hold
    from millpond._core.ledger import Ledger
    from millpond._core.pool import ConnectionPool
    from millpond.testing.driver import ScriptedConnection

HEDGE_S: Final = 0.05
"""How long (seconds) a waiter may rely on a ping or reset, and how long a stalled loop is forgiven."""
GRACE_S: Final = 1.0
"""How long (seconds) a cancelled driver call may take to end before it is abandoned."""
SWEEP_S: Final = 5.0
"""Most seconds between two sweeps of a pool's upkeep."""
SLACK_S: Final = 0.001
"""What all deadlines get on top, seconds: for rounding."""


class Facts(NamedTuple):
    """The numbers of a pool that tell whether a step changed anything."""

    state: PoolState
    settings: PoolSettings
    max_size: int
    generation: int
    lent: int
    handed: int
    opened: int
    queued: int
    timed_out: int
    waiting: int
    opening: int
    tending: int
    closing: int
    idle: int
    doomed: int
    leases: int
    total: int
    condemned: int
    newest: int


class Stay(NamedTuple):
    """Since when a slot is in its state."""

    state: SlotState
    proved_at: float
    since: float


class PoolWatch:
    """What an auditor remembers of one pool.

    Attributes:
        now: seconds, at the last look.
        was, facts: the numbers before and after the last step that changed something.
        before, slots: the slots by number, likewise.
        queue_before, queue: those who waited, in order, likewise.
        new_leases: what the step lent: slots and holds.
        numbered_before, numbered: the highest number of a lease seen before it, and after it.
        gone: the slots that left the books in the step.
        joined: the slots that it began.
        doomed_before: numbers of the slots that were never to be lent again before it.
        failed_over: the slots whose connection the driver found demoted in it.
        failures_in_row: failed attempts since the last success; those that failed together count once.
        failures_before, failures: failed attempts ever, before and after the step.
        last_failure_at: when the latest attempt failed.
        attempt_due_at: when the next attempt has to be under way, after a failure.
        breaker: what it was when last looked at.
        failures_when_well: how many attempts had failed when the breaker was last seen not open.
        allowed, allowed_opening: the bounds of the size and of attempts at once; after a shrink they fall.
        stays: since when each slot is in its state, by number.
        born: the generation in which each slot began, by number.
        free_uses: how often each connection was borrowed while uses were not limited, by number of its slot.
        pinging_before, pinging: pings under way, before and after the step.
        spare: of the slots that are being closed, whether there were more than `min_size` then, by number.
        idled_before, idled: connections closed for being idle, ever, before and after the step.
        served_before, served: holds that were lent something at this instant, by id, before and after the
            step; who finds its connection dead may rejoin in front.
        state_since, tuned_at: since when the pool is in its state, and has its settings.
        saturated_at: when as many pings as may be were last under way.
        longest: most seconds that a driver call may last, by the state of its slot.
        clears: calls of `clear()` that the program announced and no generation has accounted for.
        is_heir: waiters of another pool were handed to it.
    """

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self.pool = pool
        driver = pool.driver
        self.backend = driver.backend if isinstance(driver, ScriptedDriver) else None
        self.now = 0.0
        self.was = self.facts = self._read()
        self.before: dict[int, Slot] = {}
        self.slots: dict[int, Slot] = dict(self.ledger.slots)
        self.queue_before: Sequence[Waiter] = ()
        self.queue: Sequence[Waiter] = tuple(self.ledger.waiters)
        self.leases: dict[int, Hold[Any]] = {}
        self.numbered_before = self.numbered = 0
        self.new_leases: list[tuple[Slot, Hold[Any]]] = []
        self.gone: list[Slot] = []
        self.joined: list[Slot] = []
        self.doomed_before: set[int] = set()
        self._doomed: set[int] = set()
        self.failed_over: list[Slot] = []
        self.failures_in_row = 0
        self.failures_before = self.failures = pool._opener.failures
        self._setbacks = pool._opener.setbacks
        self.last_failure_at = self.attempt_due_at = -math.inf
        self.breaker = pool._opener.breaker.state
        self.failures_when_well = self.failures
        self.allowed = max(self.ledger.max_size, self.ledger.total)
        self.allowed_opening = max(pool.settings.max_connecting, self.ledger.opening)
        self.stays: dict[int, Stay] = {}
        self.born = {number: slot.generation for number, slot in self.slots.items()}
        self.free_uses: dict[int, int] = {}
        self._note_free_uses()
        self.pinging_before = self.pinging = pool._tender.pinging
        self.spare: dict[int, bool] = {}
        self.idled_before = self.idled = self.ledger.closed[CloseReason.IDLE]
        self.served_before: dict[int, object] = {}
        self.served: dict[int, object] = {}
        self.state_since = self.tuned_at = self.saturated_at = 0.0
        self.longest: dict[SlotState, float] = {}
        self._note_settings()
        self.clears = 0
        self.is_heir = False

    @property
    def ledger(self) -> Ledger:
        """The books."""
        return self.pool._ledger

    # -- looking ------------------------------------------------------------------------------------

    def _read(self) -> Facts:
        pool = self.pool
        ledger = pool._ledger
        slots = ledger.slots
        leases = condemned = 0
        for slot in slots.values():
            leases += len(slot.leases)
            if slot.doom is not None:
                condemned += 1
        return Facts(
            pool.state, pool.settings, ledger.max_size, ledger.generation, ledger.lent, ledger.handed,
            ledger.opened, ledger.queued, ledger.timed_out, ledger.waiters.live, ledger.opening,
            ledger.tending, ledger.closing, len(ledger.idle), len(ledger.doomed_idle), leases, len(slots),
            condemned, next(reversed(slots), 0),
        )  # fmt: skip

    def look(self, now: float, failovers: Sequence[ScriptedConnection] = ()) -> bool:
        """Notice what the last step changed; False: nothing.

        Args:
            now: seconds.
            failovers: the connections that the driver found demoted in it.
        """
        facts = self._read()
        if facts == self.facts and not failovers:
            return False
        self.now = now
        self.was, self.facts = self.facts, facts
        if facts.state is not self.was.state:
            self.state_since = now
        if facts.settings is not self.was.settings:
            self.tuned_at = now
            self._note_settings()
        if max(facts.tending, self.was.tending) >= facts.settings.max_connecting:
            self.saturated_at = now
        self._note_slots(now)
        known = (*self.before.values(), *self.joined)
        self.failed_over = [slot for slot in known if slot.conn in failovers] if failovers else []
        self._note_queue()
        self._note_attempts(now)
        self._note_bounds()
        return True

    def _note_settings(self) -> None:
        settings, longest = self.facts.settings, self.longest
        tending = max(settings.health_check_timeout, settings.reset_timeout)
        for state, seconds in (
            (SlotState.OPENING, settings.connect_timeout),
            (SlotState.TENDING, tending),
            (SlotState.CLOSING, settings.disconnect_timeout),
        ):
            longest[state] = max(seconds, longest.get(state, 0.0))

    def _note_slots(self, now: float) -> None:
        before, slots = self.slots, dict(self.ledger.slots)
        self.before, self.slots = before, slots
        self.gone = [slot for number, slot in before.items() if number not in slots]
        self.joined = [slot for number, slot in slots.items() if number not in before]
        self.born = {number: self.born.get(number, slot.generation) for number, slot in slots.items()}
        self.pinging_before, self.pinging = self.pinging, self.pool._tender.pinging
        self._note_free_uses()
        self._note_closings()
        leases_before = self.leases
        self.leases = {}
        self.new_leases = []
        self.doomed_before = self._doomed
        self._doomed = {number for number, slot in slots.items() if slot.doom is not None}
        stays_before, self.stays = self.stays, {}
        for number, slot in slots.items():
            for hold in slot.leases:
                self.leases[hold.number] = hold
                if leases_before.get(hold.number) is not hold:
                    self.new_leases.append((slot, hold))
            stay = stays_before.get(number)
            if stay is None or stay.state is not slot.state or stay.proved_at != slot.proved_at:
                stay = Stay(slot.state, slot.proved_at, now)
            self.stays[number] = stay
        self.numbered_before, self.numbered = self.numbered, max(self.numbered, *self.leases, 0)

    def _note_free_uses(self) -> None:
        if self.backend is None:
            return
        is_limited = None not in (self.was.settings.max_uses, self.facts.settings.max_uses)
        self.free_uses = {
            number: self.free_uses.get(number, 0) if is_limited else slot.conn.uses
            for number, slot in self.slots.items()
            if slot.conn is not None
        }

    def _note_closings(self) -> None:
        was, facts = self.was, self.facts
        has_spare = was.total - was.closing > min(was.settings.min_size, facts.settings.min_size)
        self.idled_before, self.idled = self.idled, self.ledger.closed[CloseReason.IDLE]
        gone = {slot.number: self.spare.get(slot.number, True) for slot in self.gone}
        closing = {
            number: self.spare.get(number, has_spare)
            for number, slot in self.slots.items()
            if slot.state is SlotState.CLOSING
        }
        self.spare = gone | closing

    def _note_queue(self) -> None:
        self.queue_before, self.queue = self.queue, tuple(self.ledger.waiters)
        self.served_before = dict(self.served)
        for waiter in self.queue_before:
            if waiter.state is WaiterState.SERVED:
                self.served[id(waiter.hold)] = waiter.hold
        for _, hold in self.new_leases:
            self.served[id(hold)] = hold

    def _note_attempts(self, now: float) -> None:
        was, facts = self.was, self.facts
        self.failures_before = self.failures
        if facts.state is PoolState.NEW or self._begins_anew():
            self.failures_in_row = 0
        if (was.opening, was.newest, was.opened, was.generation, was.timed_out, was.closing) == (
            facts.opening, facts.newest, facts.opened, facts.generation, facts.timed_out, facts.closing
        ):  # fmt: skip
            return
        if facts.opened > was.opened:
            self.failures_in_row = 0
        self.failures = self.pool._opener.failures
        if self.failures > self.failures_before:
            setbacks = self.pool._opener.setbacks
            # Whatever the pool makes of those that were under way together: the first in a row counts.
            self.failures_in_row = max(1, self.failures_in_row + setbacks - self._setbacks)
            self._setbacks = setbacks
            self.last_failure_at = now
            self.attempt_due_at = now + self.longest_pause()
        self.look_at_breaker()

    def _begins_anew(self) -> bool:
        """An initialize that failed has told of its failures: they are forgotten, perhaps in passing."""
        return self.facts.settings.eager_init and not self.pool._opener.is_failing

    def look_at_breaker(self) -> BreakerState:
        """What the circuit breaker is now; remembered."""
        self.breaker = self.pool._opener.breaker.state
        if self.breaker is not BreakerState.OPEN:
            self.failures_when_well = self.failures
        return self.breaker

    def _note_bounds(self) -> None:
        was, facts = self.was, self.facts
        self.allowed = max(facts.max_size, min(self.allowed, max(was.total, was.max_size)))
        self.allowed_opening = max(
            facts.settings.max_connecting,
            min(self.allowed_opening, max(was.opening, was.settings.max_connecting)),
        )

    def rested(self) -> None:
        """Everybody who was handed something at this instant has had a turn."""
        self.served.clear()

    # -- questions ------------------------------------------------------------------------------------

    def longest_pause(self) -> float:
        """The ceiling of the pause after the latest failure, seconds."""
        settings = self.facts.settings
        first = min(settings.retry_delay, settings.recovery_timeout)
        return min(settings.recovery_timeout, first * 2.0 ** min(60, max(0, self.failures_in_row - 1)))

    def still_waits(self, waiter: Waiter) -> bool:
        """It waits in this pool's queue, and was not cancelled a moment ago."""
        return waiter.is_waiting and waiter.hold.pool is self.pool

    def was_served(self, waiter: Waiter) -> bool:
        """It was handed a connection of this pool."""
        return waiter.state is WaiterState.SERVED and waiter.hold.pool is self.pool

    def who_waits(self) -> int:
        """How many borrowers wait, those not counted who were cancelled a moment ago."""
        return sum(1 for waiter in self.queue if waiter.is_waiting) if self.queue else 0

    def lendable(self, slot: Slot) -> bool:
        """True when nothing speaks against lending it, but perhaps its last proof of life is too old."""
        return not self.pool.driver.is_closed(slot.conn) and self.not_retired(slot)

    def not_retired(self, slot: Slot) -> bool:
        """True while neither its age, its uses, its generation nor a verdict speaks against it."""
        return reason_to_retire(slot, self.now, self.ledger.generation, self.pool.settings) is None

    def young_tendings(self) -> int:
        """Pings and resets that a waiter may still rely on."""
        if not self.facts.tending:
            return 0
        oldest = self.now - 2 * HEDGE_S - SLACK_S
        return sum(
            1 for stay in self.stays.values() if stay.state is SlotState.TENDING and stay.since >= oldest
        )

    def attempt_is_due(self) -> bool:
        """True when nothing forbids another attempt to connect."""
        if self.pool.settings.max_connecting <= self.ledger.opening:
            return False
        if self.failures_in_row or self.look_at_breaker() is not BreakerState.CLOSED:
            return not self.ledger.opening and self.now > self.attempt_due_at + SLACK_S
        return True

    def wanted_for_waiters(self) -> int:
        """How many more connections those who wait could use, limits aside."""
        waiting = self.who_waits() - self.young_tendings()
        return math.ceil(max(0, waiting) / self.ledger.leases_per_connection) - self.ledger.opening

    def told(self) -> str:
        """The pool in a few words, for messages."""
        slots = ", ".join(f"{slot.number} {slot.state.value}" for slot in self.ledger.slots.values())
        return f"{self.pool!r} slots [{slots}]"


class BackendWatch:
    """What an auditor remembers of one backend and the pools on it.

    Attributes:
        detached: connections that a borrower took out of a pool, open still.
        faults: how many have been told.
    """

    def __init__(self, backend: ScriptedBackend) -> None:
        self.backend = backend
        self.pools: list[PoolWatch] = []
        self.detached: list[ScriptedConnection] = []
        self.faults = len(backend.faults)
        self._failovers = len(backend.failovers)
        self._detachments: dict[int, int] = {}
        self._sessions = -1

    def has_changed(self) -> bool:
        """True when connections or attempts have come or gone since this was last asked."""
        now = self.backend.held_count + 1000 * self.backend.active[Verb.CONNECT]
        before, self._sessions = self._sessions, now
        return now != before

    @property
    def detached_ever(self) -> int:
        """How many connections borrowers took out of their pools."""
        return sum(watch.ledger.closed[CloseReason.DETACHED] for watch in self.pools)

    def new_failovers(self) -> Sequence[ScriptedConnection]:
        """The connections that the driver found demoted since this was last asked."""
        known = self._failovers
        if known == len(self.backend.failovers):
            return ()
        self._failovers = len(self.backend.failovers)
        return self.backend.failovers[known:]

    def note_detached(self, watch: PoolWatch) -> None:
        """Remember which of the connections that just left the books are their borrower's own now."""
        count = watch.ledger.closed[CloseReason.DETACHED]
        new = count - self._detachments.get(id(watch), 0)
        self._detachments[id(watch)] = count
        if new:
            self.detached += [
                slot.conn for slot in watch.gone if slot.conn is not None and slot.conn.ending is Ending.OPEN
            ][:new]
        self.detached = [conn for conn in self.detached if conn.ending is Ending.OPEN]

    @property
    def abandoned(self) -> int:
        """Driver calls that outlived their time."""
        return sum(watch.pool.status().abandoned for watch in self.pools)

    @property
    def sessions(self) -> int:
        """Connections, and attempts to connect, that the pools have to answer for."""
        backend = self.backend
        if self.detached:
            self.detached = [conn for conn in self.detached if conn.ending is Ending.OPEN]
        return backend.held_count - len(self.detached) + backend.active[Verb.CONNECT]


class AllowanceWatch:
    """What an auditor remembers of one shared allowance and the pools on it.

    Attributes:
        allowed: the bound; after the limit was lowered it falls.
    """

    def __init__(self, allowance: Allowance) -> None:
        self.allowance = allowance
        self.pools: list[PoolWatch] = []
        self.limit = allowance.limit
        self.used = allowance.used
        self.allowed = max(self.limit, self.used)

    def look(self) -> None:
        """Notice what the last step changed."""
        limit, used = self.limit, self.used
        self.limit, self.used = self.allowance.limit, self.allowance.used
        self.allowed = max(self.limit, min(self.allowed, max(used, limit)))
