"""Everything that can still arrive at a closed pool: it harms nobody and leaves nothing."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from millpond import ConnectionPool, PoolClosed, PoolSettings, ReleaseError
from millpond.testing import run
from millpond.testing.driver import HANG_FOR_EVER, Dawdle, Hang, ReadOnly, Verb
from tests.kernel.worlds import SEEDS, World, in_world


@pytest.mark.parametrize("spelling", ["release", "lease", "discard", "async with"])
def test_a_release_that_comes_after_the_end_is_taken_quietly(spelling: str) -> None:
    """The connection was cut at the close timeout; its borrower did nothing wrong."""

    async def story(world: World) -> None:
        match spelling:
            case "release":
                conn = await world.pool.acquire()
                await asyncio.create_task(world.pool.close(timeout=1))
                await world.pool.release(conn)
                with pytest.raises(ReleaseError):
                    await world.pool.release(conn)
            case "async with":
                async with world.pool.acquire():
                    await asyncio.create_task(world.pool.close(timeout=1))
            case _:
                lease = await world.pool.lease()
                await asyncio.create_task(world.pool.close(timeout=1))
                lease.release() if spelling == "lease" else lease.discard()
        assert world.backend.terminated == 1
        assert world.pool.status().leases == 0
        assert world.pool._ledger.by_id == {}

    in_world(story, max_size=1)


def test_a_report_after_the_end_is_taken_quietly() -> None:
    """Even one that means a failover."""

    async def story(world: World) -> None:
        lease = await world.pool.lease()
        await asyncio.create_task(world.pool.close(timeout=1))
        world.pool.report(lease.connection, ReadOnly("demoted"))
        lease.release(ReadOnly("demoted"))
        assert world.pool.status().total == 0

    in_world(story, max_size=1)


def test_a_connection_that_was_cut_at_the_end_cannot_be_detached() -> None:
    """It would be a dead one."""

    async def story(world: World) -> None:
        lease = await world.pool.lease()
        await asyncio.create_task(world.pool.close(timeout=1))
        with pytest.raises(ReleaseError):
            world.pool.detach(lease.connection)
        lease.release()

    in_world(story, max_size=1)


@pytest.mark.parametrize("verb", list(Verb)[:4])
def test_a_driver_call_that_ends_after_the_pool_did_leaves_nothing_open(verb: Verb) -> None:
    """It refused to end while the pool closed; whatever it brings is terminated."""

    async def story(world: World) -> None:
        if verb is Verb.PING:
            await world.borrow()
        world.backend.scripts[verb].queue.append(HANG_FOR_EVER)
        if verb is Verb.RESET:
            async with world.pool.acquire() as conn:
                await conn.begin()
        elif verb is Verb.CLOSE:
            await world.borrow()
            world.pool.clear()
        borrowing = asyncio.create_task(world.borrow())
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(world.pool.close())
        await asyncio.wait([borrowing])
        assert isinstance(borrowing.exception(), PoolClosed)
        await closing
        assert world.pool.status().abandoned == 1
        world.backend.unhang()
        await asyncio.sleep(0.1)
        assert world.pool.status().abandoned == 0
        assert not world.pool._calls

    in_world(story, max_size=1, validate_after_idle=0.0 if verb is Verb.PING else None)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_connect_that_succeeds_while_the_pool_closes_is_closed_again(seed: int) -> None:
    """At the same instant, in an order drawn by the seed."""

    async def story(world: World) -> None:
        world.backend.connects = Dawdle(1, stubborn=True)
        borrowing = asyncio.create_task(world.borrow())
        await asyncio.sleep(1)
        await world.pool.close()
        outcome = (await asyncio.gather(borrowing, return_exceptions=True))[0]
        assert outcome is None or isinstance(outcome, PoolClosed) or outcome.to == "x"

    in_world(story, seed=seed, max_size=1)


CALLS: dict[str, Callable[[ConnectionPool[Any]], Any]] = {
    "acquire": lambda pool: pool.acquire(),
    "enter": lambda pool: pool.acquire().__aenter__(),
    "lease": lambda pool: pool.lease(),
    "initialize": lambda pool: pool.initialize(),
    "drain": lambda pool: pool.drain(),
    "pause": lambda pool: pool.pause(),
    "resume": lambda pool: pool.resume(),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_closed_pool_refuses_what_it_can_no_longer_do(call: str) -> None:
    """With an error that says so, and has its state."""

    async def story(world: World) -> None:
        await world.borrow()
        await world.pool.close()
        with pytest.raises(PoolClosed, match="closed") as caught:
            await CALLS[call](world.pool)
        assert caught.value.status is not None
        assert caught.value.status.state == "closed"

    in_world(story, max_size=1)


def test_a_closed_pool_still_answers_questions() -> None:
    """Status, numbers, holders, health, settings; clear and close are taken quietly."""

    async def story(world: World) -> None:
        await world.borrow()
        await world.pool.close()
        assert world.pool.status().healthy is False
        assert world.pool.stats().served == 1
        assert world.pool.holders() == ()
        check = await world.pool.check()
        assert (check.healthy, check.source) == (False, "state")
        world.pool.clear()
        world.pool.resize(max_size=5)
        remove = world.pool.add_listener(print)
        remove()
        await world.pool.close()
        assert "closed" in repr(world.pool)

    in_world(story, max_size=1)


def test_a_pool_closed_before_its_first_use_was_never_open() -> None:
    """No loop is needed for it to know that."""
    pools: list[ConnectionPool[Any]] = []

    async def story(world: World) -> None:
        await world.pool.close()
        with pytest.raises(PoolClosed):
            await world.pool.acquire()
        pools.append(world.pool)

    world = in_world(story, max_size=1)

    assert world.backend.opened == 0
    assert pools[0].status().state == "closed"


def test_a_closed_pool_answers_after_its_loop_is_gone() -> None:
    """A metrics scrape at the very end must not fail."""
    pools: list[World] = []

    async def story(world: World) -> None:
        await world.borrow()
        pools.append(world)

    in_world(story, max_size=1)

    assert pools[0].pool.status().total == 0
    run(pools[0].pool.close)


def test_a_watcher_of_a_pool_that_closes_is_told() -> None:
    """drain() and an eager initialize() end when the pool does."""

    async def story(world: World) -> None:
        holder = asyncio.create_task(world.borrow(1))
        await asyncio.sleep(0.1)
        draining = asyncio.create_task(world.pool.drain(timeout=None))
        await asyncio.sleep(0.1)
        await world.pool.close()
        await asyncio.wait_for(draining, 0.1)
        await holder

    in_world(story, max_size=1)


def test_an_eager_initialize_ends_when_the_pool_is_closed_meanwhile() -> None:
    """It does not wait for connections that nobody opens any more."""

    async def story(world: World) -> None:
        world.backend.connects = Dawdle(3)
        opening = asyncio.create_task(world.pool.initialize())
        await asyncio.sleep(1)
        await world.pool.close()
        with pytest.raises(PoolClosed):
            await asyncio.wait_for(opening, 0.1)

    in_world(story, min_size=2, max_size=2, eager_init=True)


def test_settings_of_a_pool_without_a_loop_may_be_changed() -> None:
    """Before its first use there is nothing to adjust but the settings."""

    async def story(world: World) -> None:
        pool = ConnectionPool(world.driver, settings=PoolSettings(min_size=0, max_size=1))
        pool.resize(max_size=3)
        assert pool.status().max_size == 3
        await pool.close()

    in_world(story)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_check_whose_ping_fails_as_the_pool_closes_opens_nothing(seed: int) -> None:
    """It would have asked again with a connect; a closed pool has no use for one."""

    async def story(world: World) -> None:
        await world.borrow()
        await asyncio.sleep(5)
        world.backend.pings = Hang()
        checking = asyncio.create_task(world.pool.check())
        await asyncio.sleep(0.1)
        await world.pool.close()
        check = await checking
        assert not check.healthy
        assert check.source == "state"
        assert world.backend.opened == 1

    in_world(story, seed=seed, max_size=1)
