"""A pool that can do nothing sleeps: upkeep does not look again and again for what is not its turn."""

import asyncio

from millpond.testing.driver import HANG_FOR_EVER
from millpond.testing.loop import current
from tests.kernel.worlds import World, in_world


async def _fill(world: World, count: int) -> None:
    held = [await world.pool.acquire() for _ in range(count)]
    for conn in held:
        await world.pool.release(conn)


def test_a_drained_pool_with_idle_connections_sleeps() -> None:
    """Their pings are due, and wait until the pool lends again."""

    async def story(world: World) -> None:
        await _fill(world, 2)
        await world.pool.drain()
        steps = current().steps
        await asyncio.sleep(600)
        assert current().steps - steps < 600

        world.pool.resume()
        pings = world.pool.stats().pings
        await asyncio.sleep(1)
        assert world.pool.stats().pings == pings + 2

    in_world(story, idle_timeout=None, max_lifetime=None)


def test_pings_beyond_the_limit_wait_without_being_looked_for() -> None:
    """While `max_connecting` pings hang the next one is not due; when one ends it is, at once."""

    async def story(world: World) -> None:
        await _fill(world, 4)
        world.backend.ping_script.append(HANG_FOR_EVER)
        await asyncio.sleep(10.5)
        steps, pings = current().steps, world.pool.stats().pings
        await asyncio.sleep(4)
        assert current().steps - steps < 30
        assert pings == world.pool.stats().pings == 1
        world.backend.unhang()
        await asyncio.sleep(0.1)

        assert world.pool.stats().pings == 4

    in_world(story, max_connecting=1, health_check_interval=10.0, idle_timeout=None, max_lifetime=None)
