"""Every operation, struck at every point at which it waits, in every situation: nothing is lost."""

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest

from tests import summary
from tests.kernel.operations import OPERATIONS, Operation
from tests.kernel.situations import SITUATIONS
from tests.kernel.strikes import STRIKES, Cancel
from tests.kernel.sweeps import Play, sweep

OTHERS = [strike for strike in STRIKES if strike is not Cancel]
SHARE = 8  # of the situations, one in so many is played with each strike but the plain one

EAGER_SHARE = 16  # the same, where tasks start eagerly

_points: Counter[str] = Counter()


@pytest.fixture(scope="module", autouse=True)
def counted() -> Iterator[None]:
    """The number of points stands at the end of the run."""
    yield
    assert all(_points.values()), "a way to strike that never struck"
    by_strike = ", ".join(f"{count} {name}" for name, count in sorted(_points.items()))
    summary.say("sweeps", f"{_points.total()} points of attack ({by_strike})")


def named(operation: Operation) -> str:
    """For the name of a test."""
    return operation.name


@pytest.mark.parametrize("operation", OPERATIONS, ids=named)
def test_cancelled_at_any_point_alone_and_before_others(operation: Operation) -> None:
    """The cancellation arrives, whoever waits behind is served in order, and the pool is whole."""
    hits = 0
    for situation in SITUATIONS:
        if operation.fits(situation):
            for behind in (0, 2):
                hits += sweep(Play(operation, situation, Cancel, behind))
    _points[Cancel.name] += hits

    assert hits >= operation.least


@pytest.mark.parametrize("operation", OPERATIONS, ids=named)
def test_ended_at_any_point_in_other_ways(operation: Operation) -> None:
    """Cancelled again and again, closed, timed out, by a sibling in its group, by a scope that insists."""
    fitting = [situation for situation in SITUATIONS if operation.fits(situation)]
    hits: Counter[str] = Counter()
    for at, strike in enumerate(OTHERS, start=OPERATIONS.index(operation)):
        for situation in fitting[at % SHARE :: SHARE]:
            hits[strike.name] += sweep(Play(operation, situation, strike, behind=2))
    _points.update(hits)

    assert hits.total() >= SHARE


if hasattr(asyncio, "eager_task_factory"):  # since Python 3.12

    @pytest.mark.parametrize("operation", OPERATIONS, ids=named)
    def test_ended_at_any_point_where_tasks_start_eagerly(operation: Operation) -> None:
        """A borrower runs inside of whoever makes its task: nothing is different."""
        fitting = [situation for situation in SITUATIONS if operation.fits(situation)]
        hits = 0
        for at, strike in enumerate(STRIKES, start=OPERATIONS.index(operation)):
            for situation in fitting[at % EAGER_SHARE :: EAGER_SHARE]:
                hits += sweep(Play(operation, situation, strike, behind=2), asyncio.eager_task_factory)

        assert hits >= 1
