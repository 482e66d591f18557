"""A pool that ends in favour of another: what a new version of a configuration does to the old one."""

import asyncio
from typing import Any

import pytest

from millpond import Allowance, ConnectFailed, ConnectionPool, PoolClosed, PoolState
from millpond.testing.driver import Dawdle
from tests.kernel.worlds import SEEDS, World, in_world


def heir_of(world: World, **settings: Any) -> ConnectionPool[Any]:
    """Another pool on the same allowance."""
    return world.another_pool("heir", **settings)


@pytest.mark.parametrize("seed", SEEDS)
def test_who_waits_and_who_still_asks_is_served_by_the_heir(seed: int) -> None:
    """In order, and nobody notices; what was lent before comes back to where it came from."""
    served: list[int] = []

    async def story(world: World) -> None:
        heir = heir_of(world, max_size=1)

        async def borrow(number: int) -> None:
            async with world.pool.acquire():
                served.append(number)

        lease = await world.pool.lease()
        asked = world.pool.acquire()  # an object that is used later
        waiting = []
        for number in range(3):
            waiting.append(asyncio.create_task(borrow(number)))
            await asyncio.sleep(0.1)
        world.pool._bequeath(heir)
        newcomer = asyncio.create_task(borrow(3))
        await asyncio.gather(*waiting, newcomer)
        async with asked:
            assert heir.status().busy == 1
        assert lease.connection.is_alive
        lease.release()
        await world.pool.close()

        assert world.pool.stats().served == 1
        assert heir.stats().served == 5

    in_world(story, seed=seed, max_size=1)

    assert served == [0, 1, 2, 3]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_borrower_whose_connection_dies_as_the_pool_is_bequeathed_is_first_at_the_heir(seed: int) -> None:
    """It was ahead of all who have moved, and has not lost its turn."""
    served: list[str] = []

    async def story(world: World) -> None:
        heir = heir_of(world, max_size=1)

        async def borrow(name: str) -> None:
            async with world.pool.acquire():
                served.append(name)

        lease = await world.pool.lease()
        tasks = []
        for name in "abc":
            tasks.append(asyncio.create_task(borrow(name)))
            await asyncio.sleep(0.01)
        lost = lease.connection
        lease.release()  # a has it, and has not run yet
        lost.kill()
        world.pool._bequeath(heir)
        await asyncio.gather(*tasks)

    in_world(story, seed=seed, max_size=1, reset="none")

    assert served == ["a", "b", "c"]


@pytest.mark.parametrize("seed", SEEDS)
def test_both_together_never_have_more_than_the_allowance(seed: int) -> None:
    """The heir opens as the old one's leases end; the auditor counts after every step."""

    async def story(world: World) -> None:
        heir = heir_of(world, max_size=3)
        old = [asyncio.create_task(world.borrow(0.5 + number / 10)) for number in range(3)]
        await asyncio.sleep(0.2)
        more = [asyncio.create_task(world.borrow(0.1)) for _ in range(6)]
        await asyncio.sleep(0.1)
        world.pool._bequeath(heir)
        await asyncio.gather(*old, *more)
        await world.pool.close()
        assert heir.stats().served == 6

    in_world(story, seed=seed, max_size=3, allowance=Allowance(3))


def test_an_heir_has_its_heir() -> None:
    """Three versions in a row: who holds the first one's object is served by the last."""

    async def story(world: World) -> None:
        second, third = heir_of(world, max_size=1), heir_of(world, max_size=1)
        await world.borrow()
        world.pool._bequeath(second)
        second._bequeath(third)
        await world.borrow()
        assert third.stats().served == 1

    in_world(story, max_size=1)


@pytest.mark.parametrize("mode", ["queue", "refuse"])
def test_a_paused_pool_has_a_paused_heir(mode: Any) -> None:
    """Somebody paused the name; a new configuration does not end that."""

    async def story(world: World) -> None:
        heir = heir_of(world, max_size=1)
        await world.borrow()
        world.pool.pause(mode)
        world.pool._bequeath(heir)
        assert heir.state is PoolState.PAUSED
        waiting = asyncio.create_task(world.borrow())
        await asyncio.sleep(0.1)
        assert waiting.done() == (mode == "refuse")
        heir.resume()
        outcome = (await asyncio.gather(waiting, return_exceptions=True))[0]
        assert isinstance(outcome, PoolClosed) == (mode == "refuse")

    in_world(story, max_size=1)


def test_a_pool_that_is_alone_on_its_allowance_lends_the_short_way() -> None:
    """Sharing costs only while there is somebody to share with."""

    async def story(world: World) -> None:
        await world.borrow()
        assert world.pool._home is world.pool._loop
        heir = heir_of(world, max_size=1)
        await world.borrow(pool=heir)
        assert world.pool._home is not world.pool._loop
        await world.pool.close()
        assert heir._home is heir._loop

    in_world(story, max_size=1, allowance=Allowance(1), reset="none")


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_pool_wanted_while_it_was_alone_is_not_forgotten_when_company_comes(seed: int) -> None:
    """Its borrowers queued without a word to the allowance; they get the places that are freed."""

    async def story(world: World) -> None:
        world.backend.connects = Dawdle(0.1)
        other = heir_of(world, max_size=2)
        holders = [asyncio.create_task(world.borrow(1)) for _ in range(2)]
        await asyncio.sleep(0.5)
        waiting = [asyncio.create_task(world.borrow(0.1)) for _ in range(4)]
        await asyncio.sleep(0.1)
        others = [asyncio.create_task(world.borrow(0.1, pool=other)) for _ in range(4)]
        await asyncio.wait_for(asyncio.gather(*holders, *waiting, *others), 9)

    in_world(story, seed=seed, max_size=2, allowance=Allowance(2))


def test_no_pool_is_its_own_heir() -> None:
    """Nor that of its heir: who asks would be sent round and round."""

    async def story(world: World) -> None:
        heir = heir_of(world, max_size=1)
        with pytest.raises(ValueError, match="its own heir"):
            world.pool._bequeath(world.pool)
        world.pool._bequeath(heir)
        with pytest.raises(ValueError, match="its own heir"):
            heir._bequeath(world.pool)
        await world.borrow()

        assert heir.stats().served == 1

    in_world(story, max_size=1)


def test_a_pool_that_was_never_used_ends_at_once_in_favour_of_its_heir() -> None:
    """It cannot be opened any more; who has an object of it is served by the heir."""

    async def story(world: World) -> None:
        heir = heir_of(world, max_size=1)
        asked = world.pool.acquire()
        world.pool._bequeath(heir)
        assert world.pool.state is PoolState.CLOSED
        with pytest.raises(PoolClosed):
            await world.pool.initialize()
        async with asked:
            assert heir.status().busy == 1
        await world.borrow()
        assert heir.stats().served == 2

    in_world(story, max_size=1)


def test_a_pool_that_is_new_once_more_ends_in_favour_of_its_heir() -> None:
    """Its eager initialize has failed; nothing of it stays."""

    async def story(world: World) -> None:
        heir = heir_of(world, max_size=1)
        world.backend.down()
        with pytest.raises(ConnectFailed):
            await world.pool.initialize()
        assert world.pool.state is PoolState.NEW
        world.backend.up()
        world.pool._bequeath(heir)
        with pytest.raises(PoolClosed):
            await world.pool.initialize()
        await world.borrow()
        assert heir.stats().served == 1
        await world.pool.close()

    in_world(story, max_size=1, min_size=1, eager_init=True, connect_retries=0)
