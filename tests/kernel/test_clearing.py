"""clear(): a new generation, at once or spread over time."""

import math
from typing import Any

import pytest

from millpond import Allowance, ConnectionPool, InvalidSettings, PoolSettings
from millpond.testing import ScriptedBackend, ScriptedDriver, run
from tests.kernel.worlds import World, in_world


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


@pytest.mark.parametrize("spread", [-1.0, math.nan, math.inf, True, "1", None], ids=str)
def test_a_spread_that_is_no_time_is_refused_and_clears_nothing(spread: Any) -> None:
    """It would go into the loop's heap of timers, which everybody shares."""

    async def story(world: World) -> None:
        await world.borrow()
        with pytest.raises(InvalidSettings, match="spread"):
            world.pool.clear(spread=spread)

        assert world.pool.status().generation == 0

    in_world(story)
