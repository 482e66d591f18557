"""What a lease costs when nobody else wants it, when many do, and as their number grows."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

from benchmarks.harness import Measure, Rounds, Spread, interleave, spread
from benchmarks.subjects import Lease, Nothing, Subject, everyone, millpond_pool

_CLOCK = time.perf_counter


def uncontended(lease: Callable[[], Any], times: int) -> Measure:
    """Seconds for one `async with`, with nobody else there."""

    async def run() -> float:
        began = _CLOCK()
        for _ in range(times):
            async with lease():
                pass
        return (_CLOCK() - began) / times

    return run


def contended(lease: Lease, tasks: int, turns: int) -> Measure:
    """Seconds for one turn of `tasks` tasks, each of which holds its lease for one step of the loop."""

    async def borrow() -> None:
        for _ in range(turns):
            async with lease():
                await asyncio.sleep(0)

    async def run() -> float:
        began = _CLOCK()
        await asyncio.gather(*(borrow() for _ in range(tasks)))
        return (_CLOCK() - began) / (tasks * turns)

    return run


async def leases(subjects: list[Subject], rounds: int) -> Rounds:
    """Uncontended: every pool, both spellings of ours, with a listener, shared, and the base."""
    plain, heard = millpond_pool(eager_init=True), millpond_pool(eager_init=True)
    shared = millpond_pool(eager_init=True, max_leases_per_connection=4)
    for pool in (plain, heard, shared):
        await pool.initialize()
    heard.add_listener(lambda _event: None)

    async def explicit() -> float:
        times = 2000
        began = _CLOCK()
        for _ in range(times):
            await plain.release(await plain.acquire())
        return (_CLOCK() - began) / times

    measures: dict[str, Measure] = {"nothing": uncontended(Nothing, 2000)}
    for subject in subjects:
        measures[subject.name] = uncontended(subject.lease, 2000 if subject.name == "millpond" else 300)
    measures |= {
        "explicit": explicit,
        "with a listener": uncontended(heard.acquire, 1000),
        "shared": uncontended(shared.acquire, 1000),
    }
    result = await interleave(measures, rounds=rounds)
    for pool in (plain, heard, shared):
        await pool.close()
    return result


async def handovers(subjects: list[Subject], rounds: int) -> Rounds:
    """Contended: 1,000 tasks on 10 connections, two turns each."""
    return await interleave({one.name: contended(one.lease, 1000, 2) for one in subjects}, rounds=rounds)


async def growth(rounds: int) -> dict[str, Spread]:
    """How the ratio to a semaphore changes from 20 to 10,000 tasks, and 10 to 1,000 connections."""
    small, large = millpond_pool(eager_init=True), millpond_pool(1000, eager_init=True)
    ten, thousand = asyncio.Semaphore(10), asyncio.Semaphore(1000)
    for pool in (small, large):
        await pool.initialize()
    done = await interleave(
        {
            "few": contended(small.acquire, 20, 100),
            "few, semaphore": contended(lambda: ten, 20, 100),
            "many": contended(lambda: small.acquire(timeout=60.0), 10_000, 1),
            "many, semaphore": contended(lambda: ten, 10_000, 1),
            "wide": contended(large.acquire, 2000, 2),
            "wide, semaphore": contended(lambda: thousand, 2000, 2),
            "narrow": contended(small.acquire, 2000, 2),
            "narrow, semaphore": contended(lambda: ten, 2000, 2),
        },
        rounds=rounds,
    )
    for pool in (small, large):
        await pool.close()

    def grown(small: str, large: str) -> Spread:
        names = (large, f"{large}, semaphore", small, f"{small}, semaphore")
        return spread([a / b / (c / d) for a, b, c, d in zip(*(done.costs[n] for n in names), strict=True)])

    return {"20 to 10,000 waiters": grown("few", "many"), "10 to 1,000 connections": grown("narrow", "wide")}


async def waiter_bytes(count: int = 2000) -> float:
    """Bytes of one waiter, its future included, beyond a task that waits for a future of all of them."""
    pool = millpond_pool(1, eager_init=True)
    await pool.initialize()
    loop = asyncio.get_running_loop()
    never = loop.create_future()

    async def borrow() -> None:
        async with pool.acquire(timeout=60.0):
            pass

    async def idle() -> None:
        await never

    async def bytes_of(story: Callable[[], Any]) -> float:
        before = tracemalloc.get_traced_memory()[0]
        tasks = [loop.create_task(story()) for _ in range(count)]
        await asyncio.sleep(0.01)
        used = tracemalloc.get_traced_memory()[0] - before
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return used / count

    async with pool.acquire():
        tracemalloc.start()
        await bytes_of(borrow)
        beyond = await bytes_of(borrow) - await bytes_of(idle)
        tracemalloc.stop()
    await pool.close()
    return beyond


def import_ms(rounds: int) -> Spread:
    """Milliseconds that `import millpond` takes in a fresh interpreter that has imported asyncio."""
    text = (
        "import asyncio, time; t = time.perf_counter(); import millpond; "
        "print((time.perf_counter() - t) * 1e3)"
    )

    def once() -> float:
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
        return float(done.stdout)

    once()
    return spread([once() for _ in range(rounds)])


async def fairness(subjects: list[Subject], overload: float, turns: int = 50) -> dict[str, tuple[int, int]]:
    """Least and most turns of tasks that borrow in a loop, when they have had `turns` each on average."""
    result = {}
    tasks = int(10 * overload)
    for subject in subjects:
        had = [0] * tasks

        async def loop(number: int, lease: Lease = subject.lease, had: list[int] = had) -> None:
            while sum(had) < tasks * turns:
                async with lease():
                    await asyncio.sleep(0)
                had[number] += 1

        await asyncio.wait_for(asyncio.gather(*(loop(number) for number in range(tasks))), 60)
        result[subject.name] = (min(had), max(had))
    return result


__all__ = ["everyone", "fairness", "growth", "handovers", "import_ms", "leases", "waiter_bytes"]
