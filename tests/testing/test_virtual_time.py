"""The simulated loop's clock: it moves when nothing else can happen, and only then."""

import asyncio
import math
import time

import pytest

from millpond.testing import SimulatedLoop, TimeLimit, current, run, settle


def test_an_hour_of_idle_time_takes_no_time() -> None:
    """The clock jumps to the next timer; nobody waits for it."""

    async def main() -> float:
        await asyncio.sleep(3600)
        return current().time()

    began = time.perf_counter()
    shown = run(main)

    assert shown == 3600
    assert time.perf_counter() - began < 1.0


def test_the_clock_starts_where_it_is_told() -> None:
    """A program that takes a time of zero for no time can be caught either way."""
    assert SimulatedLoop(start=86_400.0).time() == 86_400.0


def test_time_stands_still_while_something_is_ready() -> None:
    """A busy program sees one instant, however long it works."""

    async def main() -> float:
        asyncio.get_running_loop().call_later(0.001, int)
        for _ in range(1000):
            await asyncio.sleep(0)
        return current().time()

    assert run(main) == 0.0


def test_timers_fire_in_the_order_of_their_times() -> None:
    """Whatever the seed, an earlier timer comes first, also when a stall made several late."""

    async def main() -> list[float]:
        fired: list[float] = []
        loop = current()
        for delay in (3.0, 1.0, 2.0, 1.5):
            loop.call_later(delay, fired.append, delay)
        loop.call_later(0.5, loop.stall, 10.0)
        await asyncio.sleep(20)
        return fired

    for seed in (None, *range(20)):
        assert run(main, seed=seed) == [1.0, 1.5, 2.0, 3.0]


def test_no_timer_fires_early() -> None:
    """Timers that differ by rounding only fall due together, at the latest of their times."""

    async def main() -> list[bool]:
        loop = current()
        times = [0.1 + 0.2, 0.3, 0.3 + 5e-10]
        on_time: list[bool] = []
        for when in times:
            loop.call_at(when, lambda when=when: on_time.append(loop.time() >= when))
        await asyncio.sleep(1)
        return on_time

    assert run(main) == [True] * 3


def test_a_stall_makes_everything_late_at_once() -> None:
    """A blocked loop runs nothing; afterwards all that was due meanwhile is due now."""

    async def main() -> list[float]:
        loop = current()
        seen: list[float] = []
        loop.call_later(1.0, lambda: seen.append(loop.time()))
        loop.call_later(2.0, lambda: seen.append(loop.time()))
        loop.stall(5.0)
        await asyncio.sleep(0.1)
        return seen

    assert run(main) == [5.0, 5.0]


@pytest.mark.parametrize("seconds", [-1.0, math.inf, math.nan])
def test_a_stall_takes_a_finite_time(seconds: float) -> None:
    """Time neither goes back nor ends."""
    with pytest.raises(ValueError, match="finite number of seconds"):
        SimulatedLoop().stall(seconds)


def test_a_cancelled_timer_does_not_move_the_clock() -> None:
    """Only timers that are still set count."""

    async def main() -> float:
        loop = current()
        timers = [loop.call_later(50.0 + each, int) for each in range(200)]
        for timer in timers:
            timer.cancel()
        await asyncio.sleep(1)
        assert loop.pending_timers() == []
        return loop.time()

    assert run(main, check_timers=True) == 1.0


def test_many_cancelled_timers_are_forgotten() -> None:
    """A program that sets and cancels timers for ever stays small."""

    async def main() -> int:
        loop = current()
        for _ in range(10_000):
            loop.call_later(1e6, int).cancel()
        return len(loop._timers)

    assert run(main) < 200


def test_a_timer_that_is_not_a_number_is_refused() -> None:
    """It would have no place in the order."""
    loop = SimulatedLoop()

    with pytest.raises(ValueError, match="nan"):
        loop.call_later(math.nan, int)
    with pytest.raises(TypeError, match="None"):
        loop.call_later(None, int)  # type: ignore[arg-type]


def test_the_clock_does_not_pass_max_time() -> None:
    """A program that waits too long ends with the tasks that wait."""

    async def main() -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(60)

    with pytest.raises(TimeLimit, match="beyond max_time=3600 s") as caught:
        run(main, max_time=3600)

    assert [task.name for task in caught.value.tasks] == ["main"]


def test_the_wall_clock_is_left_alone() -> None:
    """Nothing is patched: who asks the operating system for the time gets it."""

    async def main() -> float:
        before = time.monotonic()
        await asyncio.sleep(1e6)
        return time.monotonic() - before

    assert run(main) < 60


def test_settling_lets_everything_run_and_no_time_pass() -> None:
    """Chains of callbacks run to their end before the one who settles goes on."""

    async def main() -> tuple[int, float]:
        count = 0

        def again() -> None:
            nonlocal count
            count += 1
            if count < 100:
                asyncio.get_running_loop().call_soon(again)

        asyncio.get_running_loop().call_soon(again)
        asyncio.get_running_loop().call_later(1, int)
        await settle()
        return count, current().time()

    assert run(main) == (100, 0.0)


def test_several_tasks_may_settle_at_once() -> None:
    """Each goes on in its turn, when the one before has come to rest."""

    async def main() -> list[int]:
        order: list[int] = []

        async def one(number: int) -> None:
            await settle()
            order.append(number)
            await asyncio.sleep(0)
            order.append(number)

        await asyncio.gather(*map(one, range(3)))
        return order

    assert run(main, seed=None) == [0, 0, 1, 1, 2, 2]
