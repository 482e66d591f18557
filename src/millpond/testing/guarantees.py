"""What a pool promises, as expressions over its books and its backend; the auditor evaluates them.

Each check belongs to one of the numbered guarantees in docs/design and answers
True while it holds. `AFTER_A_STEP` holds after every step of the loop that
changed something; `AT_REST` whenever nothing more can happen at this instant.
Checks marked strict need a program that tells what it does: see `Auditor`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from millpond._core.retirement import fresh_until
from millpond._core.slot import SlotState
from millpond.status import BreakerState, PoolState
from millpond.testing.driver import Ending, FaultKind, Verb
from millpond.testing.watch import GRACE_S, HEDGE_S, SLACK_S, SWEEP_S

if TYPE_CHECKING:
    from millpond._core.slot import Slot
    from millpond.testing.audit import Auditor
    from millpond.testing.watch import AllowanceWatch, BackendWatch, PoolWatch

W = TypeVar("W")

TITLES: Final = {
    1: "one borrower", 2: "capacity", 3: "no lost wake-up", 4: "fair", 5: "on time",
    6: "cancellation loses nothing", 7: "clean or not at all", 8: "broken ones go",
    9: "the backend is not hammered", 10: "a clean end", 11: "the books balance", 15: "min_size is kept",
}  # fmt: skip
"""The guarantees that can be checked in a simulation, by number."""

FAULTS: Final = {
    FaultKind.TWO_BORROWERS: 1, FaultKind.NOT_BORROWED: 1, FaultKind.TENDED_WHILE_LENT: 1,
    FaultKind.FOREIGN: 1, FaultKind.WRONG_ANSWER: 7, FaultKind.LENT_DIRTY: 7,
}  # fmt: skip
"""Which guarantee a fault that the backend recorded breaks; the others: 8."""

STATES: Final = {
    "connect": SlotState.OPENING, "ping": SlotState.TENDING, "reset": SlotState.TENDING,
    "close": SlotState.CLOSING,
}  # fmt: skip
"""In which state a slot is while the driver's verb runs."""

_LENDING: Final = (PoolState.NEW, PoolState.OPEN)
_FILLING: Final = (PoolState.OPEN, PoolState.PAUSED)
_ENDING: Final = (PoolState.CLOSING, PoolState.CLOSED)
_PARKED_OR_LENT: Final = (SlotState.IDLE, SlotState.BUSY, SlotState.TENDING)


@dataclass(frozen=True, slots=True)
class Check(Generic[W]):
    """One expression that must hold.

    Attributes:
        guarantee: its number.
        sentence: what it says.
        holds: the expression.
        strict: only a program that tells what it does can be held to it.
    """

    guarantee: int
    sentence: str
    holds: Callable[[W, Auditor], bool]
    strict: bool = False


POOL_AFTER_A_STEP: Final[list[Check[PoolWatch]]] = []
POOL_AT_REST: Final[list[Check[PoolWatch]]] = []
BACKEND_AFTER_A_STEP: Final[list[Check[BackendWatch]]] = []
BACKEND_AT_REST: Final[list[Check[BackendWatch]]] = []
ALLOWANCE_AFTER_A_STEP: Final[list[Check[AllowanceWatch]]] = []


def _check(
    where: list[Check[W]], guarantee: int, *, strict: bool = False
) -> Callable[[Callable[[W, Auditor], bool]], Callable[[W, Auditor], bool]]:
    """Enter a function as a check; the first line of its docstring is the sentence."""

    def enter(holds: Callable[[W, Auditor], bool]) -> Callable[[W, Auditor], bool]:
        sentence = (holds.__doc__ or "").partition("\n")[0].rstrip(".")
        where.append(Check(guarantee, sentence, holds, strict))
        return holds

    return enter


# -- 1: one borrower --------------------------------------------------------------------------------


@_check(POOL_AFTER_A_STEP, 1)
def _leases_fit(watch: PoolWatch, auditor: Auditor) -> bool:
    """No connection has more leases than it serves, and none but a busy one has any."""
    most = watch.ledger.leases_per_connection
    return all(
        1 <= len(slot.leases) <= most if slot.state is SlotState.BUSY else not slot.leases
        for slot in watch.slots.values()
    )


