"""The books of a pool: places, shelves, counts and what the audit finds. No loop, no pool."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from millpond import Allowance, CloseReason, InvariantBroken
from millpond._core.ledger import Ledger
from millpond._core.slot import Slot, SlotState
from millpond._core.waiters import Waiter, WaiterState


class Member:
    """A pool on an allowance, as far as the ledger is concerned."""

    def _place_is_free(self) -> None: ...

    def _please_shed(self) -> None: ...

    def _company_changed(self) -> None: ...


def books(max_size: int = 3, leases: int = 1, allowance: Allowance | None = None) -> Ledger:
    """Empty books."""
    member = Member()
    if allowance is not None:
        allowance.join(member)
    return Ledger(max_size, leases, allowance, member)


def opening(ledger: Ledger) -> Slot:
    """A place for a connection that is being opened."""
    slot = ledger.begin_opening(0.0, urgent=True)
    assert slot is not None
    return slot


def opened(ledger: Ledger, *, at: float = 0.0) -> Slot:
    """A connection that nobody has taken yet."""
    slot = opening(ledger)
    ledger.admit(slot, object(), at)
    return slot


def idle(ledger: Ledger, *, since: float = 0.0) -> Slot:
    """A parked connection."""
    slot = opened(ledger, at=since)
    ledger.park(slot)
    return slot


def lent(ledger: Ledger, *holds: object) -> Slot:
    """A connection with leases."""
    slot = opened(ledger)
    for hold in holds or (object(),):
        ledger.lend(slot, hold)
    return slot


def in_state(ledger: Ledger, state: SlotState) -> Slot:
    """A slot that has come to be in `state`."""
    match state:
        case SlotState.OPENING:
            return opening(ledger)
        case SlotState.IDLE:
            return idle(ledger)
        case SlotState.BUSY:
            return lent(ledger)
        case _:
            slot = idle(ledger)
            ledger.move(slot, state)
            return slot


def waiter() -> Waiter:
    """One who waits, for ever."""
    future: Any = Future()
    hold: Any = object()
    return Waiter(hold, future, 0.0, None)


LIVING = [state for state in SlotState if state is not SlotState.GONE]


def test_new_books_are_empty_and_balance() -> None:
    """Every count begins at nothing."""
    ledger = books()

    counts = (
        ledger.total, ledger.idle_count, ledger.busy, ledger.live, ledger.surplus, ledger.leases,
        ledger.opening, ledger.tending, ledger.closing, ledger.generation, ledger.opened,
        ledger.closed.total(), ledger.lent, ledger.handed, ledger.unlent, ledger.queued, ledger.timed_out,
        ledger.cancelled, ledger.left_early, ledger.refused, ledger.failed,
    )  # fmt: skip
    assert counts == (0,) * len(counts)
    assert (ledger.slots, ledger.idle, ledger.doomed_idle, ledger.roomy, ledger.by_id) == ({}, [], [], {}, {})
    assert (ledger.max_size, ledger.leases_per_connection) == (3, 1)
    assert ledger.audit() == []


@pytest.mark.parametrize("state", LIVING)
def test_a_place_in_any_state_counts_against_the_limit(state: SlotState) -> None:
    """Two places: one in that state, one more, and no third."""
    ledger = books(max_size=2)
    in_state(ledger, state)

    assert ledger.has_room
    assert opening(ledger).state is SlotState.OPENING
    assert not ledger.has_room
    assert ledger.begin_opening(0.0, urgent=True) is None
    assert ledger.total == 2


@pytest.mark.parametrize(
    ("state", "counts"),
    [
        (SlotState.OPENING, (1, 0, 0, 0, 0, 0)),
        (SlotState.IDLE, (0, 1, 0, 0, 0, 1)),
        (SlotState.BUSY, (0, 0, 1, 0, 0, 1)),
        (SlotState.TENDING, (0, 0, 0, 1, 0, 1)),
        (SlotState.CLOSING, (0, 0, 0, 0, 1, 0)),
    ],
    ids=lambda value: getattr(value, "value", None),
)
def test_each_state_is_counted_by_itself(state: SlotState, counts: tuple[int, ...]) -> None:
    """Opening, idle, busy, tending, closing; and live ones are those that work as far as anybody knows."""
    ledger = books()
    slot = in_state(ledger, state)

    found = (ledger.opening, ledger.idle_count, ledger.busy, ledger.tending, ledger.closing, ledger.live)
    assert found == counts
    assert ledger.audit() == []
    ledger.dismiss(slot, CloseReason.BROKEN)
    assert (ledger.opening, ledger.tending, ledger.closing, ledger.total) == (0, 0, 0, 0)
    assert ledger.audit() == []


@pytest.mark.parametrize("state", LIVING)
def test_only_those_with_a_connection_count_as_closed(state: SlotState) -> None:
    """A connect that failed opened nothing and closes nothing."""
    ledger = books()

    ledger.dismiss(in_state(ledger, state), CloseReason.IDLE)

    expected = {} if state is SlotState.OPENING else {CloseReason.IDLE: 1}
    assert ledger.closed == expected
    assert ledger.opened == ledger.closed.total()


@pytest.mark.parametrize("state", LIVING)
def test_several_in_one_state_are_all_counted(state: SlotState) -> None:
    """On the way in and on the way out."""
    ledger = books()
    slots = [in_state(ledger, state) for _ in range(3)]
    assert ledger.audit() == []
    for slot in slots[1:]:
        ledger.dismiss(slot, CloseReason.IDLE)

    assert ledger.total == 1
    assert ledger.audit() == []


def test_a_dismissed_slot_is_gone_for_good() -> None:
    """Neither its place nor its object is known any more."""
    ledger = books()
    slot = idle(ledger)

    ledger.dismiss(slot, CloseReason.IDLE)

    assert slot.state is SlotState.GONE
    assert (ledger.slots, ledger.idle, ledger.by_id) == ({}, [], {})


def test_slots_are_numbered_from_one_and_carry_the_generation_of_their_beginning() -> None:
    """What was begun before a new generation belongs to the old one."""
    ledger = books()
    first = opening(ledger)
    ledger.generation += 1
    second = opening(ledger)
    ledger.admit(first, object(), 0.0)

    assert (first.number, first.generation) == (1, 0)
    assert (second.number, second.generation) == (2, 1)
    assert ledger.slots == {1: first, 2: second}


def test_an_admitted_connection_is_as_old_as_its_arrival() -> None:
    """All its instants begin there, and it can be found by its object."""
    ledger = books()
    slot = opening(ledger)
    conn = object()
    ledger.admit(slot, conn, 7.0)

    assert (slot.conn, slot.opened_at, slot.proved_at, slot.idle_since) == (conn, 7.0, 7.0, 7.0)
    assert ledger.by_id == {id(conn): slot}
    assert (ledger.opened, ledger.opening) == (1, 1)


def test_an_object_that_the_pool_has_already_is_not_admitted_again() -> None:
    """Two slots of one connection would be two borrowers of it."""
    ledger = books()
    slot = idle(ledger)

    with pytest.raises(InvariantBroken, match=r"^connection 2 is an object the pool has already \["):
        ledger.admit(opening(ledger), slot.conn, 0.0)


def test_what_was_only_pinged_goes_back_to_its_place_on_the_shelf() -> None:
    """Otherwise the coldest would look like the warmest, and never be pruned."""
    ledger = books()
    cold, warm, warmest = (idle(ledger, since=float(since)) for since in (1, 2, 3))
    ledger.move(warm, SlotState.TENDING)

    ledger.park(warm, keep_place=True)
    assert ledger.idle == [cold, warm, warmest]
    ledger.move(cold, SlotState.TENDING)
    ledger.park(cold)

    assert ledger.idle == [warm, warmest, cold]


def test_a_doomed_connection_stays_open_off_the_shelf() -> None:
    """It counts as idle and as live until somebody closes it, but nobody finds it to lend."""
    ledger = books()
    slot = idle(ledger)

    ledger.doom_idle(slot, CloseReason.CLEARED)

    assert (ledger.idle, ledger.doomed_idle, slot.doom) == ([], [slot], CloseReason.CLEARED)
    assert (ledger.idle_count, ledger.live, ledger.busy) == (1, 1, 0)
    assert ledger.audit() == []
    ledger.move(slot, SlotState.CLOSING)
    assert (ledger.idle_count, ledger.closing) == (0, 1)
    assert ledger.audit() == []


def test_a_lease_is_counted_when_it_begins() -> None:
    """Uses of the connection, leases of the pool, leases that are out."""
    ledger = books(leases=2)
    first, second = object(), object()
    slot = lent(ledger, first, second)

    assert (slot.uses, ledger.lent, ledger.leases, ledger.busy) == (2, 2, 2, 1)
    assert slot.leases == [first, second]
    ledger.end_lease(slot, first)
    assert slot.leases == [second]
    assert (slot.uses, ledger.lent, ledger.leases, ledger.busy) == (2, 2, 1, 1)


def test_leases_are_counted_over_all_connections() -> None:
    """Two on one, one on another."""
    ledger = books(leases=2)
    lent(ledger, object(), object())
    lent(ledger)

    assert ledger.leases == 3


def test_a_shared_connection_has_room_until_it_is_full() -> None:
    """An exclusive one never has."""
    ledger = books(leases=2)
    slot = lent(ledger)

    assert ledger.least_leased() is slot
    ledger.lend(slot, object())
    assert ledger.least_leased() is None
    exclusive = books()
    lent(exclusive)
    assert exclusive.least_leased() is None


def test_the_connection_with_the_fewest_leases_is_shared_first() -> None:
    """So that they fill evenly."""
    ledger = books(leases=3)
    lent(ledger, object(), object())
    fewer = lent(ledger)
    lent(ledger, object(), object())

    assert ledger.least_leased() is fewer


@pytest.mark.parametrize(
    "spoil",
    [
        lambda ledger, slot: slot.condemn(CloseReason.REPORTED),
        lambda ledger, slot: slot.soil(),
        lambda ledger, slot: slot.sharers.clear(),
        lambda ledger, slot: ledger.move(slot, SlotState.CLOSING),
    ],
    ids=["condemned", "soiled", "without leases", "closing"],
)
def test_what_must_not_be_shared_any_more_has_no_room(spoil: Callable[[Ledger, Slot], None]) -> None:
    """Condemned, soiled, on its way to the shelf, or no longer lent."""
    ledger = books(leases=3)
    slot = lent(ledger)

    spoil(ledger, slot)
    ledger.note_room(slot)

    assert ledger.least_leased() is None


def test_a_connection_that_leaves_its_borrowers_has_no_room() -> None:
    """Nobody joins a lease on what is being tended."""
    ledger = books(leases=3)
    slot = lent(ledger)
    slot.sharers.clear()

    ledger.move(slot, SlotState.TENDING)

    assert ledger.roomy == {}


def test_the_object_of_a_connection_cut_while_lent_is_known_until_its_borrower_lets_go() -> None:
    """A late release must find out that its connection is gone, not that it is a stranger."""
    ledger = books()
    hold = object()
    slot = lent(ledger, hold)
    ledger.dismiss(slot, CloseReason.POOL_CLOSED)
    assert ledger.by_id == {id(slot.conn): slot}

    ledger.forget_object(slot)
    assert ledger.by_id == {id(slot.conn): slot}
    ledger.end_lease(slot, hold)
    ledger.forget_object(slot)

    assert ledger.by_id == {}


def test_an_object_is_forgotten_by_its_own_slot_only() -> None:
    """The same object may be in another slot by now; and what is there is not forgotten."""
    ledger = books()
    living = idle(ledger)
    ledger.forget_object(living)
    assert ledger.by_id == {id(living.conn): living}
    gone = lent(ledger)
    ledger.dismiss(gone, CloseReason.BROKEN)
    gone.hold = None
    ledger.by_id[id(gone.conn)] = living

    ledger.forget_object(gone)

    assert ledger.by_id[id(gone.conn)] is living


@pytest.mark.parametrize(
    ("states", "used_up"),
    [
        ((SlotState.BUSY,), False),
        ((SlotState.BUSY, SlotState.OPENING), True),
        ((SlotState.TENDING, SlotState.CLOSING, SlotState.BUSY), True),
        ((SlotState.BUSY, SlotState.IDLE), False),
    ],
    ids=lambda value: None if isinstance(value, bool) else " ".join(state.value for state in value),
)
def test_books_are_used_up_when_nothing_can_be_lent_or_opened(
    states: tuple[SlotState, ...], used_up: bool
) -> None:
    """Full, or above max_size after a shrink, and nothing idle: who asks has to wait."""
    ledger = books(max_size=3)
    for state in states:
        in_state(ledger, state)
    ledger.max_size = 2

    assert ledger.is_used_up is used_up


def test_books_are_not_used_up_while_room_can_be_made() -> None:
    """A shared connection with room, a doomed one that gives way, an allowance that others may free."""
    shared = books(max_size=1, leases=2)
    lent(shared)
    doomed = books(max_size=1)
    doomed.doom_idle(idle(doomed), CloseReason.CLEARED)
    limited = books(max_size=1, allowance=Allowance(1))
    lent(limited)

    assert [each.is_used_up for each in (shared, doomed, limited)] == [False, False, False]


@pytest.mark.parametrize(("max_size", "surplus"), [(1, 2), (2, 1), (3, 0), (4, 0)])
def test_surplus_is_what_is_above_the_limit_and_not_yet_going(max_size: int, surplus: int) -> None:
    """A connection that is being closed makes way already."""
    ledger = books(max_size=4)
    for state in (SlotState.OPENING, SlotState.IDLE, SlotState.BUSY, SlotState.CLOSING):
        in_state(ledger, state)

    ledger.max_size = max_size

    assert ledger.surplus == surplus


def test_an_allowance_is_asked_for_every_place_and_gets_it_back() -> None:
    """What it refuses is not opened, although max_size would do."""
    allowance = Allowance(1)
    ledger = books(allowance=allowance)
    slot = opening(ledger)
    assert allowance.used == 1

    assert ledger.has_room
    assert ledger.begin_opening(0.0, urgent=True) is None
    assert ledger.total == 1
    ledger.dismiss(slot, CloseReason.BROKEN)

    assert allowance.used == 0
    assert ledger.audit() == []


@pytest.mark.parametrize("urgent", [True, False])
def test_an_allowance_hears_how_urgently_a_place_is_wanted(urgent: bool) -> None:
    """A waiting borrower comes before another pool's min_size."""
    allowance = Allowance(1)
    holder = books(allowance=allowance)
    slot = opening(holder)
    first, second = books(allowance=allowance), books(allowance=allowance)
    assert first.begin_opening(1.0, urgent=False) is None
    assert second.begin_opening(2.0, urgent=urgent) is None

    holder.dismiss(slot, CloseReason.BROKEN)

    assert (second.begin_opening(3.0, urgent=urgent) is not None) is urgent


