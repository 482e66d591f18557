"""Programs written for asyncio and anyio run on the simulated loop unchanged, under every seed."""

import asyncio
import contextvars
import functools
import sys
from collections.abc import AsyncIterator

import anyio
import pytest

from millpond.testing import SimulatedLoop, current, run, settle

SEEDS = [None, *range(15)]


@pytest.fixture(params=SEEDS, ids=str)
def seed(request: pytest.FixtureRequest) -> int | None:
    """Asyncio's own order, and some others."""
    value: int | None = request.param
    return value


def test_the_runner_of_the_standard_library_takes_it(seed: int | None) -> None:
    """`asyncio.Runner(loop_factory=...)` sets it up and ends it."""

    async def main() -> float:
        await asyncio.sleep(10)
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=functools.partial(SimulatedLoop, seed), debug=True) as runner:
        first, second = runner.run(main()), runner.run(main())

    assert (first, second) == (10, 20)


def test_a_timeout_ends_what_is_inside(seed: int | None) -> None:
    """`asyncio.timeout` and `wait_for` count virtual seconds."""

    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.sleep(50)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 7)
        assert await asyncio.wait_for(asyncio.sleep(1, "result"), 2) == "result"
        return current().time()

    assert run(main, seed=seed, check_timers=True) == 13


def test_a_task_group_cancels_the_others(seed: int | None) -> None:
    """The error of one comes out as a group, and nobody is left."""

    async def main() -> list[str]:
        ended: list[str] = []

        async def waits() -> None:
            try:
                await asyncio.sleep(100)
            finally:
                ended.append("cancelled")

        async def fails() -> None:
            await asyncio.sleep(1)
            raise LookupError

        with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
            async with asyncio.TaskGroup() as group:
                group.create_task(waits())
                group.create_task(fails())
                group.create_task(waits())
        assert [type(error) for error in caught.value.exceptions] == [LookupError]
        assert current().time() == 1
        return ended

    assert run(main, seed=seed) == ["cancelled"] * 2


def test_locks_let_the_right_number_in(seed: int | None) -> None:
    """Semaphores, conditions and queues work in every order."""

    async def main() -> int:
        gate = asyncio.Semaphore(3)
        queue: asyncio.Queue[int] = asyncio.Queue(2)
        condition = asyncio.Condition()
        inside = most = taken = 0

        async def work(number: int) -> None:
            nonlocal inside, most
            async with gate:
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0.1)
                inside -= 1
            await queue.put(number)

        async def collect() -> None:
            nonlocal taken
            while taken < 20:
                await queue.get()
                async with condition:
                    taken += 1
                    condition.notify_all()

        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(work(number))
            group.create_task(collect())
            async with condition:
                await condition.wait_for(lambda: taken == 20)
        return most

    assert run(main, seed=seed) == 3


def test_gather_and_shield_keep_their_promises(seed: int | None) -> None:
    """Results come in the order asked; a shielded task survives."""

    async def main() -> list[int]:
        async def one(number: int) -> int:
            await asyncio.sleep(10 - number)
            return number

        inner = asyncio.create_task(one(3))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(inner), 1)
        return [*await asyncio.gather(*map(one, range(5))), await inner]

    assert run(main, seed=seed) == [0, 1, 2, 3, 4, 3]


def test_context_variables_follow_their_task(seed: int | None) -> None:
    """Callbacks run in the context in which they were scheduled."""
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    async def main() -> list[int]:
        seen: list[int] = []

        async def one(number: int) -> None:
            variable.set(number)
            asyncio.get_running_loop().call_soon(lambda: seen.append(variable.get()))
            await asyncio.sleep(1)
            assert variable.get() == number

        await asyncio.gather(one(1), one(2))
        empty = contextvars.Context()
        await asyncio.get_running_loop().create_task(settle(), context=empty)
        assert variable.get() == 0
        return sorted(seen)

    assert run(main, seed=seed) == [1, 2]


def test_an_abandoned_generator_is_closed(seed: int | None) -> None:
    """Both the one that was dropped and the one that is still held at the end."""
    closed: list[str] = []
    held: list[AsyncIterator[int]] = []

    async def numbers(name: str) -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            closed.append(name)

    async def main() -> None:
        dropped, kept = numbers("dropped"), numbers("kept")
        await anext(dropped)
        await anext(kept)
        held.append(kept)
        del dropped
        await asyncio.sleep(1)

    run(main, seed=seed)

    assert closed == ["dropped", "kept"]


def test_anyio_scopes_cancel_in_virtual_time(seed: int | None) -> None:
    """Deadlines, shields, task groups and events of anyio's asyncio backend."""

    async def main() -> float:
        with anyio.move_on_after(3) as outer:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(5)
            await anyio.sleep(100)
        assert outer.cancelled_caught
        assert current().time() == 5

        event = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 1000)
            group.start_soon(event.wait)
            await anyio.sleep(1)
            event.set()
            group.cancel_scope.cancel()

        limiter = anyio.CapacityLimiter(2)
        async with anyio.create_task_group() as group:
            for _ in range(4):

                async def one() -> None:
                    async with limiter:
                        await anyio.sleep(1)

                group.start_soon(one)
        with pytest.raises(TimeoutError), anyio.fail_after(1):
            await anyio.sleep_forever()
        return current().time()

    assert run(main, seed=seed) == 9


def test_a_scope_that_keeps_cancelling_reaches_who_resists(seed: int | None) -> None:
    """Anyio cancels again and again until the task leaves the scope."""

    async def main() -> int:
        resisted = 0
        with anyio.CancelScope() as scope:
            scope.cancel()
            for _ in range(3):
                try:
                    await anyio.sleep(1)
                except asyncio.CancelledError:
                    resisted += 1
            await anyio.sleep(1)
        return resisted

    assert run(main, seed=seed) == 3


def test_a_task_factory_makes_the_tasks(seed: int | None) -> None:
    """Names and contexts reach the tasks that it makes."""

    async def main() -> list[str]:
        made: list[str] = []
        loop = current()

        def factory(loop: asyncio.AbstractEventLoop, coro: object, **options: object) -> object:
            made.append("task")
            return asyncio.Task(coro, loop=loop, **options)  # type: ignore[arg-type]

        loop.set_task_factory(factory)
        assert loop.get_task_factory() is factory
        task = loop.create_task(asyncio.sleep(1), name="chosen", context=contextvars.Context())
        assert task in loop.pending_tasks()
        await task
        loop.set_task_factory(None)
        return [*made, task.get_name()]

    assert run(main, seed=seed) == ["task", "chosen"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_eager_tasks_start_at_once(seed: int | None) -> None:
    """The interpreter's own task factory works too."""

    async def main() -> list[str]:
        order: list[str] = []

        async def one() -> None:
            order.append("started")
            await asyncio.sleep(1)
            order.append("ended")

        current().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        task = asyncio.create_task(one(), name="eager")
        order.append("made")
        await task
        return order

    assert run(main, seed=seed) == ["started", "made", "ended"]


def test_tasks_are_named_alike_in_every_run() -> None:
    """Names do not count on from one run to the next, so two logs can be compared."""

    async def main() -> str:
        task = asyncio.create_task(asyncio.sleep(0))
        await task
        return task.get_name()

    assert run(main) == run(main)
