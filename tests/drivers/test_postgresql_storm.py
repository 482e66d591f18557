"""Borrowers cancelled at random in the middle of everything: no answer goes astray, nothing stays behind."""

import asyncio
import os
import random
from collections import Counter
from typing import Any, Final

from millpond import ConnectionPool, PoolSettings
from tests.drivers.backends import PostgreSQL, until

CANCELLATIONS: Final = int(os.environ.get("MILLPOND_CANCELLATIONS", "2000"))
AT_ONCE: Final = 8
MOST: Final = 4


async def test_a_storm_of_cancellations_through_the_pool(either: PostgreSQL, record_property: Any) -> None:
    """Answers belong to their questions, no row is left, and the server lists just the pool's sessions."""
    settings = PoolSettings(min_size=0, max_size=MOST, acquire_timeout=30.0, validate_after_idle=None)
    pool = ConnectionPool(either.driver(), settings=settings, name="storm")
    draw = random.Random(20261121)
    counted: Counter[str] = Counter()

    async def borrow(question: int) -> None:
        async with pool.acquire() as conn:
            dice = draw.random()
            if dice < 0.2:
                await either.begin(conn)
            elif dice < 0.4:
                async with conn.transaction():
                    counted["requests"] += 1
                    answer = await either.ask(conn, question + 9)
                    counted["right" if answer == question + 9 else "wrong"] += 1
            for each in range(question, question + 3):
                counted["requests"] += 1
                answer = await either.ask(conn, each)
                counted["right" if answer == each else "wrong"] += 1

    async def storm() -> None:
        while counted["cancelled"] < CANCELLATIONS:
            counted["borrowers"] += 1
            task = asyncio.create_task(borrow(counted["borrowers"] * 10))
            for _ in range(draw.randrange(150)):
                await asyncio.sleep(0)
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            counted["cancelled" if isinstance(outcome, asyncio.CancelledError) else "finished"] += 1
            assert outcome is None or isinstance(outcome, asyncio.CancelledError)

    await asyncio.gather(*(storm() for _ in range(AT_ONCE)))

    async def is_quiet() -> bool:
        status = pool.status()
        return status.total == status.idle

    await until(is_quiet)
    await either.gone(left=pool.status().total)
    async with pool.acquire() as conn:
        rows = await either.rows(conn)
        own = {either.pid(conn)}
    at_server = {client.pid for client in await either.clients()}
    print(either.library, dict(counted), "opened", pool.stats().opened)
    record_property(either.library, dict(counted))
    await pool.close(timeout=5.0)
    await either.gone()

    assert counted["wrong"] == 0
    assert counted["right"] > 0
    assert rows == 0
    assert own <= at_server
