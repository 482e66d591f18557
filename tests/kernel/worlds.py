"""Pools over a scripted backend, their guarantees audited after every step of the loop."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from millpond import Allowance, ConnectionPool, PoolSettings
from millpond.testing import Auditor, ScriptedBackend, ScriptedDriver, run
from millpond.testing.loop import current

SEEDS = range(5)


class World:
    """One backend, one loop, and one pool at least."""

    def __init__(self, seed: int, settings: dict[str, Any], allowance: Allowance | None = None) -> None:
        self.seed = seed
        self.allowance = allowance
        self.pools: list[ConnectionPool[Any]] = []
        self.auditor = Auditor()
        self.backend = ScriptedBackend(seed=seed, max_borrowers=settings.get("max_leases_per_connection", 1))
        self.driver = ScriptedDriver(self.backend)
        self.pool = self.another_pool("world", **settings)

    def another_pool(self, name: str, **settings: Any) -> ConnectionPool[Any]:
        """A pool over the same backend, on the same allowance if there is one; closed at the end."""
        pool: ConnectionPool[Any] = ConnectionPool(
            self.driver,
            settings=PoolSettings(**{"min_size": 0, **settings}),
            name=name,
            allowance=self.allowance,
            random=random.Random(f"{self.seed} {name}"),
        )
        self.pools.append(pool)
        self.auditor.add(pool)
        return pool

    def now(self) -> float:
        """Virtual seconds."""
        return current().time()

    async def borrow(
        self, seconds: float = 0.0, question: object = "x", *, pool: ConnectionPool[Any] | None = None
    ) -> object:
        """One lease: a request, then hold the connection for some time."""
        async with (pool or self.pool).acquire() as conn:
            with self.backend.using(conn):
                answer = await conn.request(question)
            await asyncio.sleep(seconds)
            return answer


def in_world(
    story: Callable[[World], Awaitable[object]],
    *,
    seed: int = 0,
    closes: bool = True,
    allowance: Allowance | None = None,
    **settings: Any,
) -> World:
    """Run `story` in a new world; afterwards its pools are closed and nothing may be left of them."""
    world = World(seed, {"min_size": 0, **settings}, allowance)

    async def main() -> None:
        world.auditor.attach()
        await story(world)
        if closes:
            for pool in world.pools:
                await pool.close()
            world.backend.check(all_closed=True)
            world.auditor.finish()
            assert allowance is None or allowance.used == 0

    run(main, seed=seed, check_timers=closes)
    return world
