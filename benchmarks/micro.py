"""What a lease costs when nobody else wants it, when many do, as their number grows, and when they leave.

All of it in time of the processor: nothing sleeps in any of these measurements, so that what other processes
take of the machine is left out. The operating system counts it by the nanosecond here, and reading it takes
0.3 µs, twice in each slice of four milliseconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from benchmarks.harness import COST, Measure, Rounds, Spread, interleave
from benchmarks.subjects import Lease, Nothing, Subject, millpond_pool
from millpond import ConnectionPool

_CLOCK: Final = time.process_time
_LONG_S: Final = 60.0
SLICE_S: Final = 0.004
"""So long one subject is measured in one round, about."""
DEAR_S: Final = 1e-4
"""A turn that takes longer is measured less often."""

NARROW: Final = 10
FEW: Final = 20
MANY: Final = 10_000
"""How many wait: tasks that have a connection come on top."""
TURNS: Final = 3
"""So many each task of a large crowd takes, on average, while it is measured."""
WIDE: Final = 1000
LIMITED: Final = "{} under asyncio.timeout(10)"
UNLIMITED: Final = "millpond, acquire_timeout=None"
SEMAPHORE: Final = "asyncio.Semaphore"
AT_ONCE: Final = "{}, asked again at once"
RESTLESS: Final = ("millpond", SEMAPHORE, "aio_pika.pool")
"""Whose turns are measured without a step between them, too."""
BOTH_AT_ONCE: Final = (AT_ONCE.format("millpond"), AT_ONCE.format(SEMAPHORE))


Timing = Callable[[], Awaitable[float]]
"""A `Measure` of one number."""


def uncontended(lease: Lease) -> Measure:
    """Seconds for one `async with`, with nobody else there."""
    times = 0

    async def some(count: int) -> float:
        began = _CLOCK()
        for _ in range(count):
            async with lease():
                pass
        return (_CLOCK() - began) / count

    async def run() -> float:
        nonlocal times
        if not times:  # the round that warms up finds out how many make a slice
            await some(20)
            times = max(50, min(5000, round(SLICE_S / await some(50))))
        return await some(times)

    return run


def explicit(acquire: Callable[[], Awaitable[Any]], release: Callable[[Any], Awaitable[Any]]) -> Measure:
    """Seconds for one acquire and release without `async with`."""

    async def run() -> float:
        times = 2000
        began = _CLOCK()
        for _ in range(times):
            await release(await acquire())
        return (_CLOCK() - began) / times

    return run


def answers(pool: ConnectionPool[Any]) -> Measure:
    """Seconds for what the driver says of a connection around every lease: `is_closed` and `after_lease`."""

    async def run() -> float:
        times = 1000
        driver = pool.driver
        async with pool.acquire() as conn:
            is_closed, after_lease = driver.is_closed, driver.after_lease
            began = _CLOCK()
            for _ in range(times):
                is_closed(conn)
                after_lease(conn, None)
            return (_CLOCK() - began) / times

    return run


class Owners:
    """Who had each connection last: counts the turns that a task took with the connection it had just had."""

    def __init__(self) -> None:
        self.turns = self.own_again = 0
        self._last: dict[int, object] = {}

    def note(self, conn: object) -> None:
        """A task has a connection now."""
        task = asyncio.current_task()
        self.turns += 1
        self.own_again += self._last.get(id(conn)) is task
        self._last[id(conn)] = task

    @property
    def share(self) -> float:
        """The share of such turns, 0 to 1."""
        return self.own_again / self.turns if self.turns else 0.0


def handed_over(
    lease: Lease, tasks: int, turns: int, owners: Owners | None = None, *, rests: bool = True
) -> Timing:
    """Seconds for one turn of `tasks` tasks that are there already.

    A turn is: ask, hold for one step of the loop, give back, do something else for one step (if it `rests`).
    That step between two turns is what makes it a hand-over: without it a pool that wakes a waiter by a queue
    lets the task that has just released take its own connection back without suspending, and nothing is
    handed to anybody.
    """

    async def run() -> float:
        loop = asyncio.get_running_loop()
        gate = loop.create_future()

        async def borrow() -> None:
            await gate
            for _ in range(turns):
                async with lease() as conn:
                    if owners is not None:
                        owners.note(conn)
                    await asyncio.sleep(0)
                if rests:
                    await asyncio.sleep(0)

        waiting = [loop.create_task(borrow()) for _ in range(tasks)]
        await asyncio.sleep(0)  # all of them have come to the gate
        began = _CLOCK()
        gate.set_result(None)
        await asyncio.gather(*waiting)
        return (_CLOCK() - began) / (tasks * turns)

    return run


def sized(lease: Lease, tasks: int, turns: int, *, rests: bool = True) -> Measure:
    """`handed_over`, with two turns only where one is so dear that a round would be waited for."""
    chosen: Timing | None = None

    async def run() -> float:
        nonlocal chosen
        if chosen is None:
            is_dear = await handed_over(lease, tasks, 1, rests=rests)() > DEAR_S
            chosen = handed_over(lease, tasks, min(2, turns) if is_dear else turns, rests=rests)
        return await chosen()

    return run


def repeated(measure: Timing, times: int) -> Measure:
    """The mean of several in a row, where one is too short."""

    async def run() -> float:
        return sum([await measure() for _ in range(times)]) / times

    return run


def crowded(lease: Lease, tasks: int, turns: int) -> Measure:
    """Seconds for one turn in the middle of a crowd: when it has come, and before it goes.

    `tasks` tasks take turns as in `handed_over`. Those in which all of them come are left out, as many as
    there are tasks, and those in which they end; `turns` for each task on average are counted in between. So
    a turn of a few tasks that take many and one of many tasks that take a few are the same thing.
    """

    async def run() -> float:
        had, last = 0, tasks * (turns + 1)
        began = ended = 0.0

        async def borrow() -> None:
            nonlocal had, began, ended
            while had < last:
                async with lease():
                    await asyncio.sleep(0)
                had += 1
                if had == tasks:
                    began = _CLOCK()
                elif had == last:
                    ended = _CLOCK()
                await asyncio.sleep(0)

        await asyncio.gather(*(borrow() for _ in range(tasks)))
        return (ended - began) / (tasks * turns)

    return run


def burst(lease: Lease, tasks: int) -> Measure:
    """Seconds for one of `tasks` tasks that are made, borrow once for one step of the loop, and end."""

    async def borrow() -> None:
        async with lease():
            await asyncio.sleep(0)

    async def run() -> float:
        began = _CLOCK()
        await asyncio.gather(*(borrow() for _ in range(tasks)))
        return (_CLOCK() - began) / tasks

    return run


def expired(acquire: Callable[[float], Awaitable[Any]], waiters: int, batches: int) -> Measure:
    """Seconds for one acquire that times out, from where all wait to the last error.

    `acquire` takes the instant, in the loop's time, at which it has to give up: one and the same for all.
    Timers that are due at twenty instants would wake the loop twenty times, those of ten thousand that are
    overdue together but once, and a semaphore would seem to become cheaper with more waiters.
    """
    limit_s = 0.003 + waiters * 60e-6  # so that all wait before the first one gives up

    async def borrow(until: float) -> bool:
        try:
            await acquire(until)
        except TimeoutError:
            return True
        return False

    async def run() -> float:
        used = 0.0
        for _ in range(batches):
            until = asyncio.get_running_loop().time() + limit_s
            tasks = [asyncio.create_task(borrow(until)) for _ in range(waiters)]
            await asyncio.sleep(0)
            began = _CLOCK()
            if not all(await asyncio.gather(*tasks)):
                raise RuntimeError("an acquire that should have timed out was served")
            used += _CLOCK() - began
        return used / (waiters * batches)

    return run


def cancelled(acquire: Callable[[], Awaitable[Any]], waiters: int, batches: int) -> Measure:
    """Seconds for one acquire that is cancelled while it waits, the oldest first."""

    async def borrow() -> None:
        await acquire()

    async def run() -> float:
        took = 0.0
        for _ in range(batches):
            tasks = [asyncio.create_task(borrow()) for _ in range(waiters)]
            await asyncio.sleep(0)
            began = _CLOCK()
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            took += _CLOCK() - began
            if not all(isinstance(each, asyncio.CancelledError) for each in ended):
                raise RuntimeError("an acquire that should have been cancelled was not")
        return took / (waiters * batches)

    return run


def given(pool: ConnectionPool[Any]) -> Measure:
    """Seconds for one `await pool.lease()` and its `release()`."""

    async def run() -> float:
        times = 500
        began = _CLOCK()
        for _ in range(times):
            (await pool.lease()).release()
        return (_CLOCK() - began) / times

    return run


EXPLICIT: Final = "explicit"
LISTENER: Final = "with a listener"
SHARED: Final = "shared"
GIVEN: Final = "`await pool.lease()`"
USES: Final = "with max_uses"
LEAKS: Final = "with leak_detection_threshold=60"
OWN_WAYS: Final = (EXPLICIT, LISTENER, SHARED, GIVEN, USES, LEAKS)
"""Ours, spelt or set otherwise than the plain one."""


async def leases(subjects: list[Subject], rounds: int) -> Rounds:
    """Uncontended: every pool, every spelling of ours, what can be switched on, and the base."""
    plain, heard = millpond_pool(), millpond_pool()
    shared = millpond_pool(max_leases_per_connection=4)
    counted = millpond_pool(max_uses=1_000_000_000)
    watched = millpond_pool(leak_detection_threshold=60.0)
    pools = (plain, heard, shared, counted, watched)
    for pool in pools:
        await pool.initialize()
    heard.add_listener(lambda _event: None)
    measures: dict[str, Measure] = {"nothing": uncontended(Nothing)}
    measures |= {subject.name: uncontended(subject.lease) for subject in subjects}
    measures |= {
        EXPLICIT: explicit(plain.acquire, plain.release),
        LISTENER: uncontended(heard.acquire),
        SHARED: uncontended(shared.acquire),
        GIVEN: given(plain),
        USES: uncontended(counted.acquire),
        LEAKS: uncontended(watched.acquire),
    }
    result = await interleave(measures, rounds=rounds)
    for pool in pools:
        await pool.close()
    return result


class Limited:
    """One lease with ten seconds to get it, as cheaply as one can write it around a pool without a limit."""

    __slots__ = ("_borrowed",)

    def __init__(self, borrowed: AbstractAsyncContextManager[Any]) -> None:
        self._borrowed = borrowed

    async def __aenter__(self) -> Any:
        async with asyncio.timeout(10.0):
            return await self._borrowed.__aenter__()

    def __aexit__(self, kind: Any, error: Any, trace: Any) -> Awaitable[bool | None]:
        return self._borrowed.__aexit__(kind, error, trace)


def limited(lease: Lease) -> Lease:
    """The same lease, each time under such a limit."""
    return lambda: Limited(lease())


async def handovers(
    subjects: list[Subject], rounds: int, *, tasks: int = 1000, turns: int = 5
) -> tuple[Rounds, Rounds, dict[str, float]]:
    """Contended, on 10 connections: tasks that live on, tasks of one lease each, and the share of own again.

    Ours is there twice: with the ten seconds that are its default, and without a limit like most peers;
    the fastest ones are there with such a limit around them. Some are there once more with tasks that ask
    again in the step in which they gave back.
    """
    endless = millpond_pool(acquire_timeout=None)
    await endless.initialize()
    bounded = (SEMAPHORE, "aio_pika.pool", "asyncio-connection-pool")
    everyone = {one.name: one.lease for one in subjects} | {UNLIMITED: endless.acquire}
    everyone |= {LIMITED.format(one.name): limited(one.lease) for one in subjects if one.name in bounded}
    at_once = {AT_ONCE.format(name): everyone[name] for name in RESTLESS if name in everyone}
    living = await interleave(
        {name: sized(lease, tasks, turns) for name, lease in everyone.items()}
        | {name: sized(lease, tasks, turns, rests=False) for name, lease in at_once.items()},
        rounds=rounds,
    )
    once = await interleave({name: burst(lease, tasks) for name, lease in everyone.items()}, rounds=rounds)
    own_again = {}
    for name, lease in (everyone | at_once).items():
        if name not in living.failed:
            few = min(2, turns) if living.cost_us(name) > DEAR_S * 1e6 else turns
            await handed_over(lease, tasks, few, owners := Owners(), rests=name not in at_once)()
            own_again[name] = owners.share
    await endless.close()
    return living, once, own_again


class Grown:
    """Ratios to a semaphore, and how they grow: ours and a semaphore, each at a small and at a large size."""

    def __init__(self, rounds: Rounds) -> None:
        self.rounds = rounds

    def ratio(self, story: str) -> Spread:
        """How much the ratio to a semaphore grows."""

        def grown(large: float, its_base: float, small: float, other_base: float) -> float:
            return large / its_base / (small / other_base)

        names = (f"{story}, {size}{base}" for size in ("large", "small") for base in ("", SEMAPHORE))
        return self.rounds.each(grown, *names)

    def own(self, story: str) -> Spread:
        """How much our own cost grows."""
        return self.rounds.ratio(f"{story}, large", f"{story}, small")

    def of_semaphore(self, story: str) -> Spread:
        """How much the semaphore's own cost grows."""
        return self.rounds.ratio(f"{story}, large{SEMAPHORE}", f"{story}, small{SEMAPHORE}")

    def cost_us(self, story: str) -> tuple[float, float]:
        """Ours at the small and at the large size, microseconds."""
        return self.rounds.cost_us(f"{story}, small"), self.rounds.cost_us(f"{story}, large")


