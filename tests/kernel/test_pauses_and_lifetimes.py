"""Pure decisions over time: how long to back off, and when a connection has served long enough."""

import math

import pytest

from millpond import CloseReason, PoolSettings
from millpond._core.backoff import backoff
from millpond._core.retirement import (
    fresh_until,
    idle_deadline,
    keep_until,
    ping_due_at,
    reason_to_retire,
    retire_at,
    trusted_from,
    trusted_s,
    tune,
)
from millpond._core.slot import Slot, SlotState

ALMOST_ONE = math.nextafter(1.0, 0.0)


def slot(**known: object) -> Slot:
    """A slot of which this is known."""
    made = Slot(1, 0)
    for name, value in known.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("failures", "ceiling"),
    [(1, 0.5), (2, 1.0), (3, 2.0), (6, 16.0), (7, 30.0), (60, 30.0), (61, 30.0), (5000, 30.0)],
)
def test_pauses_double_up_to_their_ceiling(failures: int, ceiling: float) -> None:
    """Full jitter: anything from nothing to the ceiling."""
    half = backoff(failures, first_s=0.5, most_s=30.0, draw=0.5)
    assert half == ceiling / 2
    assert backoff(failures, first_s=0.5, most_s=30.0, draw=0.0) == 0.0


@pytest.mark.parametrize("failures", [60, 61])
def test_a_ceiling_that_is_never_reached_still_overflows_nothing(failures: int) -> None:
    """From 61 failures on the ceiling is taken for reached; up to 60 it is computed."""
    pause = backoff(failures, first_s=1.0, most_s=1e300, draw=0.5)

    assert pause == (2.0**58 if failures == 60 else 0.5e300)


@pytest.mark.parametrize("failures", [1, 60, 61])
def test_no_first_pause_means_no_pause(failures: int) -> None:
    """Doubling nothing gives nothing, however often."""
    assert backoff(failures, first_s=0.0, most_s=30.0, draw=ALMOST_ONE) == 0.0


@pytest.mark.parametrize("failures", [0, -1])
def test_who_has_not_failed_need_not_pause(failures: int) -> None:
    """To ask is a mistake."""
    with pytest.raises(ValueError, match=f"^failures count from 1, got {failures}$"):
        backoff(failures, first_s=0.5, most_s=30.0, draw=0.5)


@pytest.mark.parametrize(("draw", "instant"), [(0.0, 110.0), (0.5, 100.0), (1.0, 90.0)])
def test_lifetimes_are_shortened_at_random(draw: float, instant: float) -> None:
    """So that connections opened together do not end together."""
    settings = PoolSettings(max_lifetime=100.0, lifetime_jitter=0.2)

    assert retire_at(10.0, settings, draw) == instant


def test_without_a_lifetime_a_connection_never_retires() -> None:
    """Its age does not matter."""
    assert retire_at(10.0, PoolSettings(max_lifetime=None), 0.5) == math.inf


@pytest.mark.parametrize(
    ("trusted", "retires", "until"), [(None, 50.0, 50.0), (30.0, 50.0, 40.0), (30.0, 35.0, 35.0)]
)
def test_a_parked_connection_is_trusted_for_a_while(
    trusted: float | None, retires: float, until: float
) -> None:
    """Since its last proof of life, and never beyond its age."""
    settings = PoolSettings(validate_after_idle=trusted)

    assert fresh_until(slot(proved_at=10.0, retire_at=retires), settings) == until


@pytest.mark.parametrize(
    ("known", "trusted", "instant"),
    [
        ({}, 30.0, 10.0),
        ({"proved_at": 9.0}, 30.0, 9.0),
        ({"idle_since": 8.0}, 30.0, 8.0),
        ({"retire_at": 35.0}, 30.0, 5.0),
        ({"retire_at": 35.0}, None, -25.0),
        ({"retire_at": -math.inf}, 30.0, -math.inf),
    ],
    ids=str,
)
def test_the_short_way_trusts_no_longer_than_the_long_one(
    known: dict[str, object], trusted: float | None, instant: float
) -> None:
    """From the earliest instant that proof, idleness and age allow."""
    settings = PoolSettings(validate_after_idle=trusted)
    parked = slot(**{"proved_at": 10.0, "idle_since": 10.0, "retire_at": math.inf} | known)

    assert trusted_from(parked, settings) == instant
    assert trusted_from(parked, settings) + trusted_s(settings) <= fresh_until(parked, settings)


