"""Four small pools, each with a bug that published pools have had: the simulation finds every one."""

import asyncio
from collections import deque
from collections.abc import Callable

import pytest

from millpond.testing import (
    Deadlock,
    FaultKind,
    ScriptedBackend,
    ScriptedConnection,
    ScriptedDriver,
    current,
    run,
)


class CorrectPool:
    """Hands connections straight to the first waiter; what the others below get wrong, it gets right."""

    def __init__(self, driver: ScriptedDriver, max_size: int) -> None:
        self.driver, self.max_size = driver, max_size
        self.size = 0
        self.idle: list[ScriptedConnection] = []
        self.waiters: deque[asyncio.Future[ScriptedConnection]] = deque()

    async def acquire(self) -> ScriptedConnection:
        """An idle one, a new one, or the next to come back."""
        if self.idle:
            return self.idle.pop()
        if self.size < self.max_size:
            return await self.open()
        return await self.wait()

    async def open(self) -> ScriptedConnection:
        """Take the place first, then connect."""
        self.size += 1
        return await self.driver.connect()

    async def wait(self) -> ScriptedConnection:
        """Wait for one; who is cancelled passes on what was given meanwhile."""
        waiter: asyncio.Future[ScriptedConnection] = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.give(waiter.result())
            raise

    async def release(self, conn: ScriptedConnection) -> None:
        """Clean it, then give it on."""
        self.driver.after_lease(conn, None)
        await self.driver.reset(conn)
        self.give(conn)

    def give(self, conn: ScriptedConnection) -> None:
        """To the first who still waits, or to the idle ones."""
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(conn)
                return
        self.idle.append(conn)


class CountsTooLate(CorrectPool):
    """Counts a connection when it is there; meanwhile others open more."""

    async def open(self) -> ScriptedConnection:
        conn = await self.driver.connect()
        self.size += 1
        return conn


class DropsOnCancel(CorrectPool):
    """Forgets that a cancelled waiter may have been given a connection already."""

    async def wait(self) -> ScriptedConnection:
        waiter: asyncio.Future[ScriptedConnection] = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        return await waiter


class NeverCleans(CorrectPool):
    """Gives on what comes back as it is."""

    async def release(self, conn: ScriptedConnection) -> None:
        self.give(conn)


class WakesAndHopes(CorrectPool):
    """Parks the connection and wakes a waiter, who takes it for granted that it is still there."""

    async def wait(self) -> ScriptedConnection:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)  # type: ignore[arg-type]
        await waiter
        return self.idle.pop()

    def give(self, conn: ScriptedConnection) -> None:
        self.idle.append(conn)
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(conn)
                return


def crowd(make: Callable[[ScriptedDriver, int], CorrectPool], seed: int | None) -> ScriptedBackend:
    """Six borrowers on two connections; some leave a variable behind."""
    backend = ScriptedBackend()

    async def main() -> None:
        pool = make(ScriptedDriver(backend), 2)

        async def borrow(number: int) -> None:
            for _ in range(3):
                conn = await pool.acquire()
                with backend.using(conn, f"borrower {number}"):
                    await conn.request(number)
                    if number == 3:
                        await conn.set("role", "admin")
                await pool.release(conn)

        async with asyncio.TaskGroup() as group:
            for number in range(6):
                group.create_task(borrow(number))

    run(main, seed=seed)
    return backend


def cancelled_at(make: Callable[[ScriptedDriver, int], CorrectPool], step: int) -> None:
    """One connection, one holder, two who wait for it; the first of them is cancelled at a step."""

    async def main() -> None:
        pool = make(ScriptedDriver(), 1)
        conn = await pool.acquire()
        leaves = asyncio.create_task(pool.acquire())
        await asyncio.sleep(1)
        stays = asyncio.create_task(pool.acquire())
        await asyncio.sleep(1)
        current().at_step(current().steps + step, leaves.cancel)
        await pool.release(conn)
        await asyncio.wait([leaves])
        if not leaves.cancelled():
            await pool.release(leaves.result())
        await pool.release(await stays)
        await asyncio.sleep(10)

    run(main, seed=None)


@pytest.mark.parametrize("seed", [None, *range(20)])
def test_a_correct_pool_passes(seed: int | None) -> None:
    """Under every seed, and cancelled at every step."""
    backend = crowd(CorrectPool, seed)

    backend.check()
    assert backend.peak_live == 2
    for step in range(1, 8):
        cancelled_at(CorrectPool, step)


def test_one_that_counts_too_late_opens_too_many() -> None:
    """The backend knows how many were open at once."""
    assert crowd(CountsTooLate, seed=0).peak_live > 2


def test_one_that_drops_a_connection_on_cancel_ends_in_a_deadlock() -> None:
    """Only a cancellation between the hand-over and the wake-up shows it, and the sweep hits that step."""
    outcomes = []
    for step in range(1, 8):
        try:
            cancelled_at(DropsOnCancel, step)
            outcomes.append("fine")
        except Deadlock:
            outcomes.append("deadlock")

    assert outcomes.count("deadlock") == 1


def test_one_that_never_cleans_lends_dirty_connections() -> None:
    """The backend names what was left and who got it."""
    faults = crowd(NeverCleans, seed=0).faults

    assert {fault.kind for fault in faults} == {FaultKind.LENT_DIRTY}
    assert "session variables" in faults[0].detail


def newcomer_beside_a_waiter(seed: int | None) -> None:
    """One connection; when it comes back, somebody waits for it and somebody else just comes along."""

    async def main() -> None:
        pool = WakesAndHopes(ScriptedDriver(), 1)
        is_back = asyncio.Event()

        async def borrow() -> None:
            await pool.release(await pool.acquire())

        async def come_along() -> None:
            await is_back.wait()
            await borrow()

        conn = await pool.acquire()
        async with asyncio.TaskGroup() as group:
            group.create_task(borrow())
            group.create_task(come_along())
            await asyncio.sleep(1)
            await pool.release(conn)
            is_back.set()

    run(main, seed=seed)


def test_one_that_wakes_and_hopes_fails_when_a_newcomer_is_faster() -> None:
    """Asyncio's own order hides it: only a shuffled one lets the newcomer run first."""
    newcomer_beside_a_waiter(seed=None)
    failed = 0
    for seed in range(20):
        try:
            newcomer_beside_a_waiter(seed)
        except* IndexError:
            failed += 1

    assert 0 < failed < 20
