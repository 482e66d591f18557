"""Waiters handed to another pool: a new version takes over the queue of the old one."""

import asyncio
from typing import Any

import pytest

from millpond import CircuitOpen, ConnectFailed, ConnectionPool, PoolClosed, PoolTimeout, WrongLoop
from millpond.testing.driver import BackendDown, Dawdle, Fail
from tests.kernel.worlds import SEEDS, World, in_world


@pytest.mark.parametrize("seed", SEEDS)
def test_waiters_that_move_keep_their_order_and_go_ahead_of_newcomers(seed: int) -> None:
    """Those of the old pool are served first, in their own order, then those who queued at the heir."""
    served: list[str] = []

    async def story(world: World) -> None:
        heir = world.another_pool("heir", max_size=1)

        async def borrow(pool: ConnectionPool[Any], name: str) -> None:
            async with pool.acquire():
                served.append(name)
                await asyncio.sleep(0.01)

        holder = asyncio.create_task(world.borrow(10))
        keeper = asyncio.create_task(world.borrow(0.5, pool=heir))
        await asyncio.sleep(0.01)
        tasks = []
        for pool, names in ((world.pool, "abc"), (heir, "xyz")):
            for name in names:
                tasks.append(asyncio.create_task(borrow(pool, name)))
                await asyncio.sleep(0.001)
        world.pool._hand_over_waiters(heir)
        assert world.pool.status().waiting == 0
        assert heir.status().waiting == 6
        await asyncio.gather(*tasks, keeper)
        assert not holder.done()
        await holder

    in_world(story, seed=seed, max_size=1)

    assert served == list("abcxyz")


def test_a_waiter_that_moves_keeps_its_deadline() -> None:
    """Its time began when it asked, and ends when it said, wherever it waits."""

    async def story(world: World) -> None:
        heir = world.another_pool("heir", max_size=1)
        async with world.pool.acquire(), heir.acquire():
            waiting = asyncio.create_task(world.pool.lease(timeout=2))
            await asyncio.sleep(1.5)
            world.pool._hand_over_waiters(heir)
            with pytest.raises(PoolTimeout) as caught:
                await waiting
            assert world.now() == pytest.approx(2, abs=0.01)
            assert caught.value.pool == "heir"

        assert world.pool.stats().timed_out == 0
        assert heir.stats().timed_out == 1
        assert heir.status().waiting == 0

    in_world(story, max_size=1)


