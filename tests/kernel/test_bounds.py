"""Memory stays bounded: what a waiter costs, and what a hundred thousand of anything leave behind."""

import asyncio
import contextlib
import gc
import sys
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from millpond import ConnectionPool, PoolSettings, PoolTimeout

MANY = 1000
ROUNDS = 3


@contextlib.asynccontextmanager
async def small_pool(**settings: Any) -> AsyncIterator[ConnectionPool[object]]:
    """A pool of one connection that costs nothing, on asyncio's own loop."""
    pool = ConnectionPool.from_factory(
        object, settings=PoolSettings(**{"min_size": 0, "max_size": 1, **settings})
    )
    async with pool.acquire():
        pass
    yield pool
    await pool.close()


async def bytes_for_each(start: Callable[[], Awaitable[object]]) -> float:
    """What one task costs that has begun `start()` and waits; the tasks are cancelled afterwards."""
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tasks = [asyncio.ensure_future(start()) for _ in range(MANY)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return (after - before) / MANY


async def blocks_left_by(work: Callable[[], Awaitable[object]]) -> int:
    """How many more blocks of memory are in use after `work()` has run than before, once warm."""
    await work()
    gc.collect()
    before = sys.getallocatedblocks()
    await work()
    gc.collect()
    return sys.getallocatedblocks() - before


def test_a_waiter_costs_less_than_a_kilobyte_beyond_its_task() -> None:
    """A thousand borrowers with deadlines, against a thousand tasks that wait for what was there before."""

    async def main() -> tuple[float, float]:
        futures = [asyncio.get_running_loop().create_future() for _ in range(MANY * ROUNDS)]

        async def wait_bare() -> None:
            await futures.pop()

        async with small_pool() as pool:

            async def wait_in_the_queue() -> None:
                await pool.acquire(timeout=60)

            async with pool.acquire():
                # Whatever else allocates meanwhile only adds: the least of some rounds is what it costs.
                bare = min([await bytes_for_each(wait_bare) for _ in range(ROUNDS)])
                waiter = min([await bytes_for_each(wait_in_the_queue) for _ in range(ROUNDS)])
            assert pool.stats().cancelled == MANY * ROUNDS
        return waiter, bare

    waiter, bare = asyncio.run(main())

    assert waiter - bare < 1024


@pytest.mark.parametrize("spelling", ["async with", "await", "lease"])
def test_a_hundred_thousand_leases_leave_nothing_behind(spelling: str) -> None:
    """Counters and histograms of a fixed size are all that remembers them."""
    count = 50_000 if spelling == "async with" else 25_000

    async def main() -> int:
        async with small_pool() as pool:

            async def work() -> None:
                for _ in range(count):
                    if spelling == "async with":
                        async with pool.acquire():
                            pass
                    elif spelling == "await":
                        await pool.release(await pool.acquire())
                    else:
                        (await pool.lease()).release()

            left = await blocks_left_by(work)
            assert pool.stats().served == 2 * count + 1
        return left

    assert asyncio.run(main()) < 200


def test_thirty_thousand_timeouts_leave_nothing_behind() -> None:
    """Neither the borrowers nor their deadlines nor their errors."""

    async def main() -> int:
        async with small_pool() as pool, pool.acquire():

            async def work() -> None:
                for _ in range(15_000):
                    with contextlib.suppress(PoolTimeout):
                        await pool.acquire(timeout=0)

            left = await blocks_left_by(work)
            assert pool.stats().timed_out == 30_000
        return left

    assert asyncio.run(main()) < 200


def test_forty_thousand_cancelled_waiters_leave_nothing_behind() -> None:
    """Though one who came before them waits in front all the time, with an early deadline and a late one."""

    async def main() -> tuple[int, int]:
        async with small_pool() as pool:

            async def wait(timeout: float) -> None:
                async with pool.acquire(timeout=timeout):
                    pass

            async with pool.acquire():
                staying = [asyncio.create_task(wait(timeout)) for timeout in (30, 3000)]

                async def work() -> None:
                    for _ in range(200):
                        leaving = [asyncio.create_task(wait(100)) for _ in range(100)]
                        await asyncio.sleep(0)
                        for task in leaving:
                            task.cancel()
                        await asyncio.wait(leaving)

                left = await blocks_left_by(work)
                assert pool.stats().cancelled == 40_000
                held = pool._ledger.waiters.deadlines_kept
            await asyncio.gather(*staying)
        return left, held

    left, held = asyncio.run(main())

    assert left < 1000
    assert held < 200


def test_connections_that_come_and_go_leave_nothing_behind() -> None:
    """Each is forgotten when it is closed, however it went."""

    async def main() -> int:
        async with small_pool() as pool:

            async def work() -> None:
                for number in range(1000):
                    lease = await pool.lease()
                    if number % 2:
                        lease.discard()
                    else:
                        pool.clear()
                        lease.release()

            left = await blocks_left_by(work)
            assert pool.stats().opened > 1900
        return left

    assert asyncio.run(main()) < 500