def test_an_allowance_hears_since_when_a_place_is_wanted() -> None:
    """Who has waited longer is let past."""
    allowance = Allowance(2)
    holder, other = books(allowance=allowance), books(allowance=allowance)
    opening(holder)
    opening(holder)
    assert other.begin_opening(4.0, urgent=True) is None

    def yields(since: float) -> bool:
        return allowance.should_yield(holder._member, since, above_floor=True)

    assert (yields(3.9), yields(4.0), yields(4.1)) == (False, False, True)


def test_a_ledger_that_is_full_does_not_ask_its_allowance() -> None:
    """The allowance would remember a wish that cannot be fulfilled."""
    allowance = Allowance(2)
    ledger = books(max_size=1, allowance=allowance)
    opening(ledger)

    assert ledger.begin_opening(0.0, urgent=True) is None
    assert "0 wanting" in repr(allowance)


def test_who_left_is_cancelled_and_so_is_who_never_saw_its_lease() -> None:
    """Both kinds count once."""
    ledger = books()
    leaving = waiter()
    ledger.queued += 2
    ledger.queue(leaving)
    ledger.settle(leaving, WaiterState.LEFT)
    ledger.left_early += 1

    assert ledger.cancelled == 2
    assert ledger.audit() == []


def test_a_queue_is_kept_in_order_and_from_the_front_for_who_was_there_before() -> None:
    """First come, first served; who comes back comes first."""
    ledger = books()
    first, second, back_again = waiter(), waiter(), waiter()
    ledger.queue(first)
    ledger.queue(second)
    ledger.queue(back_again, first=True)

    assert list(ledger.waiters) == [back_again, first, second]


