"""How a bad day is read: rates by tenths of a second, and when full speed is back."""

import pytest

from benchmarks.bad_days import AFTER_S, CONNECTS, FIRST, LAST, Answers, cold_burst, recovered
from benchmarks.subjects import Opening, Subject, millpond


def every(step: float, since: float, until: float) -> list[float]:
    return [since + step * number for number in range(round((until - since) / step))]


def test_a_rate_counts_what_lies_between_two_instants() -> None:
    """The first instant belongs to it, the last to what follows."""
    assert Answers([1.0, 1.5, 2.0]).rate(1.0, 2.0) == 2.0


def test_a_curve_has_a_point_for_each_tenth_of_a_second() -> None:
    """Seconds since the beginning, answers a second."""
    answers = Answers([10.01, 10.02, 10.15])

    assert answers.curve(10.0, 10.3) == [(0.05, pytest.approx(20)), (0.15, pytest.approx(10)), (0.25, 0.0)]


def test_full_speed_is_back_when_a_tenth_of_a_second_is_as_fast_as_before() -> None:
    """A single good answer is not it."""
    slow, fast = every(0.05, 5.0, 5.5), every(0.001, 5.5, 9.0)

    assert recovered(Answers(slow + fast), 5.0, 1000.0) == pytest.approx(0.6)


def test_full_speed_that_never_comes_back_is_said_so() -> None:
    """The time is the whole measurement; a mean of infinities would be no number."""
    assert recovered(Answers(every(0.05, 5.0, 5.0 + AFTER_S)), 5.0, 1000.0) == AFTER_S


async def test_a_cold_burst_counts_connects_and_serves_everybody() -> None:
    """Five hundred come, ten connections open, and the moments come in order."""

    async def cold(opening: Opening) -> Subject:
        return await millpond(10, opening)

    sample = await cold_burst(cold, moments := [])()

    assert sample[CONNECTS] == 10
    assert 20 <= sample[FIRST] <= sample[LAST]
    assert (len(moments), moments) == (500, sorted(moments))
