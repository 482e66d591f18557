"""Borrowers cancelled at random in the middle of everything: no answer goes astray, nothing stays behind."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from millpond import ConnectionPool, PoolSettings
from tests.drivers.backends import MySQL
from tests.drivers.storm import cancel_at_random
from tests.servers import MariaDBServer


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

    counted = await cancel_at_random(pool, mysql, at_once=12, turns=120)
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
