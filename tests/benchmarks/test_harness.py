"""The arithmetic under every number of the benchmarks."""

import asyncio
import gc
from collections.abc import Awaitable, Callable

import pytest

from benchmarks.harness import Rounds, Spread, interleave, percentile, shown, spread


def test_a_spread_is_the_median_and_its_quartiles() -> None:
    """Half of the rounds lie between the two quartiles, in any order; it knows how many there were."""
    found = spread([5.0, 1.0, 3.0, 2.0, 4.0])

    assert found == Spread(3.0, 2.0, 4.0)
    assert found.scaled(2.0).rounds == found.rounds == 5


def test_a_spread_of_one_round_does_not_spread() -> None:
    """One measurement says nothing about how it varies."""
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0)


def test_a_spread_of_nothing_is_refused() -> None:
    """A median that nobody measured must not reach a table."""
    with pytest.raises(ValueError, match="nothing"):
        spread([])


@pytest.mark.parametrize(
    ("share", "wanted"), [(0.5, 50.0), (0.07, 7.0), (0.99, 99.0), (0.999, 100.0), (1.0, 100.0), (0.001, 1.0)],
    ids=str,
)  # fmt: skip
def test_a_percentile_is_one_of_the_values(share: float, wanted: float) -> None:
    """Nearest rank: the smallest value that this share of all does not exceed."""
    assert percentile([float(n) for n in range(100, 0, -1)], share) == wanted


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1.0], 0.0), ([1.0], 1.01)], ids=str)
def test_a_percentile_that_makes_no_sense_is_refused(values: list[float], share: float) -> None:
    """Nothing is made up for an empty list or a share beyond all."""
    with pytest.raises(ValueError, match=r"percentile|share"):
        percentile(values, share)


def test_ratios_are_taken_within_a_round() -> None:
    """A machine that was slow for one round slows both sides, and the ratio does not notice."""
    rounds = Rounds(
        {"ours": [{"seconds": 2.0}, {"seconds": 20.0}], "theirs": [{"seconds": 1.0}, {"seconds": 10.0}]}
    )

    assert rounds.ratio("ours", "theirs") == Spread(2.0, 2.0, 2.0)


def test_quantities_are_kept_apart() -> None:
    """A sample may hold several, and a ratio is of one of them."""
    rounds = Rounds({"ours": [{"seconds": 1.0, "p99": 8.0}], "theirs": [{"seconds": 1.0, "p99": 2.0}]})

    assert rounds.ratio("ours", "theirs", "p99").median == 4.0


def recorded(order: list[str], name: str, cost: float = 1.0) -> Callable[[], Awaitable[float]]:
    async def run() -> float:
        order.append(name)
        return cost

    return run


async def test_each_round_runs_everybody_and_begins_with_another() -> None:
    """Nobody always comes after the same neighbour, or always first into a warm cache."""
    order: list[str] = []

    await interleave({name: recorded(order, name) for name in "abc"}, rounds=3)

    rounds = ["".join(order[place : place + 3]) for place in range(0, len(order), 3)]
    assert rounds == ["bac", "abc", "acb", "cab"]


async def test_the_first_round_only_warms_up() -> None:
    """What it measured is dropped."""
    costs = iter([100.0, 1.0, 2.0])

    async def run() -> float:
        return next(costs)

    found = await interleave({"one": run}, rounds=2)

    assert found.values("one") == [1.0, 2.0]


async def test_who_is_warm_already_has_no_round_for_it() -> None:
    """Where a round takes a minute, none is dropped."""
    costs = iter([1.0, 2.0])

    async def run() -> float:
        return next(costs)

    found = await interleave({"one": run}, rounds=2, is_cold=False)

    assert found.values("one") == [1.0, 2.0]


async def test_who_raises_is_left_out_and_the_others_go_on() -> None:
    """One peer that breaks costs one line of the report, with the reason."""
    order: list[str] = []
    calls = 0

    async def breaks() -> float:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError("gone")
        return 1.0

    found = await interleave({"a": recorded(order, "a"), "b": breaks}, rounds=3)

    assert found.failed == {"b": "OSError: gone"}
    assert (len(found.values("a")), calls) == (3, 2)
    assert "b" not in found.samples


async def test_who_hangs_is_left_out() -> None:
    """A peer that deadlocks does not take the whole run with it."""

    async def hangs() -> float:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    found = await interleave({"stuck": hangs}, rounds=1, limit_s=0.01)

    assert "TimeoutError" in found.failed["stuck"]


@pytest.mark.parametrize(
    ("number", "words"), [(0.123, "0.12"), (19.994, "19.99"), (20.04, "20.0"), (1234.5, "1234")], ids=str
)
def test_numbers_are_shown_with_about_three_digits(number: float, words: str) -> None:
    """More would claim to be known."""
    assert shown(number) == words


async def test_what_is_there_already_is_left_alone_by_the_garbage_collector() -> None:
    """A full collection looks at every peer's modules: not in the turn of whoever happens to be measured."""
    aside = []

    async def run() -> float:
        aside.append(gc.get_freeze_count() > 0)
        return 1.0

    await interleave({"one": run}, rounds=2)

    assert aside == [False, True, True]
    assert gc.get_freeze_count() == 0


async def test_nobody_to_measure_gives_nothing() -> None:
    """Where every peer is missing there are no rounds, and no error either."""
    assert (await interleave({}, rounds=2)).samples == {}
