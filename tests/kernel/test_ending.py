"""close(), drain() and what can still arrive afterwards."""

import asyncio

import pytest

from millpond import PoolClosed, PoolTimeout, ReleaseError
from millpond.testing.driver import HANG_FOR_EVER, Hang
from tests.kernel.worlds import SEEDS, World, in_world


@pytest.mark.parametrize("seed", SEEDS)
def test_close_fails_waiters_and_waits_for_borrowers(seed: int) -> None:
    """Waiters hear at once; the borrower may finish."""

    async def story(world: World) -> None:
        borrower = asyncio.create_task(world.borrow(1))
        await asyncio.sleep(0.1)
        waiter = asyncio.create_task(world.borrow())
        await asyncio.sleep(0.1)
        closing = asyncio.create_task(world.pool.close())
        with pytest.raises(PoolClosed):
            await waiter
        assert world.now() < 0.5
        await borrower
        await closing

    in_world(story, seed=seed, max_size=1)


def test_close_cuts_who_stays_longer_than_the_timeout() -> None:
    """It returns on time, and a late release harms nobody."""

    async def story(world: World) -> None:
        borrower = asyncio.create_task(world.borrow(100))
        await asyncio.sleep(0.1)
        began = world.now()
        await world.pool.close(timeout=2)
        assert world.now() - began == pytest.approx(2, abs=0.01)
        borrower.cancel()
        await asyncio.wait([borrower])

    in_world(story, max_size=1)


def test_close_from_inside_a_lease_does_not_wait_for_itself() -> None:
    """Nobody else could give that lease back."""

    async def story(world: World) -> None:
        async with world.pool.acquire():
            await world.pool.close()
        assert world.now() < 1

    in_world(story, max_size=1)


def test_close_can_be_cancelled_and_called_again() -> None:
    """The second call finishes what the first began."""

    async def story(world: World) -> None:
        borrower = asyncio.create_task(world.borrow(3))
        await asyncio.sleep(0.1)
        closing = asyncio.create_task(world.pool.close())
        await asyncio.sleep(0.1)
        closing.cancel()
        await asyncio.wait([closing])
        await asyncio.gather(world.pool.close(), world.pool.close(), borrower)
        await world.pool.close()

    in_world(story, max_size=1)


@pytest.mark.parametrize("hang", [Hang(), HANG_FOR_EVER])
def test_a_hanging_close_holds_nobody_up(hang: Hang) -> None:
    """Its connection is cut after disconnect_timeout; a driver deaf to that is left behind, and counted."""

    async def story(world: World) -> None:
        await world.borrow()
        world.backend.close_script.append(hang)
        await world.pool.close()
        assert world.now() < 6
        world.backend.unhang()

    world = in_world(story, closes=False, max_size=1)

    assert world.pool.status().total == 0


def test_drain_waits_for_the_last_lease_and_resume_reopens() -> None:
    """Newcomers queue meanwhile."""

    async def story(world: World) -> None:
        borrower = asyncio.create_task(world.borrow(1))
        await asyncio.sleep(0.1)
        with pytest.raises(PoolTimeout):
            await world.pool.drain(timeout=0.5)
        newcomer = asyncio.create_task(world.borrow())
        await world.pool.drain()
        assert borrower.done()
        assert not newcomer.done()
        world.pool.resume()
        await newcomer

    in_world(story, max_size=2)


def test_a_connection_is_given_back_once() -> None:
    """A second release, and one of a stranger, are refused."""

    async def story(world: World) -> None:
        conn = await world.pool.acquire()
        await world.pool.release(conn)
        with pytest.raises(ReleaseError):
            await world.pool.release(conn)
        with pytest.raises(ReleaseError):
            await world.pool.release(object())
        async with world.pool.acquire() as conn:
            with pytest.raises(ReleaseError):
                await world.pool.release(conn)

    in_world(story, max_size=1)