@_check(POOL_AFTER_A_STEP, 1)
def _lease_is_on_one_connection(watch: PoolWatch, auditor: Auditor) -> bool:
    """A lease is of one connection, and says so itself."""
    return len(watch.leases) == watch.facts.leases and all(
        hold.slot is slot for slot in watch.slots.values() for hold in slot.leases
    )


@_check(POOL_AFTER_A_STEP, 1)
def _lease_ends_once(watch: PoolWatch, auditor: Auditor) -> bool:
    """A lease that has ended does not come back."""
    return all(hold.number > watch.numbered_before for _, hold in watch.new_leases)


@_check(POOL_AFTER_A_STEP, 1)
def _users_have_leases(watch: PoolWatch, auditor: Auditor) -> bool:
    """Whoever uses a connection of the pool has a lease of it."""
    return watch.backend is None or all(
        len(slot.conn.borrowers) <= len(slot.leases)
        for slot in watch.slots.values()
        if slot.state in _PARKED_OR_LENT
    )


# -- 2: capacity ------------------------------------------------------------------------------------


@_check(POOL_AFTER_A_STEP, 2)
def _size_is_bounded(watch: PoolWatch, auditor: Auditor) -> bool:
    """A pool has at most max_size places taken; after a shrink what it had, and ever less."""
    return watch.facts.total <= watch.allowed


@_check(POOL_AT_REST, 2)
def _what_is_too_much_goes(watch: PoolWatch, auditor: Auditor) -> bool:
    """While a pool is larger than max_size nothing of it is idle."""
    # Attempts that were told to stop are on their way out: no connection has to go for them.
    leaving = sum(call.aborted for call in watch.pool._openings.values())
    return watch.ledger.surplus <= leaving or not watch.ledger.idle or watch.facts.state in _ENDING


@_check(ALLOWANCE_AFTER_A_STEP, 2)
def _allowance_is_bounded(watch: AllowanceWatch, auditor: Auditor) -> bool:
    """Pools on one allowance have at most its limit of places taken, and it knows which."""
    allowance = watch.allowance
    return watch.used <= watch.allowed and all(
        allowance.held_by(each.pool) == each.facts.total for each in watch.pools
    )


@_check(BACKEND_AFTER_A_STEP, 2)
def _backend_counts_no_more(watch: BackendWatch, auditor: Auditor) -> bool:
    """The backend counts no more sessions and attempts than the books of its pools."""
    booked = sum(each.facts.total for each in watch.pools)
    return watch.sessions <= booked or watch.sessions <= booked + watch.abandoned


# -- 3: no lost wake-up -----------------------------------------------------------------------------


@_check(POOL_AT_REST, 3)
def _nobody_waits_beside_an_idle_one(watch: PoolWatch, auditor: Auditor) -> bool:
    """Nobody waits while a usable connection is idle, or has room for one more lease."""
    if watch.facts.state is not PoolState.OPEN or not watch.who_waits():
        return True
    ledger, now = watch.ledger, watch.now
    fresh = (slot for slot in ledger.idle if now < fresh_until(slot, watch.facts.settings))
    return not any(watch.lendable(slot) for slot in (*fresh, *_roomy(watch)))


def _roomy(watch: PoolWatch) -> list[Slot]:
    most = watch.ledger.leases_per_connection
    return [
        slot
        for slot in watch.slots.values()
        if slot.state is SlotState.BUSY and len(slot.leases) < most and not slot.needs_reset
    ]


@_check(POOL_AT_REST, 3)
def _stale_ones_are_pinged(watch: PoolWatch, auditor: Auditor) -> bool:
    """Nobody waits while an idle connection has only to be pinged and nobody does."""
    if watch.facts.state is not PoolState.OPEN or not watch.ledger.idle:
        return True
    missing = watch.who_waits() - watch.facts.opening - watch.young_tendings()
    return missing <= 0 or watch.facts.tending >= watch.facts.settings.max_connecting


