"""Borrowers and a backend that misbehave at random: the books balance after every step."""

import asyncio
import contextlib
import random
from typing import Any

import pytest

from millpond import ConnectionPool, PoolError, PoolSettings
from millpond.testing import ScriptedBackend, ScriptedDriver, run
from millpond.testing.driver import HANG_FOR_EVER, BackendDown, Dawdle, Fail, Hang
from millpond.testing.loop import current

BATCH = 50


def settings_for(rng: random.Random) -> PoolSettings:
    """Any kind of pool."""
    return PoolSettings(
        min_size=rng.randrange(0, 2), max_size=rng.randrange(1, 5),
        max_leases_per_connection=rng.choice([1, 1, 3]),
        validate_after_idle=rng.choice([None, 0.0, 0.05]), max_uses=rng.choice([None, 3]),
        max_lifetime=rng.choice([None, 2.0]), idle_timeout=rng.choice([None, 0.5]), retry_delay=0.1,
        recovery_timeout=5.0, max_waiting=rng.choice([None, None, 3]),
        failure_threshold=rng.choice([5, 2, None]),
        health_check_interval=rng.choice([None, 0.3]), max_idle=rng.choice([None, 2]),
        leak_detection_threshold=rng.choice([None, 1.0]),
    )  # fmt: skip


class History:
    """One run of borrowers, trouble, and the calm after it."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.backend = ScriptedBackend(seed=seed, max_borrowers=99)
        self.pool: ConnectionPool[Any] = ConnectionPool(
            ScriptedDriver(self.backend),
            settings=settings_for(self.rng),
            name="history",
            random=random.Random(seed),
        )
        self.is_shared = self.pool.settings.max_leases_per_connection > 1
        self.held: set[Any] = set()
        self.tasks: list[asyncio.Task[None]] = []
        if self.rng.random() < 0.3:
            self.pool.add_listener(lambda _event: self.pool.status())

    def audit(self, *_: object) -> None:
        """What must hold after every step."""
        assert self.pool._ledger.audit() == []

    @contextlib.contextmanager
    def alone(self, conn: Any) -> Any:
        """Nobody else holds this connection, unless the pool is shared."""
        assert self.is_shared or conn not in self.held, "two borrowers of one connection"
        self.held.add(conn)
        try:
            yield
        finally:
            self.held.discard(conn)

    async def use(self, conn: Any, number: int) -> None:
        """What borrowers do, mistakes included."""
        rng = self.rng
        with self.alone(conn):
            if self.is_shared:
                await asyncio.sleep(0.001)
            else:
                await conn.request(number)
            if rng.random() < 0.1:
                await asyncio.sleep(rng.random() * 3)
            if rng.random() < 0.05 and not self.is_shared:
                conn.kill()
            if rng.random() < 0.1:
                raise ValueError("the borrower's own mistake")

    async def borrow(self, number: int) -> None:
        """A few leases, in both spellings."""
        rng = self.rng
        for _ in range(rng.randrange(1, 5)):
            with contextlib.suppress(PoolError, ValueError, OSError):
                if self.is_shared or rng.random() < 0.7:
                    async with self.pool.acquire(timeout=rng.choice([0, 0.05, 1, 2, 5, None])) as conn:
                        await self.use(conn, number)
                else:
                    conn = await self.pool.acquire(timeout=rng.choice([0.05, 1, 5]))
                    try:
                        await self.use(conn, number)
                    finally:
                        await self.pool.release(conn, discard=rng.random() < 0.1)
            await asyncio.sleep(rng.choice([0, 0, 0.001, 0.01, 0.5]))

    def trouble(self) -> None:
        """One thing goes wrong, or an operator does something."""
        rng, backend, pool = self.rng, self.backend, self.pool
        draw = rng.random()
        if draw < 0.4 and self.tasks:
            rng.choice(self.tasks).cancel()
        elif draw < 0.5:
            backend.down()
        elif draw < 0.65:
            backend.up()
        elif draw < 0.72:
            pool.resize(min_size=0, max_size=rng.randrange(1, 5))
        elif draw < 0.78:
            pool.clear(rng.choice([0, 0, 1.0]))
        elif draw < 0.82:
            pool.pause(rng.choice(["queue", "refuse"]))
        elif draw < 0.9:
            pool.resume()
        elif draw < 0.95:
            backend.connect_script.append(
                rng.choice([Fail(BackendDown()), Hang(), Dawdle(0.5), HANG_FOR_EVER])
            )
        else:
            backend.ping_script.append(Hang())
            backend.reset_script.append(Hang())

    def calm(self) -> None:
        """The backend is well again and the pool lends."""
        self.backend.up()
        for script in (self.backend.connect_script, self.backend.ping_script, self.backend.reset_script):
            script.clear()
        self.pool.resume()

    async def run(self) -> None:
        """The whole history; afterwards nothing may be left of it."""
        rng, pool = self.rng, self.pool
        current().after_step = self.audit
        for number in range(rng.randrange(1, 25)):
            self.tasks.append(asyncio.create_task(self.borrow(number)))
        for _ in range(rng.randrange(0, 40)):
            await asyncio.sleep(rng.choice([0, 0.001, 0.01, 0.2, 1]))
            self.trouble()
        self.calm()
        finished, hanging = await asyncio.wait(self.tasks, timeout=400)
        assert not hanging
        for task in finished:
            assert task.cancelled() or task.exception() is None
        await asyncio.sleep(120)
        status = pool.status()
        assert (status.busy, status.waiting, status.opening, status.closing) == (0, 0, 0, 0)
        async with pool.acquire(timeout=40):
            pass
        stats = pool.stats()
        outcomes = stats.served + stats.timed_out + stats.cancelled + stats.refused + stats.failed
        assert stats.requests == outcomes + stats.waiting
        await pool.close()
        assert pool.status().total == 0


@pytest.mark.parametrize("batch", range(6))
def test_whatever_happens_the_books_balance_and_the_pool_heals(batch: int) -> None:
    """No borrower hangs, none shares, nothing is lost; the seed of a failure is in its notes."""
    steps = 0
    for seed in range(batch * BATCH, (batch + 1) * BATCH):
        history = History(seed)

        async def main(history: History = history) -> int:
            await history.run()
            return current().steps

        steps += run(main, seed=seed)

    assert steps > BATCH * 200
