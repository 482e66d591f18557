"""Several pools on one allowance: floors, waiters, and what is left when a pool ends."""

import asyncio
from typing import Any

from millpond import Allowance, ConnectionPool, PoolSettings
from millpond.testing import ScriptedBackend, ScriptedDriver, run


def pools_on(allowance: Allowance, backend: ScriptedBackend, **settings: Any) -> list[ConnectionPool[Any]]:
    """Two pools of one backend."""
    return [
        ConnectionPool(
            ScriptedDriver(backend), settings=PoolSettings(**settings), name=name, allowance=allowance
        )
        for name in ("left", "right")
    ]


def test_floors_that_do_not_fit_together_trade_no_connections() -> None:
    """Two pools that want three each and may have four between them settle, and stay as they are."""
    backend = ScriptedBackend()

    async def main() -> list[int]:
        pools = pools_on(Allowance(4), backend, min_size=3, max_size=4, max_lifetime=None)
        for pool in pools:
            await pool.initialize()
        await asyncio.sleep(3600)
        sizes = [pool.status().total for pool in pools]
        for pool in pools:
            await pool.close()
        return sorted(sizes)

    assert run(main) == [1, 3]
    assert backend.opened == 4


def test_a_waiting_borrower_comes_before_the_floor_of_another_pool() -> None:
    """What one pool keeps idle for its min_size goes to another pool's borrower, at once and later."""
    backend = ScriptedBackend()

    async def main() -> None:
        left, right = pools_on(Allowance(2), backend, min_size=2, max_size=2)
        await left.initialize()
        await asyncio.sleep(1)
        async with right.acquire(timeout=1), left.acquire(timeout=1), asyncio.timeout(5):
            waiting = asyncio.create_task(right.acquire(timeout=3).__aenter__())
            await asyncio.sleep(1)
        conn = await waiting
        assert conn is not None
        await right.close(timeout=0)
        await left.close()

    run(main)


def test_a_pool_that_drains_lets_others_have_the_place_it_wanted() -> None:
    """A wish of a pool that opens nothing any more does not stand in the line."""
    backend = ScriptedBackend()

    async def main() -> None:
        left, right = pools_on(Allowance(1), backend, min_size=0, max_size=1)
        async with right.acquire():
            wish = asyncio.create_task(left.acquire(timeout=60).__aenter__())
            await asyncio.sleep(1)
            draining = asyncio.create_task(left.drain())
            await asyncio.sleep(1)
        right.clear()
        async with right.acquire(timeout=5):
            pass
        await draining
        wish.cancel()
        await asyncio.wait([wish])
        await left.close()
        await right.close()

    run(main)


def test_the_places_of_a_pool_whose_loop_was_closed_are_free_again() -> None:
    """Another loop's pool may have them; the dead pool's wishes are forgotten too."""
    backend = ScriptedBackend()
    allowance = Allowance(1)
    left, right = pools_on(allowance, backend, min_size=0, max_size=1)

    async def use(pool: ConnectionPool[Any]) -> None:
        async with pool.acquire(timeout=1):
            pass

    run(lambda: use(left))
    run(left.close)
    run(lambda: use(right))
    run(right.close)

    assert allowance.used == 0