@_check(POOL_AT_REST, 3)
def _free_places_are_used(watch: PoolWatch, auditor: Auditor) -> bool:
    """Nobody waits while a connection could be opened and nothing is under way."""
    if watch.facts.state is not PoolState.OPEN or watch.wanted_for_waiters() <= 0:
        return True
    ledger = watch.ledger
    is_full = ledger.total - len(ledger.doomed_idle) >= ledger.max_size
    if is_full or not watch.attempt_is_due():
        return True
    allowance = ledger.allowance
    return allowance is not None and allowance.free <= 0 and not ledger.doomed_idle


@_check(POOL_AT_REST, 3)
def _others_give_up_what_is_idle(watch: PoolWatch, auditor: Auditor) -> bool:
    """Nobody waits while another pool on the allowance has an idle connection and nobody who waits."""
    ledger, allowance = watch.ledger, watch.ledger.allowance
    if allowance is None or watch.facts.state is not PoolState.OPEN or watch.wanted_for_waiters() <= 0:
        return True
    if allowance.free > 0 or ledger.total >= ledger.max_size or not watch.attempt_is_due():
        return True
    return not any(
        other.facts.state is not PoolState.CLOSED
        and (other.ledger.idle or other.ledger.doomed_idle)
        and not other.ledger.closing
        and not other.facts.waiting
        for other in auditor.sharing(watch)
    )


# -- 4: fair ----------------------------------------------------------------------------------------


@_check(POOL_AFTER_A_STEP, 4)
def _first_come_first_served(watch: PoolWatch, auditor: Auditor) -> bool:
    """No lease begins while one who came earlier still waits."""
    waiting = [place for place, waiter in enumerate(watch.queue_before) if watch.still_waits(waiter)]
    if not waiting or not watch.new_leases:
        return True
    places = {id(waiter.hold): place for place, waiter in enumerate(watch.queue_before)}
    return all(
        places.get(id(hold), len(places)) < waiting[0] or _came_back(watch, auditor, hold)
        for _, hold in watch.new_leases
    )


def _came_back(watch: PoolWatch, auditor: Auditor, hold: object) -> bool:
    """It was served at this instant, here or by a pool that ended since, and found its connection dead."""
    return any(id(hold) in each.served_before for each in (watch, *auditor.bequeathed_to(watch)))


@_check(POOL_AFTER_A_STEP, 4)
def _newcomers_do_not_overtake(watch: PoolWatch, auditor: Auditor) -> bool:
    """Nobody is served in passing while others wait."""
    at_once = (watch.facts.lent - watch.facts.handed) - (watch.was.lent - watch.was.handed)
    return at_once == 0 or not any(watch.still_waits(waiter) for waiter in watch.queue_before)


@_check(POOL_AFTER_A_STEP, 4)
def _queue_keeps_its_order(watch: PoolWatch, auditor: Auditor) -> bool:
    """Those who wait keep their order, newcomers queue behind, who moved here stands in front."""
    if watch.queue == watch.queue_before:
        return True
    old = {id(waiter) for waiter in watch.queue_before}
    kept = [place for place, waiter in enumerate(watch.queue) if id(waiter) in old]
    if [watch.queue[place] for place in kept] != [each for each in watch.queue_before if each in watch.queue]:
        return False
    return not kept or all(
        place < kept[0]
        if auditor.moved(waiter, watch)
        else place > kept[-1] or _came_back(watch, auditor, waiter.hold)
        for place, waiter in enumerate(watch.queue)
        if id(waiter) not in old
    )


@_check(POOL_AFTER_A_STEP, 4)
def _who_moves_keeps_the_order(watch: PoolWatch, auditor: Auditor) -> bool:
    """Those who are handed over to another pool stand there in the order that they had."""
    if watch.queue == watch.queue_before:
        return True
    old = {id(waiter) for waiter in watch.queue_before}
    places = {
        id(waiter): place
        for place, waiter in enumerate(watch.queue)
        if id(waiter) not in old and auditor.moved(waiter, watch)
    }
    lines = auditor.other_queues(watch) if places else ()
    found = [[places[id(waiter)] for waiter in line if id(waiter) in places] for line in lines]
    return all(line == sorted(line) for line in found)