WAITERS: Final = "a turn, from 20 to 10,000 waiters"
CONNECTIONS: Final = "a turn, from 10 to 1,000 connections"
EXPIRED: Final = "a time-out, from 20 to 10,000 waiters"
CANCELLED: Final = "a cancel, from 20 to 10,000 waiters"
COMING: Final = "a task that comes, has one turn and ends, from 20 to 10,000 waiters"
STORIES: Final = (WAITERS, COMING, EXPIRED, CANCELLED, CONNECTIONS)


async def growth(rounds: int, *, many: int = MANY) -> Grown:
    """What each costs at a small and at a large size, beside a semaphore at the same number of tasks.

    Turns of twenty waiters are those of thirty tasks on ten connections.
    """
    most = min(WIDE, many)
    narrow, wide, taken = millpond_pool(NARROW), millpond_pool(most), millpond_pool(NARROW)
    for pool in (narrow, wide, taken):
        await pool.initialize()
    ten, thousand, none = asyncio.Semaphore(NARROW), asyncio.Semaphore(most), asyncio.Semaphore(0)

    async def limited_none(until: float) -> None:
        async with asyncio.timeout_at(until):
            await none.acquire()

    def patient() -> Any:
        return narrow.acquire(timeout=_LONG_S)

    def endless() -> Any:
        return taken.acquire(timeout=_LONG_S)

    def short(until: float) -> Any:
        return taken.acquire(timeout=max(0.0, until - asyncio.get_running_loop().time()))

    held = [await taken.lease() for _ in range(NARROW)]
    base, few, crowd, tasks = SEMAPHORE, FEW + NARROW, many + NARROW, 2 * most
    done = await interleave(
        {
            f"{WAITERS}, small": crowded(patient, few, 200),
            f"{WAITERS}, small{base}": crowded(lambda: ten, few, 200),
            f"{WAITERS}, large": crowded(patient, crowd, TURNS),
            f"{WAITERS}, large{base}": crowded(lambda: ten, crowd, TURNS),
            f"{COMING}, small": repeated(handed_over(patient, few, 1), 50),
            f"{COMING}, small{base}": repeated(handed_over(lambda: ten, few, 1), 50),
            f"{COMING}, large": handed_over(patient, crowd, 1),
            f"{COMING}, large{base}": handed_over(lambda: ten, crowd, 1),
            f"{CONNECTIONS}, small": crowded(patient, tasks, TURNS),
            f"{CONNECTIONS}, small{base}": crowded(lambda: ten, tasks, TURNS),
            f"{CONNECTIONS}, large": crowded(wide.acquire, tasks, TURNS),
            f"{CONNECTIONS}, large{base}": crowded(lambda: thousand, tasks, TURNS),
            f"{EXPIRED}, small": expired(short, FEW, 20),
            f"{EXPIRED}, small{base}": expired(limited_none, FEW, 20),
            f"{EXPIRED}, large": expired(short, many, 1),
            f"{EXPIRED}, large{base}": expired(limited_none, many, 1),
            f"{CANCELLED}, small": cancelled(endless, FEW, 50),
            f"{CANCELLED}, small{base}": cancelled(none.acquire, FEW, 50),
            f"{CANCELLED}, large": cancelled(endless, many, 1),
            f"{CANCELLED}, large{base}": cancelled(none.acquire, many, 1),
        },
        rounds=rounds,
    )
    for lease in held:
        lease.release()
    for pool in (narrow, wide, taken):
        await pool.close()
    if done.failed:
        raise RuntimeError(f"growth could not be measured: {done.failed}")
    return Grown(done)


__all__ = ["COST", "Grown", "growth", "handovers", "leases"]
