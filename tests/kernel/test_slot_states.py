"""A slot: what it may become, and what is known of it."""

import itertools
import math

import pytest

from millpond import CloseReason, InvariantBroken
from millpond._core.slot import LEGAL, UNFIT, Slot, SlotState


def test_a_new_slot_is_opening_and_unused() -> None:
    """It has a number and a generation, and no connection yet."""
    slot = Slot(7, 3)

    assert (slot.number, slot.generation, slot.state) == (7, 3, SlotState.OPENING)
    assert (slot.conn, slot.leases, slot.uses, slot.doom) == (None, [], 0, None)
    assert (slot.opened_at, slot.idle_since, slot.proved_at) == (0.0, 0.0, 0.0)
    assert (slot.retire_at, slot.fresh_until) == (math.inf, math.inf)
    assert (slot.needs_reset, slot.plain_uses, slot.draw) == (False, 0, 0.0)


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


def test_a_condemned_slot_is_never_fresh_again() -> None:
    """Whatever its age, it is past its time."""
    slot = Slot(1, 0)

    slot.condemn(CloseReason.CLEARED)

    assert slot.doom is CloseReason.CLEARED
    assert slot.retire_at == slot.fresh_until == -math.inf


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
    """Not even when it was hardly used."""
    slot = Slot(1, 0)
    slot.plain_uses = 100

    slot.soil()

    assert (slot.needs_reset, slot.plain_uses) == (True, 0)


def test_a_slot_says_what_it_is() -> None:
    """For assertions and logs."""
    slot = Slot(4, 2)
    slot.leases.extend([object(), object()])  # type: ignore[list-item]

    assert repr(slot) == "<Slot 4 opening, generation 2, 2 leases>"