@_check(POOL_AFTER_A_STEP, 4)
def _queue_is_by_arrival(watch: PoolWatch, auditor: Auditor) -> bool:
    """The queue is in the order of arrival, unless it was handed over from another pool."""
    if len(watch.queue) < 2 or watch.is_heir:
        return True
    return all(
        one.queued_at <= next_.queued_at for one, next_ in zip(watch.queue, watch.queue[1:], strict=False)
    )


# -- 5: on time -------------------------------------------------------------------------------------


@_check(POOL_AT_REST, 5)
def _nobody_waits_past_the_deadline(watch: PoolWatch, auditor: Auditor) -> bool:
    """Nobody waits past the deadline; after a stalled loop they get a moment."""
    moments = 2 if watch.is_heir else 1  # who is handed over meanwhile gets another
    if watch.now <= auditor.stalled_until + moments * HEDGE_S + SLACK_S:
        return True
    return all(
        waiter.deadline is None or watch.now <= waiter.deadline + SLACK_S
        for waiter in watch.queue
        if waiter.is_waiting
    )


@_check(POOL_AFTER_A_STEP, 5)
def _nobody_is_served_too_late(watch: PoolWatch, auditor: Auditor) -> bool:
    """Nobody is served after the deadline."""
    if watch.facts.handed == watch.was.handed or watch.now <= auditor.stalled_until + 2 * HEDGE_S + SLACK_S:
        return True
    return not any(
        waiter.deadline is not None and watch.now > waiter.deadline + SLACK_S and watch.was_served(waiter)
        for waiter in watch.queue_before
    )


@_check(POOL_AT_REST, 5)
def _driver_calls_are_told_to_end(watch: PoolWatch, auditor: Auditor) -> bool:
    """A driver call that has had its time has been cancelled."""
    return all(
        call.timed_out
        or call.aborted
        or watch.now
        <= max(call.started_at, auditor.stalled_until) + watch.longest[STATES[call.verb]] + SLACK_S
        for call in watch.pool._calls
    )


# -- 6: cancellation loses nothing ------------------------------------------------------------------


@_check(POOL_AT_REST, 6)
def _who_gave_up_has_left(watch: PoolWatch, auditor: Auditor) -> bool:
    """Nobody stands in the queue who was cancelled."""
    return all(waiter.is_waiting for waiter in watch.ledger.waiters)


@_check(POOL_AT_REST, 6, strict=True)
def _leases_have_users(watch: PoolWatch, auditor: Auditor) -> bool:
    """Every lease has a borrower who uses its connection."""
    return all(len(slot.conn.borrowers) == len(slot.leases) for slot in watch.slots.values() if slot.leases)


@_check(POOL_AT_REST, 6, strict=True)
def _borrowers_live(watch: PoolWatch, auditor: Auditor) -> bool:
    """No lease outlives the task that took it, unless it was leaked on purpose."""
    return all(
        hold.task is None or not hold.task.done() or hold.task in auditor.leakers
        for hold in watch.leases.values()
    )


@_check(POOL_AT_REST, 6)
def _driver_calls_end(watch: PoolWatch, auditor: Auditor) -> bool:
    """No place is taken for longer than its driver call may last."""
    longest = watch.longest
    return all(
        stay.state not in longest
        or watch.now <= max(stay.since, auditor.stalled_until) + longest[stay.state] + GRACE_S + SLACK_S
        for stay in watch.stays.values()
    )


# -- 7: clean or not at all -------------------------------------------------------------------------


@_check(POOL_AFTER_A_STEP, 7)
def _idle_ones_are_clean(watch: PoolWatch, auditor: Auditor) -> bool:
    """What is idle holds nothing of its last borrower."""
    backend = watch.backend
    return backend is None or not any(
        slot.needs_reset or slot.conn.needs_reset or (slot.conn.dirt and backend.dirty_for(slot.conn))
        for slot in watch.ledger.idle
    )


