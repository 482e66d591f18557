"""The order of what is ready: what a seed may change, what it never changes, and that it repeats."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millpond.testing import Fifo, Shuffled, SimulatedLoop, current, run

SEEDS = range(40)


async def tasks_of_one_step() -> tuple[str, ...]:
    order: list[str] = []

    async def one(name: str) -> None:
        order.append(name)

    await asyncio.gather(*map(one, "abcd"))
    return tuple(order)


async def sleepers_that_wake_together() -> tuple[str, ...]:
    order: list[str] = []

    async def one(name: str) -> None:
        await asyncio.sleep(1)
        order.append(name)

    await asyncio.gather(*map(one, "abcd"))
    return tuple(order)


async def waiters_of_different_futures() -> tuple[str, ...]:
    order: list[str] = []
    futures = {name: asyncio.get_running_loop().create_future() for name in "abcd"}

    async def one(name: str) -> None:
        await futures[name]
        order.append(name)

    tasks = [asyncio.create_task(one(name)) for name in "abcd"]
    await asyncio.sleep(1)
    for future in futures.values():
        future.set_result(None)
    await asyncio.gather(*tasks)
    return tuple(order)


async def callbacks() -> tuple[str, ...]:
    order: list[str] = []
    for name in "abcd":
        asyncio.get_running_loop().call_soon(order.append, name)
    await asyncio.sleep(1)
    return tuple(order)


async def done_callbacks_of_one_future() -> tuple[str, ...]:
    order: list[str] = []
    future = asyncio.get_running_loop().create_future()

    async def awaits() -> None:
        await future
        order.append("c")

    future.add_done_callback(lambda _: order.append("a"))
    future.add_done_callback(lambda _: order.append("b"))
    task = asyncio.create_task(awaits())
    await asyncio.sleep(1)
    future.add_done_callback(lambda _: order.append("d"))
    future.set_result(None)
    await task
    await asyncio.sleep(0)
    return tuple(order)


@pytest.mark.parametrize(
    "program", [tasks_of_one_step, sleepers_that_wake_together, waiters_of_different_futures]
)
def test_tasks_that_are_ready_together_run_in_any_order(
    program: Callable[[], Coroutine[Any, Any, tuple[str, ...]]],
) -> None:
    """Different seeds try different orders, and forty of them try most of the twenty-four."""
    orders = {run(program, seed=seed) for seed in SEEDS}

    assert len(orders) > 12


@pytest.mark.parametrize("program", [callbacks, done_callbacks_of_one_future])
def test_callbacks_keep_the_order_that_asyncio_promises(
    program: Callable[[], Coroutine[Any, Any, tuple[str, ...]]],
) -> None:
    """What call_soon and one future's callbacks promise holds under every seed."""
    assert {run(program, seed=seed) for seed in SEEDS} == {("a", "b", "c", "d")}


@pytest.mark.parametrize(
    "program",
    [
        tasks_of_one_step,
        sleepers_that_wake_together,
        waiters_of_different_futures,
        callbacks,
        done_callbacks_of_one_future,
    ],
)
def test_without_a_seed_the_order_is_that_of_asyncio(
    program: Callable[[], Coroutine[Any, Any, tuple[str, ...]]],
) -> None:
    """`seed=None` shuffles nothing."""
    assert run(program, seed=None) == ("a", "b", "c", "d")


def test_a_task_and_a_callback_that_are_ready_together_run_in_any_order() -> None:
    """Who sets a future and calls call_soon may not count on which comes first."""

    async def main() -> str:
        order: list[str] = []
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        async def awaits() -> None:
            await future
            order.append("task")

        task = asyncio.create_task(awaits())
        await asyncio.sleep(1)
        future.set_result(None)
        loop.call_soon(order.append, "callback")
        await task
        await asyncio.sleep(1)
        return order[0]

    assert {run(main, seed=seed) for seed in SEEDS} == {"task", "callback"}


