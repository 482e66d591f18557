"""Borrowers cancelled at random in the middle of everything: no answer goes astray, nothing stays behind."""

from typing import Any, Final

from millpond import ConnectionPool, PoolSettings
from tests.drivers.backends import PostgreSQL
from tests.drivers.storm import cancel_at_random

MOST: Final = 4


async def test_a_storm_of_cancellations_through_the_pool(either: PostgreSQL, record_property: Any) -> None:
    """Answers belong to their questions, no row is left, and the server lists just the pool's sessions."""
    settings = PoolSettings(min_size=0, max_size=MOST, acquire_timeout=30.0, validate_after_idle=None)
    pool = ConnectionPool(either.driver(), settings=settings, name="storm")

    counted = await cancel_at_random(pool, either, at_once=8, turns=150)
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