USED_UP = PoolSettings(max_uses=3)


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        ({}, None),
        ({"doom": CloseReason.REPORTED, "generation": -1}, CloseReason.REPORTED),
        ({"generation": -1, "uses": 3}, CloseReason.CLEARED),
        ({"generation": 1}, CloseReason.CLEARED),
        ({"uses": 3, "retire_at": 0.0}, CloseReason.USES),
        ({"uses": 2}, None),
        ({"retire_at": 5.0}, CloseReason.LIFETIME),
        ({"retire_at": 5.1}, None),
    ],
    ids=str,
)
def test_what_has_served_long_enough_says_why(known: dict[str, object], reason: CloseReason | None) -> None:
    """Doom, generation, uses, age: the first that applies, each at its very limit."""
    assert reason_to_retire(slot(**known), 5.0, 0, USED_UP) is reason


def test_without_a_limit_uses_do_not_matter() -> None:
    """A million are fine."""
    assert reason_to_retire(slot(uses=1_000_000), 5.0, 0, PoolSettings(max_uses=None)) is None


@pytest.mark.parametrize(("trusted", "seconds"), [(None, 60.0), (30.0, 30.0), (0.0, 0.0)])
def test_the_short_way_trusts_for_as_long_as_the_settings_do(trusted: float | None, seconds: float) -> None:
    """And for a minute where they trust for ever."""
    assert trusted_s(PoolSettings(validate_after_idle=trusted)) == seconds


@pytest.mark.parametrize(
    ("known", "until"),
    [
        ({}, 70.0),
        ({"needs_reset": True}, -math.inf),
        ({"is_new": True}, -math.inf),
        ({"doom": CloseReason.CLEARED}, -math.inf),
        ({"retire_at": math.inf}, math.inf),
    ],
    ids=str,
)
def test_the_short_way_back_ends_before_the_lifetime_does(known: dict[str, object], until: float) -> None:
    """So that what it puts back is not too old for as long as it is trusted; unfit ones never take it."""
    settings = PoolSettings(validate_after_idle=30.0)

    assert keep_until(slot(**{"retire_at": 100.0, "is_new": False, **known}), settings) == until


@pytest.mark.parametrize(("timeout", "instant"), [(None, math.inf), (20.0, 30.0)])
def test_idle_time_counts_from_the_last_use(timeout: float | None, instant: float) -> None:
    """Without a timeout it has no end."""
    settings = PoolSettings(idle_timeout=timeout)

    assert idle_deadline(slot(idle_since=10.0, proved_at=11.0), settings) == instant


@pytest.mark.parametrize(("interval", "instant"), [(None, math.inf), (20.0, 31.0)])
def test_a_ping_is_due_so_long_after_the_last_proof_of_life(interval: float | None, instant: float) -> None:
    """Without an interval there are none."""
    settings = PoolSettings(health_check_interval=interval)

    assert ping_due_at(slot(idle_since=10.0, proved_at=11.0), settings) == instant


def test_settings_that_change_are_kept_with_the_slot() -> None:
    """Lifetime with the slot's own draw, and how long the short way is open: from the shelf, and back."""
    settings = PoolSettings(
        max_uses=7,
        max_lifetime=100.0,
        lifetime_jitter=0.5,
        validate_after_idle=5.0,
        health_check_interval=None,
    )
    parked = slot(
        state=SlotState.IDLE, opened_at=10.0, proved_at=20.0, idle_since=20.0, draw=0.5, is_new=False
    )
    lent = slot(state=SlotState.BUSY, opened_at=10.0, proved_at=20.0, draw=0.0, is_new=False)
    doomed = slot(state=SlotState.IDLE, opened_at=10.0, doom=CloseReason.CLEARED)
    for each in (parked, lent, doomed):
        tune(each, settings)

    assert (parked.retire_at, parked.keep_until, parked.returned_at) == (85.0, 80.0, 20.0)
    assert (lent.retire_at, lent.keep_until, lent.returned_at) == (110.0, 105.0, -math.inf)
    assert (doomed.retire_at, doomed.keep_until, doomed.returned_at) == (math.inf, -math.inf, -math.inf)