def share(slot: Slot, *holds: Any) -> None:
    """Have it leased by these, whatever it may serve."""
    slot.hold, slot.sharers = None, list(holds)


BROKEN_BOOKS: dict[str, Callable[[Ledger], object]] = {
    "opening is counted right": lambda ledger: setattr(ledger, "opening", 2),
    "tending is counted right": lambda ledger: setattr(ledger, "tending", 2),
    "closing is counted right": lambda ledger: setattr(ledger, "closing", 2),
    "idle is counted right": lambda ledger: ledger.idle.pop(),
    "busy is counted right": lambda ledger: ledger.idle.pop(),
    "busy means leased": lambda ledger: setattr(ledger.slots[3], "hold", None),
    "no more leases than a connection serves": lambda ledger: share(ledger.slots[3], object(), object()),
    "opened = closed + open": lambda ledger: setattr(ledger, "opened", 3),
    "queued requests = their outcomes": lambda ledger: setattr(ledger, "queued", 2),
    "idle ones are not doomed": lambda ledger: ledger.idle[0].condemn(CloseReason.CLEARED),
    "waiting is counted right": lambda ledger: setattr(ledger.waiters, "live", 2),
    "places of the allowance": lambda ledger: ledger.slots.pop(1),
}


@pytest.mark.parametrize("words", BROKEN_BOOKS)
def test_the_audit_names_what_is_wrong(words: str) -> None:
    """One broken entry, found by name; what depends on it may be named as well."""
    ledger = books(max_size=5, allowance=Allowance(5))
    for state in (SlotState.OPENING, SlotState.IDLE, SlotState.BUSY, SlotState.TENDING, SlotState.CLOSING):
        in_state(ledger, state)
    ledger.queued += 1
    ledger.queue(waiter())
    assert ledger.audit() == []

    BROKEN_BOOKS[words](ledger)

    assert words in ledger.audit()


