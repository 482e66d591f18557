"""Cancellation loses nothing, wherever it strikes."""

import asyncio

import pytest

from millpond.testing.driver import Dawdle
from tests.kernel.worlds import SEEDS, World, in_world


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("turns", range(12))
def test_a_borrower_cancelled_at_any_turn_leaves_the_pool_whole(turns: int, seed: int) -> None:
    """Cold pool, someone waiting behind: the one behind is served and nothing leaks."""

    async def story(world: World) -> None:
        world.backend.connects = Dawdle(0.001)
        first = asyncio.create_task(world.borrow(0.001))
        behind = asyncio.create_task(world.borrow())
        for _ in range(turns):
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        await behind
        assert world.pool.status().busy == 0

    world = in_world(story, seed=seed, max_size=1)

    stats = world.pool.stats()
    assert stats.requests == stats.served + stats.cancelled


@pytest.mark.parametrize("seed", SEEDS)
def test_a_waiter_cancelled_as_it_is_handed_a_connection_passes_it_on(seed: int) -> None:
    """The hand-over and the cancellation fall in the same turn of the loop."""

    async def story(world: World) -> None:
        conn = await world.pool.acquire()
        first = asyncio.create_task(world.borrow())
        second = asyncio.create_task(world.borrow())
        await asyncio.sleep(0.01)
        await world.pool.release(conn)
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
        await asyncio.wait_for(second, 1)

    world = in_world(story, seed=seed, max_size=1)

    assert world.backend.opened == 1


def test_a_connect_started_for_one_who_left_serves_the_next() -> None:
    """The attempt belongs to the pool."""

    async def story(world: World) -> None:
        world.backend.connects = Dawdle(1)
        first = asyncio.create_task(world.borrow())
        await asyncio.sleep(0.5)
        first.cancel()
        began = world.now()
        await world.borrow()
        assert world.now() - began < 0.6

    world = in_world(story, max_size=1)

    assert world.backend.opened == 1


def test_a_coroutine_closed_while_it_waits_leaves_the_queue() -> None:
    """GeneratorExit is as good as a cancellation."""

    async def story(world: World) -> None:
        async with world.pool.acquire():
            waiting = world.pool.acquire().__aenter__()
            waiting.send(None)
            assert world.pool.status().waiting == 1
            waiting.close()
            assert world.pool.status().waiting == 0

    in_world(story, max_size=1)