def test_a_waiter_that_moved_is_no_business_of_the_old_pool() -> None:
    """The old pool's timer goes off after the heir has served it: nothing happens to it twice."""

    async def story(world: World) -> None:
        heir = world.another_pool("heir", max_size=1)
        async with world.pool.acquire():
            waiting = asyncio.create_task(world.pool.lease(timeout=2))
            other = asyncio.create_task(world.borrow())
            await asyncio.sleep(1)
            world.pool._hand_over_waiters(heir)
            lease = await waiting
            await asyncio.sleep(5)
            assert lease.connection.is_alive
            lease.release()
            await other

        assert world.pool.stats().requests == 1
        assert heir.stats().requests == heir.stats().served == 2

    in_world(story, max_size=1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("turns", range(-3, 6))
def test_waiters_that_move_while_being_cancelled_lose_nothing(turns: int, seed: int) -> None:
    """Cancelled some turns before or after they move: who stays is served, in time."""

    async def story(world: World) -> None:
        heir = world.another_pool("heir", max_size=1)
        holder = asyncio.create_task(world.borrow(100))
        await asyncio.sleep(0.1)
        leaving = [asyncio.create_task(world.borrow()) for _ in range(2)]
        staying = asyncio.create_task(world.borrow())
        await asyncio.sleep(0.1)
        for turn in range(-3, 6):
            if turn == 0:
                world.pool._hand_over_waiters(heir)
            if turn == turns:
                for task in leaving:
                    task.cancel()
            await asyncio.sleep(0)
        await asyncio.wait_for(staying, 1)
        await asyncio.wait(leaving)
        outcomes = [pool.stats() for pool in world.pools]
        for stats in outcomes:
            assert stats.requests == stats.served + stats.cancelled + stats.waiting
        holder.cancel()
        await asyncio.wait([holder])

    in_world(story, seed=seed, max_size=1)


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_a_closed_heir_fails_those_who_move_to_it(timeout: float | None) -> None:
    """Nobody waits at a pool that will never lend again, and no timer runs there."""

    async def story(world: World) -> None:
        heir = world.another_pool("heir", max_size=1)
        await heir.initialize()
        await heir.close()
        async with world.pool.acquire():
            waiting = asyncio.create_task(world.pool.lease(timeout=timeout))
            await asyncio.sleep(0.1)
            world.pool._hand_over_waiters(heir)
            with pytest.raises(PoolClosed):
                await asyncio.wait_for(waiting, 1)

        assert heir.stats().refused == 1

    in_world(story, max_size=1)


def test_a_heir_that_refuses_while_paused_fails_those_who_move_to_it() -> None:
    """They are told what newcomers are told."""

    async def story(world: World) -> None:
        heir = world.another_pool("heir", max_size=1)
        heir.pause("refuse")
        async with world.pool.acquire():
            waiting = asyncio.create_task(world.pool.lease(timeout=None))
            await asyncio.sleep(0.1)
            world.pool._hand_over_waiters(heir)
            with pytest.raises(PoolClosed):
                await asyncio.wait_for(waiting, 1)
        heir.resume()

    in_world(story, max_size=1)


def test_a_heir_that_cannot_connect_fails_those_who_move_to_it_as_its_own() -> None:
    """The breaker of the heir is open and it has nothing to lend."""

    async def story(world: World) -> None:
        heir = world.another_pool("heir", max_size=1)
        async with world.pool.acquire():
            world.backend.connects = Fail(BackendDown, permanent=True)
            with pytest.raises((ConnectFailed, CircuitOpen)):
                await heir.acquire()
            waiting = asyncio.create_task(world.pool.lease(timeout=None))
            await asyncio.sleep(0.1)
            world.pool._hand_over_waiters(heir)
            with pytest.raises(CircuitOpen):
                await asyncio.wait_for(waiting, 1)

    in_world(story, max_size=1)


def test_a_full_heir_serves_those_who_move_to_it_as_places_come_free() -> None:
    """Nobody is refused for the move, not even above the heir's max_waiting."""
    served: list[int] = []

    async def story(world: World) -> None:
        heir = world.another_pool("heir", max_size=1, max_waiting=1)

        async def borrow(number: int) -> None:
            async with world.pool.acquire(timeout=None):
                served.append(number)
                await asyncio.sleep(0.1)

        async with world.pool.acquire():
            keeper = asyncio.create_task(world.borrow(3, pool=heir))
            await asyncio.sleep(0.1)
            tasks = []
            for number in range(5):
                tasks.append(asyncio.create_task(borrow(number)))
                await asyncio.sleep(0.01)
            world.pool._hand_over_waiters(heir)
            await asyncio.gather(keeper, *tasks)

        assert heir.stats().served == 6

    in_world(story, max_size=1)

    assert served == list(range(5))


def test_a_new_heir_is_opened_by_the_waiters_it_gets() -> None:
    """It has not been used before; their being there is its first use."""

    async def story(world: World) -> None:
        heir = world.another_pool("heir", max_size=2)
        world.backend.connects = Dawdle(0.2)
        async with world.pool.acquire():
            waiting = asyncio.create_task(world.borrow())
            await asyncio.sleep(0.1)
            began = world.now()
            world.pool._hand_over_waiters(heir)
            await waiting
            assert world.now() - began < 0.3

    in_world(story, max_size=1)


def test_the_old_pool_goes_on_serving_those_who_ask_it_later() -> None:
    """Only who waited at that moment has moved."""

    async def story(world: World) -> None:
        heir = world.another_pool("heir", max_size=1)
        holder = asyncio.create_task(world.borrow(1))
        await asyncio.sleep(0.1)
        moved = asyncio.create_task(world.borrow())
        await asyncio.sleep(0.1)
        world.pool._hand_over_waiters(heir)
        later = asyncio.create_task(world.borrow())
        await asyncio.gather(holder, moved, later)

        assert world.pool.stats().served == 2
        assert heir.stats().served == 1

    in_world(story, max_size=1)


def test_a_heir_in_another_loop_is_refused_before_anybody_moves() -> None:
    """The waiters stay where they are, and are served there."""
    first: list[World] = []

    async def story(world: World) -> None:
        first.append(world)
        await world.borrow()

    in_world(story, max_size=1, closes=False)

    async def another_story(world: World) -> None:
        async with world.pool.acquire():
            waiting = asyncio.create_task(world.borrow())
            await asyncio.sleep(0.1)
            with pytest.raises(WrongLoop):
                world.pool._hand_over_waiters(first[0].pool)
            assert world.pool.status().waiting == 1
        await waiting

    in_world(another_story, max_size=1)