@pytest.mark.parametrize("outcome", ["handed", "timed_out", "left_early", "refused", "failed"])
def test_every_outcome_of_a_request_balances_the_books(outcome: str) -> None:
    """One request, one outcome; two of one are found."""
    ledger = books()
    ledger.queued = 1
    assert ledger.audit() == ["queued requests = their outcomes"]
    setattr(ledger, outcome, 1)
    assert ledger.audit() == []

    setattr(ledger, outcome, 2)

    assert ledger.audit() == ["queued requests = their outcomes"]


def test_a_lease_that_was_never_seen_is_no_outcome() -> None:
    """Handed over and taken back: the request is still open, until it is counted as cancelled."""
    ledger = books()
    ledger.queued = ledger.handed = ledger.unlent = 1
    assert ledger.audit() == ["queued requests = their outcomes"]

    ledger.left_early = 1

    assert ledger.audit() == []


def test_the_books_know_whether_anybody_shares_the_allowance() -> None:
    """Without one there is no company; with one there is, until it turns out otherwise."""
    alone = books()
    alone.note_company()
    assert alone.has_company is False
    allowance = Allowance(3)
    ledger = books(allowance=allowance)
    assert ledger.has_company
    ledger.note_company()
    assert ledger.has_company is False
    allowance.join(Member())
    ledger.note_company()
    assert ledger.has_company is True


def test_an_object_of_a_slot_that_is_gone_and_not_lent_is_known_no_more() -> None:
    """The audit says so in these words."""
    ledger = books()
    slot = idle(ledger)
    ledger.dismiss(slot, CloseReason.IDLE)
    ledger.by_id[1] = slot
    assert ledger.audit() == ["objects are known while they are lent or kept"]