# -- 8: broken ones go ------------------------------------------------------------------------------


@_check(POOL_AFTER_A_STEP, 8)
def _only_sound_ones_are_lent(watch: PoolWatch, auditor: Auditor) -> bool:
    """No lease begins on a connection that is doomed, of an older generation, or known to be dead."""
    return all(
        watch.born.get(slot.number, slot.generation) >= watch.was.generation
        and (slot.doom is None or slot.number not in watch.doomed_before)
        and not _known_dead(watch, slot, auditor.stalled_until)
        for slot, hold in watch.new_leases
    )


def _known_dead(watch: PoolWatch, slot: Slot, stalled_until: float) -> bool:
    """Of one that died while the loop stood still nobody can have known."""
    gone_at = None if watch.backend is None else slot.conn.gone_at
    return gone_at is not None and stalled_until < gone_at < watch.now - SLACK_S


@_check(POOL_AFTER_A_STEP, 8)
def _worn_out_ones_are_not_lent(watch: PoolWatch, auditor: Auditor) -> bool:
    """No lease begins on a connection that was lent max_uses times, or is older than max_lifetime."""
    if not watch.new_leases:
        return True
    both = (watch.was.settings, watch.facts.settings)  # they may have been changed in this very step
    uses = [settings.max_uses for settings in both if settings.max_uses is not None]
    ages = [settings.max_lifetime for settings in both if settings.max_lifetime is not None]
    return all(
        (len(uses) < len(both) or max(slot.uses, _borrowed(watch, slot)) <= max(uses))
        and (len(ages) < len(both) or watch.now <= slot.opened_at + max(ages) + SLACK_S)
        for slot, _ in watch.new_leases
    )


def _borrowed(watch: PoolWatch, slot: Slot) -> int:
    """How often its connection was borrowed since uses are limited, as the backend has counted."""
    return 0 if watch.backend is None else slot.conn.uses - watch.free_uses.get(slot.number, 0)


@_check(POOL_AFTER_A_STEP, 8)
def _condemned_ones_leave(watch: PoolWatch, auditor: Auditor) -> bool:
    """A condemned connection keeps its place only while somebody holds it."""
    return watch.backend is None or not any(
        slot.conn is not None and slot.conn.condemned and not slot.leases for slot in watch.slots.values()
    )


@_check(POOL_AFTER_A_STEP, 8)
def _struck_off_is_ended(watch: PoolWatch, auditor: Auditor) -> bool:
    """What leaves the books has been closed or terminated, or is its borrower's own."""
    if watch.backend is None:
        return True
    return all(
        slot.conn is None or slot.conn.ending is not Ending.OPEN or auditor.is_detached(slot.conn)
        for slot in watch.gone
    )


@_check(POOL_AT_REST, 8)
def _booked_is_open(watch: PoolWatch, auditor: Auditor) -> bool:
    """What stands in the books has been neither closed nor terminated."""
    return watch.backend is None or all(
        slot.conn.ending is Ending.OPEN for slot in watch.slots.values() if slot.state in _PARKED_OR_LENT
    )


@_check(POOL_AFTER_A_STEP, 8)
def _failover_counts_once(watch: PoolWatch, auditor: Auditor) -> bool:
    """DISCARD_ALL raises the generation once; from an older generation not at all."""
    rise = watch.facts.generation - watch.was.generation
    due = _failovers_due(watch)
    if not watch.failed_over and not auditor.is_strict:
        return True
    return due <= rise <= due + watch.clears


def _failovers_due(watch: PoolWatch) -> int:
    return int(any(slot.generation == watch.was.generation for slot in watch.failed_over))


@_check(POOL_AFTER_A_STEP, 8)
def _unfit_fresh_ones_are_failures(watch: PoolWatch, auditor: Auditor) -> bool:
    """A fresh connection found unfit counts as a failed attempt."""
    current = [slot for slot in watch.failed_over if slot.generation == watch.was.generation]
    is_used = any(max(slot.uses, slot.conn.judgements) > 1 for slot in current[:1])
    return not current or is_used or watch.failures > watch.failures_before


