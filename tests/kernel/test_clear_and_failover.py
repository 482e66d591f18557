"""New generations: by clear(), and by a backend that has failed over."""

import asyncio
import random

import pytest

from millpond import CircuitOpen, ConnectFailed, PoolTimeout
from millpond.testing.driver import Dawdle, ReadOnly
from tests.kernel.worlds import SEEDS, World, in_world


@pytest.mark.parametrize("seed", SEEDS)
def test_a_clear_during_a_connect_gives_nobody_the_old_generation(seed: int) -> None:
    """The attempt that began before the clear is given up; who waits for it gets one that began after."""

    async def story(world: World) -> None:
        world.backend.connects = Dawdle(1)
        waiting = asyncio.create_task(world.pool.lease())
        await asyncio.sleep(0.5)
        world.pool.clear()
        lease = await waiting
        assert lease.connection.opened_at == pytest.approx(1.5, abs=0.01)
        assert world.pool._slots()[0].generation == 1
        lease.release()

    world = in_world(story, seed=seed, max_size=1)

    assert world.pool.stats().open_failures == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_connect_that_ignores_the_clear_is_not_lent(seed: int) -> None:
    """It could not be cancelled: its connection is of yesterday, and closed as it arrives."""

    async def story(world: World) -> None:
        world.backend.connect_script.append(Dawdle(0.9, stubborn=True))
        waiting = asyncio.create_task(world.pool.lease())
        await asyncio.sleep(0.5)
        world.pool.clear()
        lease = await waiting
        assert lease.connection.number == 2
        lease.release()

    world = in_world(story, seed=seed, max_size=1)

    assert world.backend.closed == 2


def test_a_clear_closes_idle_ones_at_once_and_busy_ones_as_they_come_back() -> None:
    """Borrowers are not disturbed."""

    async def story(world: World) -> None:
        await asyncio.gather(*(world.borrow(0.1) for _ in range(3)))
        async with world.pool.acquire() as conn:
            world.pool.clear()
            await asyncio.sleep(0.1)
            assert world.backend.live == [conn]
            await conn.request("undisturbed")
        await asyncio.sleep(0.1)
        assert world.backend.live == []

    in_world(story, max_size=3)


def test_a_clear_before_the_first_use_is_no_mistake() -> None:
    """There is nothing to close yet; the generation counts all the same."""

    async def story(world: World) -> None:
        world.pool.clear()
        assert world.pool.status().generation == 1
        await world.borrow()

    in_world(story, max_size=1)


@pytest.mark.parametrize("seed", SEEDS)
def test_ten_borrowers_that_report_one_failover_make_one_generation_and_no_storm(seed: int) -> None:
    """All meet the demoted node at once; the pool reconnects at a measured pace until a primary is there."""

    async def story(world: World) -> None:
        backend, pool = world.backend, world.pool
        ready = asyncio.Event()

        async def work() -> None:
            async with pool.acquire() as conn:
                await ready.wait()
                await conn.request("write")

        borrowers = [asyncio.create_task(work()) for _ in range(10)]
        await asyncio.sleep(1)
        attempts_before = len(backend.attempt_times)
        backend.demote()
        ready.set()
        outcomes = await asyncio.gather(*borrowers, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {ReadOnly}
        assert pool.status().generation == 1
        began = world.now()
        while world.now() - began < 10:
            with_luck = await asyncio.gather(*(world.borrow() for _ in range(10)), return_exceptions=True)
            assert {type(each) for each in with_luck} <= {ConnectFailed, CircuitOpen, PoolTimeout}
            await asyncio.sleep(0.5)
        assert len(backend.attempt_times) - attempts_before <= 25
        assert pool.status().generation == 1
        backend.promote()
        await asyncio.sleep(30)
        await world.borrow()

    in_world(story, seed=seed, max_size=10)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_idle_pool_finds_out_about_a_failover_by_itself(seed: int) -> None:
    """The ping of a demoted node fails: those connections are replaced before anybody meets one."""

    async def story(world: World) -> None:
        await world.pool.initialize()
        await asyncio.sleep(1)
        world.backend.demote()
        await asyncio.sleep(0.1)
        world.backend.promote()
        await asyncio.sleep(60)
        answers = await asyncio.gather(*(world.borrow(0.1, "write") for _ in range(3)))
        assert [answer.to for answer in answers] == ["write"] * 3

    in_world(story, seed=seed, min_size=3, max_size=3)


def test_a_herd_of_pools_comes_back_spread_over_the_backoff() -> None:
    """Fifty processes lose one server at the same instant: their attempts do not come in one wave."""

    async def story(world: World) -> None:
        pools = [world.another_pool(f"process {number}", max_size=1, min_size=1) for number in range(50)]
        for pool in pools:
            await pool.initialize()
        await asyncio.sleep(1)
        world.backend.down()
        waiting = [asyncio.create_task(pool.check(timeout=30)) for pool in pools]
        await asyncio.gather(*waiting)
        first = len(world.backend.attempt_times)
        await asyncio.sleep(30)
        times = world.backend.attempt_times[first:]
        assert len(times) >= 50
        most = max(sum(1 for each in times if at <= each < at + 0.05) for at in times)
        assert most <= 25
        world.backend.up()
        await asyncio.sleep(60)
        assert all(pool.status().idle == 1 for pool in pools)

    in_world(story)


def test_a_spread_clear_closes_one_after_the_other() -> None:
    """Over the seconds it was given; a borrower who needs a place takes one of theirs sooner."""

    async def story(world: World) -> None:
        rng = random.Random(1)
        await asyncio.gather(*(world.borrow(0.1) for _ in range(10)))
        world.pool.clear(spread=10.0)
        left = []
        for _ in range(10):
            await asyncio.sleep(0.5 + rng.random() / 100)
            left.append(len(world.backend.live))
            await asyncio.sleep(0.5)
        assert left == sorted(left, reverse=True)
        assert len(set(left)) >= 8
        await world.borrow()

    in_world(story, max_size=10)
