"""The breaker: what opens it, what closes it, and what does not matter to it. No clock."""

import itertools

import pytest

from millpond import InvariantBroken
from millpond._core.breaker import LEGAL, Breaker
from millpond.status import BreakerState

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def opened(failures: int | None = 1, successes: int = 2) -> Breaker:
    """A breaker that has just opened."""
    breaker = Breaker(failures, successes)
    for _ in range(failures or 0):
        breaker.connect_failed(permanent=False)
    return breaker


def half_open(successes: int = 2) -> Breaker:
    """A breaker whose first probe has succeeded."""
    breaker = opened(1, successes)
    breaker.connect_succeeded()
    return breaker


def test_a_new_breaker_is_closed() -> None:
    """Nothing has failed."""
    breaker = Breaker(5, 2)

    assert (breaker.state, breaker.failures) == (CLOSED, 0)
    assert not breaker.is_open
    assert not breaker.is_half_open


def test_failures_in_a_row_open_it_at_the_threshold() -> None:
    """Not one earlier."""
    breaker = Breaker(3, 2)
    states = []
    for _ in range(4):
        breaker.connect_failed(permanent=False)
        states.append(breaker.state)

    assert states == [CLOSED, CLOSED, OPEN, OPEN]
    assert breaker.failures == 4
    assert breaker.is_open


def test_a_success_between_failures_begins_the_count_anew() -> None:
    """Only those in a row count."""
    breaker = Breaker(2, 2)
    breaker.connect_failed(permanent=False)
    breaker.connect_succeeded()
    assert breaker.failures == 0
    breaker.connect_failed(permanent=False)

    assert (breaker.state, breaker.failures) == (CLOSED, 1)


def test_a_permanent_failure_opens_it_at_once() -> None:
    """A wrong password does not become right."""
    breaker = Breaker(100, 2)
    breaker.connect_failed(permanent=True)

    assert breaker.state is OPEN


def test_a_breaker_that_is_switched_off_never_opens() -> None:
    """It still counts failures, for the backoff."""
    breaker = Breaker(None, 2)
    for _ in range(10):
        breaker.connect_failed(permanent=True)

    assert (breaker.state, breaker.failures) == (CLOSED, 10)


@pytest.mark.parametrize("threshold", [1, 2, 3])
def test_successes_close_it_at_the_threshold(threshold: int) -> None:
    """The probe that half opens it is the first of them."""
    breaker = opened(1, threshold)
    breaker.connect_succeeded()
    states = [breaker.state]
    for _ in range(2):
        breaker.proof_of_life()
        states.append(breaker.state)

    assert states == [CLOSED if number >= threshold else HALF_OPEN for number in (1, 2, 3)]


def test_an_open_breaker_hears_connects_only() -> None:
    """A server that answers "too many clients" serves its old clients well."""
    breaker = opened(1, 1)

    breaker.proof_of_life()

    assert breaker.state is OPEN


def test_half_open_one_failure_opens_it_again() -> None:
    """However high the threshold; and successes are counted anew."""
    breaker = opened(5, 2)
    breaker.connect_succeeded()
    assert breaker.is_half_open
    breaker.connect_failed(permanent=False)
    assert breaker.state is OPEN

    breaker.connect_succeeded()

    assert breaker.state is HALF_OPEN


def test_what_proves_life_while_it_is_closed_counts_for_nothing_later() -> None:
    """A thousand good leases do not close a breaker that opens afterwards."""
    breaker = Breaker(1, 2)
    for _ in range(10):
        breaker.proof_of_life()
    breaker.connect_failed(permanent=False)
    breaker.connect_succeeded()

    assert breaker.state is HALF_OPEN


def test_new_thresholds_count_from_now_on() -> None:
    """A lower one for failures opens at the next of them."""
    breaker = Breaker(5, 2)
    for _ in range(3):
        breaker.connect_failed(permanent=False)
    breaker.tune(2, 1)
    assert breaker.state is CLOSED
    breaker.connect_failed(permanent=False)
    assert breaker.state is OPEN

    breaker.connect_succeeded()

    assert breaker.state is CLOSED


def test_switching_it_off_closes_it() -> None:
    """Open or half open."""
    for breaker in (opened(), half_open()):
        breaker.tune(None, 2)

        assert breaker.state is CLOSED


@pytest.mark.parametrize(("threshold", "state"), [(1, CLOSED), (2, HALF_OPEN), (3, HALF_OPEN)])
def test_a_lower_threshold_for_successes_may_be_reached_already(threshold: int, state: BreakerState) -> None:
    """Half open after one success: one is enough now, or not."""
    breaker = half_open(3)

    breaker.tune(1, threshold)

    assert breaker.state is state


def test_a_lower_threshold_for_successes_closes_no_open_breaker() -> None:
    """No probe has succeeded."""
    breaker = opened(1, 3)
    breaker.tune(1, 1)

    assert breaker.state is OPEN


@pytest.mark.parametrize(
    ("here", "there"),
    list(itertools.product(BreakerState, BreakerState)),
    ids=lambda state: state.value,
)
def test_the_breaker_makes_legal_moves_only(here: BreakerState, there: BreakerState) -> None:
    """To stay is no move; what the table does not say raises."""
    breaker = Breaker(1, 1)
    breaker.state = here
    if there is here or there in LEGAL[here]:
        breaker._enter(there)

        assert breaker.state is there
    else:
        with pytest.raises(InvariantBroken, match=rf"^breaker {here.value} -> {there.value} \["):
            breaker._enter(there)


def test_to_stay_half_open_keeps_the_successes() -> None:
    """Only a real move begins their count anew."""
    breaker = half_open(2)
    breaker._enter(HALF_OPEN)
    breaker.proof_of_life()

    assert breaker.state is CLOSED


@pytest.mark.parametrize(("here", "there"), [(OPEN, HALF_OPEN), (HALF_OPEN, HALF_OPEN), (CLOSED, CLOSED)])
def test_without_a_place_for_a_probe_what_serves_well_counts(here: BreakerState, there: BreakerState) -> None:
    """An open breaker half opens; any other stays as it is."""
    breaker = Breaker(1, 1)
    breaker.state = here

    breaker.go_without_probe()

    assert breaker.state is there


def test_a_threshold_that_was_lowered_meanwhile_is_looked_at_by_what_is_not_counted_too() -> None:
    """It has been reached already: the next failure of any kind opens."""
    breaker = Breaker(None, 2)
    breaker.connect_failed(permanent=False)
    breaker.tune(1, 2)

    breaker.connect_failed(permanent=False, is_known=True)

    assert (breaker.state, breaker.failures) == (OPEN, 1)


def test_half_open_what_failed_with_one_that_was_counted_opens_nothing() -> None:
    """It began before the probe succeeded, and says nothing about what came after."""
    breaker = half_open()

    breaker.connect_failed(permanent=False, is_known=True)

    assert breaker.state is HALF_OPEN


def test_what_failed_together_with_one_that_was_counted_is_not_counted_again() -> None:
    """Unless it is permanent: that opens the breaker whoever else has failed."""
    breaker = Breaker(2, 1)
    breaker.connect_failed(permanent=False)

    breaker.connect_failed(permanent=False, is_known=True)
    afterwards = (breaker.state, breaker.failures)
    breaker.connect_failed(permanent=True, is_known=True)

    assert afterwards == (CLOSED, 1)
    assert (breaker.state, breaker.failures) == (OPEN, 1)
