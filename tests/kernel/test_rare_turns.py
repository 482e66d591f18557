"""Turns that few programs ever take, and that random histories took: each as short as it can be told."""

import asyncio
import contextlib

import pytest

from millpond import (
    Allowance,
    CircuitOpen,
    ConnectFailed,
    ConnectionPool,
    PoolSettings,
    PoolTimeout,
)
from millpond.driver import Verdict
from millpond.testing.driver import BackendDown, Dawdle, Fail, Hang, ReadOnly, Succeed
from tests.kernel.worlds import SEEDS, World, in_world


class Member:
    """Somebody on an allowance who remembers what it was told."""

    def __init__(self) -> None:
        self.told = 0

    def _place_is_free(self) -> None:
        self.told += 1

    def _please_shed(self) -> None:
        pass

    def _company_changed(self) -> None:
        pass


def test_who_steps_back_in_the_line_for_places_tells_those_who_are_next_now() -> None:
    """A pool that no longer needs its place for a borrower, only for its floor, must not keep the offer."""
    allowance = Allowance(1)
    holder, hasty, patient = Member(), Member(), Member()
    for member in (holder, hasty, patient):
        allowance.join(member)
    assert allowance.try_take(holder, 0.0, urgent=True)
    assert not allowance.try_take(hasty, 1.0, urgent=True)
    assert not allowance.try_take(patient, 2.0, urgent=False)
    allowance.give_back(holder)
    assert (hasty.told, patient.told) == (1, 0)

    assert not allowance.try_take(hasty, 3.0, urgent=False)
    assert patient.told == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_draining_pool_gives_up_what_it_has_idle_for_those_who_wait_elsewhere(seed: int) -> None:
    """It lends to nobody; another pool on its allowance could."""

    async def story(world: World) -> None:
        other = world.another_pool("other")
        await world.borrow()
        await world.pool.drain()
        async with other.acquire(timeout=1.0):
            pass

    in_world(story, seed=seed, allowance=Allowance(1))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_connection_known_to_be_dead_is_cut_whatever_it_was_to_go_for(seed: int) -> None:
    """There is nobody left to say goodbye to."""

    async def story(world: World) -> None:
        await world.borrow()
        world.backend.kill(world.backend.live[0])
        await asyncio.sleep(0.001)
        world.pool.clear()
        await asyncio.sleep(0.1)

        assert (world.backend.terminated, world.backend.closed) == (1, 0)

    in_world(story, seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_polite_close_that_succeeds_at_the_last_moment_is_not_followed_by_a_cut(seed: int) -> None:
    """It heeded its cancellation by finishing."""

    async def story(world: World) -> None:
        await world.borrow()
        world.backend.close_script.append(Hang(finishes=True))
        world.pool.clear()
        await asyncio.sleep(5.0)

        assert (world.backend.terminated, world.backend.closed) == (0, 1)

    in_world(story, seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_who_was_handed_a_shared_connection_that_is_spoiled_before_it_runs_gets_another(seed: int) -> None:
    """Nobody has used it yet for this borrower; nobody should."""

    async def story(world: World) -> None:
        pool = world.pool
        first, second = await pool.lease(), await pool.lease()
        waits = asyncio.create_task(world.borrow())
        await asyncio.sleep(0.01)
        assert pool.status().waiting == 1
        first.release()  # hands its share over
        world.backend.after_lease_script.append(Verdict.DISCARD)
        second.release()  # and now nobody vouches for the connection
        await waits

        assert world.backend.opened == 2

    in_world(story, seed=seed, max_size=1, max_leases_per_connection=2)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_reset_that_became_due_before_a_cancelled_borrower_ran_is_done(seed: int) -> None:
    """The last lease of a shared connection may be one that was never used; its session is dirty anyway."""

    async def story(world: World) -> None:
        pool = world.pool
        first, second = await pool.lease(), await pool.lease()
        waits = asyncio.create_task(world.borrow())
        await asyncio.sleep(0.01)
        first.release()
        world.backend.after_lease_script.append(Verdict.RESET)
        second.release()
        waits.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waits
        await world.borrow()

        assert pool.stats().resets == 1

    in_world(story, seed=seed, max_size=1, max_leases_per_connection=2)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_spread_clear_has_doomed_makes_way_for_other_pools_too(seed: int) -> None:
    """It would be closed within the minute; a borrower elsewhere does not wait for that."""

    async def story(world: World) -> None:
        other = world.another_pool("other")
        await world.borrow()
        world.pool.clear(spread=60.0)
        async with other.acquire(timeout=1.0):
            pass

    in_world(story, seed=seed, allowance=Allowance(1))


@pytest.mark.parametrize("seed", SEEDS)
def test_several_doomed_ones_make_way_after_a_shrink(seed: int) -> None:
    """One place has to come free, however many connections are above it."""

    async def story(world: World) -> None:
        held = [await world.pool.acquire() for _ in range(3)]
        for conn in held:
            await world.pool.release(conn)
        world.pool.clear(spread=60.0)
        world.pool.resize(max_size=1)
        async with world.pool.acquire(timeout=1.0):
            pass

    in_world(story, seed=seed, max_size=3)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_drained_pool_that_is_paused_keeps_its_floor_again(seed: int) -> None:
    """While it drained nothing was opened; now it may lend again at any time."""

    async def story(world: World) -> None:
        await world.borrow()
        await world.pool.drain()
        world.backend.kill(world.backend.live[0])
        await asyncio.sleep(6.0)
        world.pool.pause()
        await asyncio.sleep(0.1)

        assert world.pool.status().idle == 1

    in_world(story, seed=seed, min_size=1, health_check_interval=None)


@pytest.mark.parametrize("seed", SEEDS)
def test_two_pools_that_want_one_place_are_both_served_in_time(seed: int) -> None:
    """When the first has taken what came free, somebody is asked to make room for the second."""

    async def story(world: World) -> None:
        second, idle = world.another_pool("second"), world.another_pool("idle", max_size=1)
        pools = [world.pool, second, idle]
        mine, theirs = await world.pool.lease(), await idle.lease()
        tasks = [asyncio.create_task(world.borrow(pool=pool)) for pool in (second, world.pool)]
        await asyncio.sleep(0.01)
        mine.discard()
        theirs.release()
        async with asyncio.timeout(1.0):
            await asyncio.gather(*tasks)

        assert [pool.stats().timed_out for pool in pools] == [0, 0, 0]

    in_world(story, seed=seed, allowance=Allowance(2), max_size=2)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_dead_connection_that_is_shed_is_replaced_when_a_place_is_free_again(seed: int) -> None:
    """The pool still wants its floor, also when what it gave up was nothing worth."""

    async def story(world: World) -> None:
        other = world.another_pool("other")
        await world.pool.initialize()
        await asyncio.sleep(0.1)
        world.backend.kill(world.backend.live[0])
        async with other.acquire(timeout=1.0):
            pass
        other.clear()
        await asyncio.sleep(0.1)

        assert world.pool.status().idle == 1

    in_world(story, seed=seed, allowance=Allowance(1), min_size=1, health_check_interval=None)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_open_breaker_without_a_place_for_its_probe_lets_the_next_borrower_try(seed: int) -> None:
    """Other pools on the allowance keep their floors from a probe, not from somebody who waits."""

    async def story(world: World) -> None:
        other = world.another_pool("other", min_size=1, idle_timeout=None)
        world.backend.connect_script.append(Fail(BackendDown))
        with pytest.raises((ConnectFailed, CircuitOpen)):
            await world.borrow()
        await other.initialize()
        await asyncio.sleep(10.0)
        await world.borrow()

    in_world(
        story, seed=seed, allowance=Allowance(1), failure_threshold=1, connect_retries=0, retry_delay=1.0
    )


@pytest.mark.parametrize("seed", range(40))
def test_a_call_that_ends_as_it_is_given_up_is_counted_once(seed: int) -> None:
    """Its last turn and the end of its grace fall into the same instant, in any order."""

    async def hook(conn: object) -> None:
        try:
            await asyncio.sleep(60.0)
        except asyncio.CancelledError:
            await asyncio.sleep(1.0)

    async def story(world: World) -> None:
        pool = ConnectionPool(
            world.driver, settings=PoolSettings(min_size=0, connect_timeout=1.0), on_connect=hook
        )
        world.auditor.add(pool)
        with contextlib.suppress(PoolTimeout):
            async with pool.acquire(timeout=2.5):
                pass
        await asyncio.sleep(10.0)
        assert pool.status().abandoned in (0, 1)
        await pool.close()
        await asyncio.sleep(5.0)

        assert pool.status().abandoned == 0

    in_world(story, seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_dead_connection_met_on_the_way_to_a_live_one_is_replaced_at_once(seed: int) -> None:
    """Whoever finds it need not wait, and the floor does not wait for the next sweep."""

    async def story(world: World) -> None:
        await world.pool.initialize()
        await asyncio.sleep(0.1)
        world.backend.kill(world.backend.live[-1])
        async with world.pool.acquire():
            await asyncio.sleep(0.1)
            assert world.pool.status().total == 2

    in_world(story, seed=seed, min_size=2, leak_detection_threshold=60.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_connection_reported_as_unfit_is_cut_though_the_pool_closes(seed: int) -> None:
    """That the pool ends is no reason to be polite on a session that nobody vouches for."""

    async def story(world: World) -> None:
        lease = await world.pool.lease()
        world.pool.report(lease.connection, ReadOnly("no longer the primary"))
        closing = asyncio.create_task(world.pool.close())
        await asyncio.sleep(0.1)
        lease.release()
        await closing

        assert (world.backend.terminated, world.backend.closed) == (1, 0)

    in_world(story, seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_initialize_that_is_cut_short_in_a_pool_in_use_leaves_the_floor_to_the_pool(seed: int) -> None:
    """It takes back what is idle; the place that comes free is used again at once."""

    async def story(world: World) -> None:
        world.backend.close_script.append(Hang())
        world.backend.connect_script.extend([Succeed(), Succeed(), Dawdle(0.2)])
        opening = asyncio.create_task(world.pool.initialize())
        await asyncio.sleep(0.01)
        await world.borrow()  # its connection is used up, and hangs while it is closed
        async with world.pool.acquire():
            await asyncio.sleep(0.5)
            assert world.pool.status().idle == 1
            opening.cancel()
            await asyncio.wait([opening])
            assert world.pool.status().idle == 0
            await asyncio.sleep(0.1)

            assert world.pool.status().idle == 1

    in_world(story, seed=seed, min_size=3, max_size=3, eager_init=True, max_uses=1, disconnect_timeout=9.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_failover_that_is_reported_is_made_good_before_the_connection_comes_back(seed: int) -> None:
    """What was idle is of the old generation, and goes; the floor does not wait for who reported it."""

    async def story(world: World) -> None:
        await world.pool.initialize()
        await asyncio.sleep(0.1)
        world.backend.close_script.append(Hang())
        async with world.pool.acquire() as conn:
            world.pool.report(conn, ReadOnly("no longer the primary"))
            await asyncio.sleep(0.1)
            assert world.pool.status().idle == 1

    in_world(story, seed=seed, min_size=2, max_size=3, retry_delay=0.01)
