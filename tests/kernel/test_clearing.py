"""clear(): a new generation, at once or spread over time."""

from millpond import Allowance, ConnectionPool, PoolSettings
from millpond.testing import ScriptedBackend, ScriptedDriver, run


def test_connections_that_wait_to_be_closed_make_room_on_a_shared_allowance() -> None:
    """What a spread clear() keeps for a while never keeps a borrower waiting for a place."""
    backend = ScriptedBackend()

    async def main() -> None:
        pool = ConnectionPool(
            ScriptedDriver(backend), settings=PoolSettings(min_size=0, max_size=4), allowance=Allowance(1)
        )
        async with pool.acquire():
            pass
        pool.clear(spread=60.0)
        async with pool.acquire(timeout=0.5):
            pass
        await pool.close()

    run(main, check_timers=True)

    assert backend.opened == 2
