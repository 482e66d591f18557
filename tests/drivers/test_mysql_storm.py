"""Borrowers cancelled at random in the middle of everything: no answer goes astray, nothing stays behind."""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import pytest

from millpond import ConnectionPool, PoolSettings
from tests.drivers.backends import MySQL, until
from tests.servers import MariaDBServer

CANCELLATIONS: Final = int(os.environ.get("MILLPOND_CANCELLATIONS", "2000"))
AT_ONCE: Final = 12


@pytest.mark.parametrize("library", ["asyncmy", "aiomysql"])
async def test_a_pool_that_wants_more_than_the_server_has_shares_what_it_gets(
    mariadb_server_factory: Callable[..., MariaDBServer], library: str
) -> None:
    """Too many connections is no outage: whoever waits is served by those that there are."""
    backend = MySQL(mariadb_server_factory(max_connections=10), library)
    settings = PoolSettings(min_size=0, max_size=30, acquire_timeout=30.0, retry_delay=0.02)
    pool = ConnectionPool(backend.driver(), settings=settings, name="greedy")

    async def borrow(number: int) -> bool:
        async with pool.acquire() as conn:
            await backend.query(conn, "SELECT SLEEP(0.02)")
            return await backend.ask(conn, number) == number

    answers = await asyncio.gather(*(borrow(number) for number in range(150)))
    most = await backend.sessions()
    await pool.close(timeout=5.0)
    await backend.gone()

    assert all(answers)
    assert most <= 10


@pytest.mark.timeout(600)
async def test_a_storm_of_cancellations_through_the_pool(mysql: MySQL, record_property: Any) -> None:
    """Answers belong to their questions, no row is left, and the server lists just the pool's sessions."""
    driver = mysql.driver()
    settings = PoolSettings(min_size=0, max_size=4, acquire_timeout=30.0, validate_after_idle=None)
    pool = ConnectionPool(driver, settings=settings, name="storm")
    draw = random.Random(20261121)
    counted: Counter[str] = Counter()

    async def borrow(question: int) -> None:
        async with pool.acquire() as conn:
            if draw.random() < 0.3:
                await mysql.begin(conn)
            for each in range(question, question + 3):
                counted["requests"] += 1
                answer = await mysql.ask(conn, each)
                counted["right" if answer == each else "wrong"] += 1

    async def storm() -> None:
        while counted["cancelled"] < CANCELLATIONS:
            counted["borrowers"] += 1
            task = asyncio.create_task(borrow(counted["borrowers"] * 10))
            for _ in range(draw.randrange(120)):
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
    await mysql.gone(left=pool.status().total)
    async with pool.acquire() as conn:
        rows = await mysql.rows(conn)
        own = {conn.thread_id()}
    at_server = {client.id for client in await mysql.clients()}
    print(mysql.library, dict(counted), "opened", pool.stats().opened)
    record_property(mysql.library, dict(counted))
    await pool.close(timeout=5.0)
    await mysql.gone()

    assert counted["wrong"] == 0
    assert counted["right"] > 0
    assert rows == 0
    assert own <= at_server
