"""A pool over a scripted backend, its books audited after every step of the loop."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from millpond import ConnectionPool, PoolSettings
from millpond.testing import ScriptedBackend, ScriptedDriver, run
from millpond.testing.loop import current

SEEDS = range(5)


class World:
    """One backend, one pool, one loop."""

    def __init__(self, seed: int, settings: dict[str, Any]) -> None:
        self.seed = seed
        self.backend = ScriptedBackend(seed=seed, max_borrowers=settings.get("max_leases_per_connection", 1))
        self.driver = ScriptedDriver(self.backend)
        self.pool: ConnectionPool[Any] = ConnectionPool(
            self.driver, settings=PoolSettings(**settings), name="world", random=random.Random(seed)
        )

    def now(self) -> float:
        """Virtual seconds."""
        return current().time()

    async def borrow(self, seconds: float = 0.0, question: object = "x") -> object:
        """One lease: a request, then hold the connection for some time."""
        async with self.pool.acquire() as conn:
            with self.backend.using(conn):
                answer = await conn.request(question)
            await asyncio.sleep(seconds)
            return answer


def in_world(
    story: Callable[[World], Awaitable[object]], *, seed: int = 0, closes: bool = True, **settings: Any
) -> World:
    """Run `story` in a new world; afterwards the pool is closed and nothing may be left of it."""
    world = World(seed, {"min_size": 0, **settings})

    async def main() -> None:
        loop = current()

        def audit(*_: object) -> None:
            broken = world.pool._ledger.audit()
            assert not broken, f"seed {seed}: {broken}"

        loop.after_step = audit
        await story(world)
        if closes:
            await world.pool.close()
            world.backend.check(all_closed=True)

    run(main, seed=seed, check_timers=closes)
    return world
