"""pause(), drain() and resume()."""

import asyncio

import pytest

from millpond import PoolClosed, PoolTimeout, TimeoutCause
from millpond.testing.driver import Dawdle
from tests.kernel.worlds import SEEDS, World, in_world


@pytest.mark.parametrize("seed", SEEDS)
def test_a_pool_paused_to_queue_lends_nothing_and_serves_in_order_afterwards(seed: int) -> None:
    """Newcomers wait, though a connection is idle; resume() serves them first come, first served."""
    served: list[int] = []

    async def story(world: World) -> None:
        async def borrow(number: int) -> None:
            async with world.pool.acquire():
                served.append(number)

        await world.borrow()
        world.pool.pause()
        tasks = []
        for number in range(5):
            tasks.append(asyncio.create_task(borrow(number)))
            await asyncio.sleep(0.1)
        assert served == []
        assert world.pool.status().state == "paused"
        world.pool.resume()
        await asyncio.gather(*tasks)

    in_world(story, seed=seed, max_size=1)

    assert served == list(range(5))


def test_a_pool_paused_to_refuse_fails_newcomers_and_those_who_wait() -> None:
    """At once, and with a hint when to come again."""

    async def story(world: World) -> None:
        holder = asyncio.create_task(world.borrow(1))
        await asyncio.sleep(0.1)
        waiting = asyncio.create_task(world.borrow())
        await asyncio.sleep(0.1)
        world.pool.pause("refuse")
        for each in (waiting, asyncio.create_task(world.borrow())):
            with pytest.raises(PoolClosed, match="paused") as caught:
                await each
            assert caught.value.retry_after is not None
        assert world.now() < 0.5
        await holder
        world.pool.resume()
        await world.borrow()

    in_world(story, max_size=1)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_connection_that_comes_back_to_a_paused_pool_waits_for_resume(seed: int) -> None:
    """Those who queued before the pause are not served either; nobody is lost."""

    async def story(world: World) -> None:
        holder = asyncio.create_task(world.borrow(0.5))
        await asyncio.sleep(0.1)
        waiting = asyncio.create_task(world.borrow())
        await asyncio.sleep(0.1)
        world.pool.pause()
        await holder
        await asyncio.sleep(1)
        assert not waiting.done()
        assert world.pool.status().idle == 1
        world.pool.resume()
        await asyncio.wait_for(waiting, 0.1)

    in_world(story, seed=seed, max_size=1)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_connect_that_arrives_at_a_paused_pool_waits_for_resume(seed: int) -> None:
    """It is parked."""

    async def story(world: World) -> None:
        world.backend.connects = Dawdle(0.5)
        waiting = asyncio.create_task(world.borrow())
        await asyncio.sleep(0.1)
        world.pool.pause()
        await asyncio.sleep(2)
        assert world.pool.status().idle == 1
        world.pool.resume()
        await asyncio.wait_for(waiting, 0.1)

    in_world(story, seed=seed, max_size=1)


@pytest.mark.parametrize(
    ("stop", "cause"), [("pause", TimeoutCause.PAUSED), ("drain", TimeoutCause.DRAINING)], ids=str
)
def test_a_timeout_at_a_pool_that_lends_nothing_says_why(stop: str, cause: TimeoutCause) -> None:
    """Not exhausted: paused, or draining."""

    async def story(world: World) -> None:
        await world.borrow()
        await world.pool.drain() if stop == "drain" else world.pool.pause()
        with pytest.raises(PoolTimeout) as caught:
            await world.pool.acquire(timeout=1)
        assert caught.value.cause is cause
        world.pool.resume()
        await world.borrow()

    in_world(story, max_size=1)


def test_a_paused_pool_keeps_its_floor() -> None:
    """When it is resumed the connections are there."""

    async def story(world: World) -> None:
        world.pool.pause()
        await asyncio.sleep(10)
        assert world.pool.status().idle == 2
        world.backend.down()
        world.backend.up()
        await asyncio.sleep(10)
        assert len(world.backend.live) == 2
        world.pool.resume()

    in_world(story, min_size=2, max_size=2)


def test_a_second_pause_may_change_the_mode() -> None:
    """Those who queued under the first are refused by the second."""

    async def story(world: World) -> None:
        world.pool.pause()
        waiting = asyncio.create_task(world.borrow())
        await asyncio.sleep(0.1)
        world.pool.pause("refuse")
        with pytest.raises(PoolClosed):
            await waiting
        world.pool.pause("queue")
        waiting = asyncio.create_task(world.borrow())
        await asyncio.sleep(0.1)
        world.pool.resume()
        await waiting

    in_world(story, max_size=1)


def test_an_unknown_mode_is_refused() -> None:
    """There are two."""

    async def story(world: World) -> None:
        with pytest.raises(ValueError, match="mode"):
            world.pool.pause("wait")  # type: ignore[arg-type]

    in_world(story)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_cancelled_drain_leaves_a_draining_pool_that_can_be_resumed(seed: int) -> None:
    """Nothing is half done."""

    async def story(world: World) -> None:
        holder = asyncio.create_task(world.borrow(3))
        await asyncio.sleep(0.1)
        draining = asyncio.create_task(world.pool.drain())
        await asyncio.sleep(0.1)
        draining.cancel()
        await asyncio.wait([draining])
        assert draining.cancelled()
        assert world.pool.status().state == "draining"
        world.pool.resume()
        await world.borrow()
        await holder

    in_world(story, seed=seed, max_size=2)


def test_a_draining_pool_can_be_closed() -> None:
    """Those who queued for its resume are told."""

    async def story(world: World) -> None:
        await world.pool.drain()
        waiting = asyncio.create_task(world.borrow())
        await asyncio.sleep(0.1)
        await world.pool.close()
        with pytest.raises(PoolClosed):
            await waiting

    in_world(story, max_size=1)
