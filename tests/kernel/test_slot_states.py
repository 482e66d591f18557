"""A slot: what it may become, and what is known of it."""

import itertools
import math
from typing import Any

import pytest

from millpond import CloseReason, InvariantBroken
from millpond._core.slot import LEGAL, UNFIT, Slot, SlotState


def test_a_new_slot_is_opening_and_unused() -> None:
    """It has a number and a generation, and no connection yet."""
    slot = Slot(7, 3)

    assert (slot.number, slot.generation, slot.state) == (7, 3, SlotState.OPENING)
    assert (slot.conn, slot.leases, slot.uses, slot.doom, slot.is_new) == (None, [], 0, None, True)
    assert (slot.opened_at, slot.idle_since, slot.proved_at) == (0.0, 0.0, 0.0)
    assert (slot.retire_at, slot.returned_at, slot.keep_until) == (math.inf, -math.inf, -math.inf)
    assert (slot.needs_reset, slot.was_lent, slot.draw) == (False, False, 0.0)


@pytest.mark.parametrize(
    ("here", "there"),
    list(itertools.product(SlotState, SlotState)),
    ids=lambda state: state.value,
)
def test_a_slot_makes_legal_moves_only(here: SlotState, there: SlotState) -> None:
    """What the table does not say raises, and changes nothing."""
    slot = Slot(7, 0)
    slot.state = here
    if there in LEGAL[here]:
        slot.move(there)

        assert slot.state is there
    else:
        with pytest.raises(InvariantBroken, match=rf"^connection 7: {here.value} -> {there.value} \["):
            slot.move(there)

        assert slot.state is here


def test_a_condemned_slot_is_past_its_time() -> None:
    """Whatever its age; and the short way is closed to it, both to be lent and to be put back."""
    slot = Slot(1, 0)
    slot.returned_at = slot.keep_until = 100.0

    slot.condemn(CloseReason.CLEARED)

    assert slot.doom is CloseReason.CLEARED
    assert slot.retire_at == slot.returned_at == slot.keep_until == -math.inf


@pytest.mark.parametrize("second", CloseReason, ids=lambda reason: reason.value)
@pytest.mark.parametrize(
    "first", [CloseReason.CLEARED, CloseReason.REPORTED], ids=lambda reason: reason.value
)
def test_the_first_reason_stays_unless_a_graver_one_comes(first: CloseReason, second: CloseReason) -> None:
    """What is known to be broken is cut, although it was only to be closed before."""
    slot = Slot(1, 0)

    slot.condemn(first)
    slot.condemn(second)

    graver = second in UNFIT and first not in UNFIT
    assert slot.doom is (second if graver else first)


def test_a_soiled_slot_needs_a_reset_and_takes_no_short_way() -> None:
    """Neither back to the shelf nor from it."""
    slot = Slot(1, 0)
    slot.returned_at = slot.keep_until = 100.0

    slot.soil()

    assert slot.needs_reset
    assert slot.returned_at == slot.keep_until == -math.inf


def test_a_return_in_passing_is_a_proof_of_life_and_the_beginning_of_idleness() -> None:
    """One instant says both; what was known before stays known only where it is younger."""
    slot = Slot(1, 0)
    slot.proved_at, slot.idle_since = 5.0, 3.0

    slot.returned_at = 4.0
    assert (slot.proved_at, slot.idle_since) == (5.0, 4.0)
    slot.returned_at = 6.0

    assert (slot.proved_at, slot.idle_since) == (6.0, 6.0)


@pytest.mark.parametrize("instant", [2.0, -math.inf])
def test_what_a_return_in_passing_said_stays_known(instant: float) -> None:
    """When the short way is closed, and when it is told to trust from another instant."""
    slot = Slot(1, 0)
    slot.returned_at = 6.0

    slot.trust_from(instant)

    assert (slot.returned_at, slot.proved_at, slot.idle_since) == (instant, 6.0, 6.0)


def test_a_slot_has_one_lease_or_shares() -> None:
    """An exclusive pool uses the one field, a shared pool the other; both read alike."""
    slot = Slot(1, 0)
    first: Any = object()
    second: Any = object()

    slot.hold = first
    assert list(slot.leases) == [first]
    slot.hold = None
    slot.sharers.extend([first, second])

    assert list(slot.leases) == [first, second]


def test_a_slot_says_what_it_is() -> None:
    """For assertions and logs."""
    slot = Slot(4, 2)
    slot.sharers.extend([object(), object()])  # type: ignore[list-item]

    assert repr(slot) == "<Slot 4 opening, generation 2, 2 leases>"