# -- 9: the backend is not hammered -----------------------------------------------------------------


@_check(POOL_AFTER_A_STEP, 9)
def _attempts_are_bounded(watch: PoolWatch, auditor: Auditor) -> bool:
    """At most max_connecting attempts are under way."""
    return watch.facts.opening <= watch.allowed_opening


@_check(POOL_AFTER_A_STEP, 9)
def _one_at_a_time_while_failing(watch: PoolWatch, auditor: Auditor) -> bool:
    """After a failure there is one attempt at a time, and not at once."""
    begun = [  # those of an older generation were begun before the step came to the failure
        slot
        for slot in watch.joined
        if slot.state is SlotState.OPENING and slot.generation == watch.facts.generation
    ]
    if not begun or not watch.failures_in_row:
        return True
    paused = watch.now > watch.last_failure_at or watch.attempt_due_at <= watch.last_failure_at
    return watch.facts.opening == 1 and paused


@_check(POOL_AFTER_A_STEP, 9)
def _the_breaker_opens(watch: PoolWatch, auditor: Auditor) -> bool:
    """After failure_threshold failures in a row the breaker is open."""
    # One that was lowered in this very step, by a listener, counts from the next failure on.
    thresholds = [settings.failure_threshold for settings in (watch.was.settings, watch.facts.settings)]
    if watch.failures == watch.failures_before or watch.facts.opened > watch.was.opened:
        return True
    return watch.breaker is BreakerState.OPEN or any(
        threshold is None or watch.failures_in_row < threshold for threshold in thresholds
    )


@_check(POOL_AFTER_A_STEP, 9)
def _overload_is_no_outage(watch: PoolWatch, auditor: Auditor) -> bool:
    """The breaker opens after failed attempts only, never because borrowers ran out of time."""
    return watch.breaker is not BreakerState.OPEN or watch.failures > watch.failures_when_well


@_check(BACKEND_AFTER_A_STEP, 9)
def _backend_counts_attempts(watch: BackendWatch, auditor: Auditor) -> bool:
    """The backend sees no more attempts at once than the books."""
    booked = sum(each.facts.opening for each in watch.pools)
    attempts = watch.backend.active[Verb.CONNECT]
    return attempts <= booked or attempts <= booked + watch.abandoned


# -- 10: a clean end --------------------------------------------------------------------------------


@_check(POOL_AFTER_A_STEP, 10)
def _a_closing_pool_ends(watch: PoolWatch, auditor: Auditor) -> bool:
    """A closing pool has nobody who waits; a closed one has nothing."""
    facts = watch.facts
    if facts.state is PoolState.CLOSED:
        return facts.total == facts.waiting == facts.leases == 0
    return facts.state is not PoolState.CLOSING or not facts.waiting


@_check(POOL_AFTER_A_STEP, 10)
def _only_an_open_pool_lends(watch: PoolWatch, auditor: Auditor) -> bool:
    """A pool that is paused, draining or closing lends nothing."""
    return watch.facts.lent == watch.was.lent or watch.was.state in _LENDING or watch.facts.state in _LENDING


@_check(POOL_AFTER_A_STEP, 10)
def _the_end_is_the_end(watch: PoolWatch, auditor: Auditor) -> bool:
    """A closing pool goes nowhere but to its end."""
    return watch.was.state not in _ENDING or watch.facts.state in _ENDING


# -- 11: the books balance --------------------------------------------------------------------------


@_check(POOL_AFTER_A_STEP, 11)
def _books_balance(watch: PoolWatch, auditor: Auditor) -> bool:
    """The ledger's own audit finds nothing."""
    return not watch.ledger.audit()


