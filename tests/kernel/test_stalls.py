"""A loop that stands still for seconds: nobody is condemned for it."""

import asyncio

import pytest

from millpond import ConnectFailed, PoolClosed, PoolState, PoolTimeout
from millpond.testing.driver import HANG_FOR_EVER, Dawdle, Hang, Verb
from millpond.testing.loop import current
from tests.kernel.worlds import SEEDS, World, in_world


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("verb", [Verb.CONNECT, Verb.PING, Verb.RESET])
def test_a_stalled_loop_fails_no_driver_call(verb: Verb, seed: int) -> None:
    """The answer came while nobody looked: a call whose timer fires too late is asked again."""

    async def story(world: World) -> None:
        if verb is Verb.PING:
            await world.borrow()
        world.backend.scripts[verb].default = Dawdle(0.9)
        if verb is Verb.RESET:
            async with world.pool.acquire() as conn:
                await conn.begin()
        waiting = asyncio.create_task(world.borrow())
        await asyncio.sleep(0.5)
        assert world.backend.active[verb] == 1
        current().stall(2.5)
        await waiting

    world = in_world(
        story,
        seed=seed,
        max_size=1,
        connect_timeout=1.0,
        health_check_timeout=1.0,
        reset_timeout=1.0,
        validate_after_idle=0.0 if verb is Verb.PING else None,
    )

    assert world.backend.opened == 1
    assert world.pool.stats().open_failures == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stalled_loop_times_out_nobody_whose_connection_is_on_its_way(seed: int) -> None:
    """Deadline and answer both passed during the stall: the answer wins."""

    async def story(world: World) -> None:
        async def hold() -> None:
            async with world.pool.acquire():
                await asyncio.sleep(0.5)

        holding = asyncio.create_task(hold())
        await asyncio.sleep(0.1)
        waiting = asyncio.create_task(world.pool.lease(timeout=0.6))
        await asyncio.sleep(0.1)
        current().stall(2)
        (await waiting).release()
        await holding

    world = in_world(story, seed=seed, max_size=1)

    assert world.pool.stats().timed_out == 0


def test_a_stalled_loop_grants_no_more_than_a_moment() -> None:
    """Whoever would not have been served anyway is told soon after."""

    async def story(world: World) -> None:
        async with world.pool.acquire():
            waiting = asyncio.create_task(world.pool.lease(timeout=1))
            await asyncio.sleep(0.1)
            current().stall(2)
            with pytest.raises(PoolTimeout):
                await waiting
            assert world.now() == pytest.approx(2.15, abs=0.02)

    in_world(story, max_size=1)


def test_a_short_stall_is_no_excuse() -> None:
    """Up to a second late is late: the deadline stands."""

    async def story(world: World) -> None:
        async with world.pool.acquire():
            waiting = asyncio.create_task(world.pool.lease(timeout=1))
            await asyncio.sleep(0.1)
            current().stall(1.5)
            with pytest.raises(PoolTimeout):
                await waiting
            assert world.now() == pytest.approx(1.601, abs=0.01)

    in_world(story, max_size=1)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stalled_loop_makes_no_check_fail(seed: int) -> None:
    """A liveness probe that comes at such a moment does not report a backend that answers."""

    async def story(world: World) -> None:
        await world.borrow()
        await asyncio.sleep(5)
        world.backend.pings = Dawdle(0.1)
        checking = asyncio.create_task(world.pool.check(timeout=1))
        await asyncio.sleep(0.05)
        current().stall(3)
        assert (await checking).healthy

    in_world(story, seed=seed, max_size=1)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stalled_loop_opens_no_breaker_and_closes_no_good_connection(seed: int) -> None:
    """Two seconds, again and again, in the middle of traffic."""

    async def story(world: World) -> None:
        async def traffic() -> None:
            while world.now() < 60:
                await world.borrow(0.05)

        async def stalls() -> None:
            while world.now() < 60:
                await asyncio.sleep(0.7)
                current().stall(2)

        await asyncio.gather(stalls(), *(traffic() for _ in range(10)))
        assert world.pool.status().breaker == "closed"

    world = in_world(
        story, seed=seed, max_size=3, health_check_interval=1.0, health_check_timeout=0.5, connect_timeout=0.5
    )

    stats = world.pool.stats()
    assert (stats.timed_out, stats.open_failures, stats.ping_failures) == (0, 0, 0)
    assert world.backend.opened <= 3


def test_a_close_during_a_stall_still_ends() -> None:
    """With a close that hangs, and the loop standing still in the worst moment."""

    async def story(world: World) -> None:
        await world.borrow()
        world.backend.close_script.append(Hang(ignore=1))
        closing = asyncio.create_task(world.pool.close())
        await asyncio.sleep(2.9)
        current().stall(2.5)
        await closing
        await world.pool.close()
        assert world.pool.state == "closed"

    in_world(story, max_size=1)


def test_a_backend_that_is_really_gone_is_found_out_in_spite_of_stalls() -> None:
    """Asking again is not believing."""

    async def story(world: World) -> None:
        world.backend.connects = Hang()
        waiting = asyncio.create_task(world.pool.lease(timeout=60))
        for _ in range(12):
            await asyncio.sleep(2)
            current().stall(1.5)
        with pytest.raises((ConnectFailed, PoolTimeout)):
            await waiting

    in_world(story, max_size=1, connect_timeout=1.0, connect_retries=1)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_loop_that_stalls_while_a_pool_closes_does_not_end_the_wait_for_a_call_that_gets_more_time(
    seed: int,
) -> None:
    """The call is given its grace anew; whoever waits for it must not be the first to lose patience."""

    async def story(world: World) -> None:
        world.backend.connects = HANG_FOR_EVER
        borrowing = asyncio.create_task(world.borrow())
        await asyncio.sleep(0.1)
        closing = asyncio.create_task(world.pool.close(0.5))
        await asyncio.sleep(0.4)
        current().stall(2.8)
        await closing
        assert world.pool.state is PoolState.CLOSED
        with pytest.raises(PoolClosed):
            await borrowing
        world.backend.unhang()
        await asyncio.sleep(1)

    in_world(story, seed=seed, disconnect_timeout=0.3)
