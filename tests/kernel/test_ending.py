"""close(), drain() and what can still arrive afterwards."""

import asyncio
import contextvars

import pytest

from millpond import ConnectionPool, PoolClosed, PoolSettings, PoolTimeout, ReleaseError
from millpond.driver import Verdict
from millpond.status import PoolState
from millpond.testing.driver import HANG_FOR_EVER, Dawdle, Hang
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


def test_close_leaves_no_timer_of_a_spread_clear() -> None:
    """A clear() spread over an hour does not keep the closed pool alive for that hour."""

    async def story(world: World) -> None:
        async with world.pool.acquire(), world.pool.acquire():
            pass
        world.pool.clear(spread=3600.0)
        await world.pool.close()

        assert world.pool.status().total == 0

    in_world(story, max_size=2)


def test_a_clear_at_once_overtakes_a_spread_one() -> None:
    """Who asks for a new generation now does not wait for an earlier, slower one."""

    async def story(world: World) -> None:
        async with world.pool.acquire(), world.pool.acquire():
            pass
        world.pool.clear(spread=3600.0)
        await asyncio.sleep(1)
        world.pool.clear()
        await asyncio.sleep(1)

        assert world.pool.status().total == 0

    in_world(story, max_size=2)


@pytest.mark.parametrize("seed", SEEDS)
def test_close_called_twice_at_once_ends_once(seed: int) -> None:
    """Both callers return when it is over."""

    async def story(world: World) -> None:
        borrower = asyncio.create_task(world.borrow(1))
        await asyncio.sleep(0.1)
        closings = [asyncio.create_task(world.pool.close()) for _ in range(3)]
        await asyncio.gather(*closings, borrower)
        assert world.backend.closed == 1
        assert world.pool.state == "closed"

    in_world(story, seed=seed, max_size=1)


@pytest.mark.parametrize("seed", SEEDS)
def test_close_cancelled_at_any_moment_leaves_a_pool_that_can_be_closed(seed: int) -> None:
    """While borrowers are waited for, while connections close, as it finishes."""

    async def story(world: World) -> None:
        world.backend.closes = Dawdle(0.5)
        borrower = asyncio.create_task(world.borrow(1))
        await asyncio.sleep(0.01)
        for _ in range(20):
            closing = asyncio.create_task(world.pool.close())
            await asyncio.sleep(0.1)
            closing.cancel()
            await asyncio.wait([closing])
        await borrower
        await world.pool.close()
        assert world.pool.state == "closed"

    in_world(story, seed=seed, max_size=1)


@pytest.mark.parametrize("seed", SEEDS)
def test_close_waits_for_no_more_than_its_timeout_whatever_hangs(seed: int) -> None:
    """A borrower that stays, a reset, a ping and a close that hang: a second of grace, then it is over."""

    async def story(world: World) -> None:
        await asyncio.gather(*(world.borrow(0.1) for _ in range(4)))
        world.backend.resets = world.backend.pings = world.backend.closes = HANG_FOR_EVER
        staying = asyncio.create_task(world.borrow(100))
        await asyncio.sleep(0.1)
        async with world.pool.acquire() as conn:
            await conn.begin()
        began = world.now()
        await world.pool.close(timeout=1)
        assert world.now() - began <= 1 + 2 + 0.1
        status = world.pool.status()
        assert (status.total, status.state) == (0, "closed")
        assert status.abandoned >= 1
        staying.cancel()
        await asyncio.wait([staying])
        world.backend.unhang()
        await asyncio.sleep(0.1)
        assert world.pool.status().abandoned == 0

    in_world(story, seed=seed, max_size=4)


def test_close_without_a_limit_waits_for_the_last_borrower() -> None:
    """None is no limit."""

    async def story(world: World) -> None:
        borrower = asyncio.create_task(world.borrow(1000))
        await asyncio.sleep(0.1)
        await world.pool.close(timeout=None)
        assert borrower.done()
        assert world.backend.terminated == 0

    in_world(story, max_size=1)


@pytest.mark.parametrize("seconds", [0.5, 1.0, 60.0])
def test_an_async_close_that_stands_in_for_terminate_is_waited_for_and_not_for_ever(seconds: float) -> None:
    """A pool of functions whose only end is async: what was cut has ended, or has been stopped."""
    ends: list[str] = []

    async def story(world: World) -> None:
        async def close(_conn: object) -> None:
            try:
                await asyncio.sleep(seconds)
                ends.append("ended")
            except asyncio.CancelledError:
                ends.append("stopped")
                raise

        pool = ConnectionPool.from_factory(
            object, close=close, settings=PoolSettings(min_size=0, disconnect_timeout=0.7)
        )
        (await pool.lease()).discard()
        began = world.now()
        await pool.close()
        assert world.now() - began == pytest.approx(min(seconds, 0.7))

    in_world(story)

    assert ends == (["ended"] if seconds <= 0.7 else ["stopped"])


def test_an_async_close_that_stands_in_for_terminate_runs_in_an_empty_context() -> None:
    """What the borrower has in its context variables is not the pool's to keep alive."""
    whose = contextvars.ContextVar("whose", default="nobody's")
    seen: list[str] = []

    async def story(_world: World) -> None:
        async def close(_conn: object) -> None:
            seen.append(whose.get())

        pool = ConnectionPool.from_factory(object, close=close, settings=PoolSettings(min_size=0))
        whose.set("a borrower's")
        (await pool.lease()).discard()
        await pool.lease()
        await pool.close()

    in_world(story)

    assert seen == ["nobody's"] * 2


@pytest.mark.parametrize("seed", SEEDS)
def test_a_connection_that_arrives_when_close_is_out_of_patience_is_cut(seed: int) -> None:
    """Its connect needed most of the grace to end: a polite close, which may hang as well, comes too late."""

    async def story(world: World) -> None:
        world.backend.connects = Dawdle(1.0, stubborn=True)
        world.backend.closes = Hang()
        borrowing = asyncio.create_task(world.borrow())
        await asyncio.sleep(0.1)
        await world.pool.close(timeout=0)

        assert world.pool.state is PoolState.CLOSED
        assert world.now() < 1.1
        with pytest.raises(PoolClosed):
            await borrowing

    in_world(story, seed=seed, disconnect_timeout=5.0)


def test_a_task_of_the_pool_that_is_cancelled_while_it_closes_leaves_no_timer() -> None:
    """As the end of a loop does it: what should be held off until later has no later."""

    async def story(world: World) -> None:
        lease = await world.pool.lease()
        world.backend.resets = Hang()
        world.backend.after_lease_script.append(Verdict.RESET)
        await world.borrow()
        closing = asyncio.create_task(world.pool.close())
        await asyncio.sleep(0.1)
        (resetting,) = (task for task in asyncio.all_tasks() if "reset" in task.get_name())
        resetting.cancel()
        await asyncio.sleep(0.1)
        lease.release()
        await closing

    in_world(story)