@_check(BACKEND_AT_REST, 11)
def _backend_counts_the_same(watch: BackendWatch, auditor: Auditor) -> bool:
    """The backend counts the connections that the books count."""
    connections = sum(1 for each in watch.pools for slot in each.slots.values() if slot.conn is not None)
    opening = sum(each.facts.opening for each in watch.pools)
    held = watch.sessions - watch.backend.active[Verb.CONNECT]
    most = connections + opening
    return connections <= held and (held <= most or held <= most + watch.abandoned)


@_check(BACKEND_AT_REST, 11)
def _opened_are_accounted_for(watch: BackendWatch, auditor: Auditor) -> bool:
    """No connection stands in the books that the backend did not open."""
    return sum(each.facts.opened for each in watch.pools) <= watch.backend.opened


# -- 15: min_size is kept ---------------------------------------------------------------------------


@_check(POOL_AT_REST, 15)
def _floor_is_filled(watch: PoolWatch, auditor: Auditor) -> bool:
    """Below min_size an attempt is under way, or due after a failure, or there is no place."""
    ledger = watch.ledger
    if watch.facts.state not in _FILLING or ledger.live + ledger.opening >= watch.facts.settings.min_size:
        return True
    is_full = ledger.total >= ledger.max_size or (ledger.allowance is not None and ledger.allowance.free <= 0)
    return is_full or not watch.attempt_is_due()


@_check(POOL_AFTER_A_STEP, 15)
def _what_is_lent_is_proved(watch: PoolWatch, auditor: Auditor) -> bool:
    """What was idle is lent within validate_after_idle of its last proof of life, or pinged before."""
    trusted = [settings.validate_after_idle for settings in (watch.was.settings, watch.facts.settings)]
    if None in trusted:
        return True
    oldest = watch.now - max(seconds for seconds in trusted if seconds is not None) - SLACK_S
    new = Counter(slot.number for slot, _ in watch.new_leases)
    # One that somebody shares already was not idle, though it was at this very instant.
    begun = [
        slot
        for slot, _ in watch.new_leases
        if watch.stays[slot.number].since == watch.now and len(slot.leases) == new[slot.number]
    ]
    return all(slot.proved_at >= oldest for slot in begun)


@_check(POOL_AFTER_A_STEP, 15)
def _the_floor_is_not_idle(watch: PoolWatch, auditor: Auditor) -> bool:
    """No connection is closed for being idle when there are no more than min_size."""
    return watch.idled - watch.idled_before <= sum(1 for slot in watch.gone if watch.spare[slot.number])


@_check(POOL_AFTER_A_STEP, 15)
def _pings_are_bounded(watch: PoolWatch, auditor: Auditor) -> bool:
    """At most max_connecting pings are under way, but for those of check()."""
    begun = watch.pinging - watch.pinging_before
    return watch.pinging <= watch.facts.settings.max_connecting or begun <= 1


@_check(POOL_AT_REST, 15)
def _idle_ones_are_proved(watch: PoolWatch, auditor: Auditor) -> bool:
    """No connection stays idle for longer than health_check_interval without a ping."""
    interval = watch.facts.settings.health_check_interval
    if interval is None or watch.facts.state not in _FILLING:
        return True
    if watch.facts.tending >= watch.facts.settings.max_connecting:
        return True  # enough pings are under way
    pause = min(SWEEP_S, interval / 4) + 0.01
    since = max(watch.state_since, watch.tuned_at, watch.saturated_at)
    return all(
        watch.now <= max(slot.proved_at + interval, watch.stays[slot.number].since, since) + pause
        for slot in watch.ledger.idle
        if slot.number in watch.stays
    )


def everything() -> list[tuple[Check[Any], str]]:
    """All checks with when they are asked: for the docs and the auditor's own tests."""
    lists: list[tuple[list[Any], str]] = [
        (POOL_AFTER_A_STEP, "after a step"), (BACKEND_AFTER_A_STEP, "after a step"),
        (ALLOWANCE_AFTER_A_STEP, "after a step"), (POOL_AT_REST, "at rest"), (BACKEND_AT_REST, "at rest"),
    ]  # fmt: skip
    return [(check, when) for checks, when in lists for check in checks]