def test_timers_of_the_same_instant_fire_in_any_order() -> None:
    """An answer and a deadline that fall together may come either way."""

    async def main() -> str:
        try:
            async with asyncio.timeout(1):
                await asyncio.sleep(1)
        except TimeoutError:
            return "deadline"
        return "answer"

    assert {run(main, seed=seed) for seed in SEEDS} == {"deadline", "answer"}


def test_nothing_ready_is_held_back_for_an_iteration() -> None:
    """Whatever was ready when an iteration began has run when it ends: no task starves."""

    async def main() -> int:
        steps = [0] * 10

        async def one(number: int) -> None:
            for _ in range(50):
                steps[number] += 1
                assert max(steps) - min(steps) <= 1
                await asyncio.sleep(0)

        await asyncio.gather(*map(one, range(10)))
        return sum(steps)

    for seed in SEEDS:
        assert run(main, seed=seed) == 500


async def busy_world() -> list[tuple[int, float, str]]:
    """Some of everything; answers with the last steps."""
    loop = current()
    queue: asyncio.Queue[int] = asyncio.Queue(2)
    gate = asyncio.Semaphore(2)

    async def produce(number: int) -> None:
        for each in range(5):
            async with gate:
                await asyncio.sleep(loop.random.random())
                await queue.put(number * each)

    async def consume() -> None:
        while True:
            await queue.get()
            await asyncio.sleep(0)

    consumers = {asyncio.create_task(consume()) for _ in range(3)}
    await asyncio.wait({asyncio.create_task(produce(number)) for number in range(4)})
    for consumer in consumers:
        consumer.cancel()
    await asyncio.gather(*consumers, return_exceptions=True)
    return list(loop.trail)


def test_the_same_seed_takes_the_same_steps() -> None:
    """A run can be repeated exactly; another seed is another run."""
    first, second, other = run(busy_world, seed=5), run(busy_world, seed=5), run(busy_world, seed=6)

    assert first == second
    assert first != other


def test_a_seed_means_the_same_in_another_process() -> None:
    """Neither hashes of strings nor addresses of objects reach the schedule."""
    script = (
        "from tests.testing.test_schedule import busy_world\n"
        "from millpond.testing import run\n"
        "print(run(busy_world, seed=11))\n"
    )

    said = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in (1, 2)
    }

    assert said == {f"{run(busy_world, seed=11)}\n"}


def test_sets_of_tasks_iterate_alike_in_every_run() -> None:
    """Tasks and futures are hashed by their number, not by their address."""

    async def main() -> list[str]:
        tasks = {asyncio.create_task(asyncio.sleep(0), name=f"task {each}") for each in range(30)}
        await asyncio.wait(tasks)
        return [task.get_name() for task in tasks]

    assert run(main) == run(main)


def test_a_policy_may_be_given_instead_of_a_seed() -> None:
    """Whoever wants another order writes a policy."""

    class Backwards:
        def arrange(self, lanes: Any) -> list[int]:
            return list(range(len(lanes)))[::-1]

        def together(self, timers: int) -> int:
            return timers

    assert run(tasks_of_one_step, policy=Backwards()) == ("d", "c", "b", "a")


@given(st.lists(st.integers(0, 5), max_size=20), st.integers(0, 1000))
def test_a_shuffle_is_a_permutation_that_keeps_each_lane(lanes: list[int], seed: int) -> None:
    """Every index comes once, and those of one lane stay in order."""
    order = list(Shuffled(seed).arrange(lanes))

    assert sorted(order) == list(range(len(lanes)))
    for lane in set(lanes):
        of_lane = [index for index in order if lanes[index] == lane]
        assert of_lane == sorted(of_lane)


def test_policies_say_what_they_are() -> None:
    """A failing run prints how to repeat it."""
    assert repr(SimulatedLoop(seed=3).policy) == "Shuffled(3)"
    assert repr(SimulatedLoop(seed=None).policy) == repr(Fifo()) == "Fifo()"
