"""Shared pools: several leases on one connection, up to max_leases_per_connection."""

import asyncio
import contextlib

import pytest

from millpond import ReleaseError
from millpond.driver import Verdict
from millpond.testing.driver import ConnectionLost, Dawdle, FaultKind, ScriptedConnection
from tests.kernel.worlds import SEEDS, World, in_world


@pytest.mark.parametrize("seed", SEEDS)
def test_a_connection_that_dies_under_several_leases_fails_only_those(seed: int) -> None:
    """Each of its borrowers hears of it once, gives it back once, and the others are served elsewhere."""

    async def story(world: World) -> None:
        async def use(seconds: float) -> None:
            async with world.pool.acquire() as conn:
                with world.backend.using(conn):
                    await asyncio.sleep(seconds)
                    await conn.request("x")

        # A lease whose connection was cut under it cannot know better than to use it once more.
        world.backend.ignored.add(FaultKind.USED_AFTER_END)
        unlucky = [asyncio.create_task(use(1 + number)) for number in range(3)]
        await asyncio.sleep(0.5)
        (conn,) = world.backend.live
        waiting = [asyncio.create_task(use(0.1)) for _ in range(4)]
        await asyncio.sleep(0.1)
        conn.kill()
        outcomes = await asyncio.gather(*unlucky, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ConnectionLost] * 3
        await asyncio.gather(*waiting)
        assert world.backend.terminated == 1
        assert world.pool.status().leases == 0

    world = in_world(story, seed=seed, max_size=1, max_leases_per_connection=3)

    assert world.backend.opened == 2


@pytest.mark.parametrize("seed", SEEDS)
def test_the_place_of_a_dead_shared_connection_is_free_at_the_first_return(seed: int) -> None:
    """Nobody has to wait for those who still hold the corpse."""

    async def story(world: World) -> None:
        first, second = await world.pool.lease(), await world.pool.lease()
        waiting = asyncio.create_task(world.borrow())
        await asyncio.sleep(1)
        first.connection.kill()
        first.release()
        await asyncio.wait_for(waiting, 0.1)
        second.release()

    in_world(story, seed=seed, max_size=1, max_leases_per_connection=2)


@pytest.mark.parametrize("why", ["an error", "a clear, then an error"])
def test_a_shared_connection_that_nobody_can_vouch_for_goes_with_its_last_lease(why: str) -> None:
    """Those who use it may finish; nobody new gets it; it is cut, not closed politely."""

    async def story(world: World) -> None:
        first, second = await world.pool.lease(), await world.pool.lease()
        if why != "an error":
            world.pool.clear()
        world.backend.after_lease_script.append(Verdict.DISCARD)
        first.release(ValueError("who knows"))
        await second.connection.request("still here")
        newcomer = await world.pool.lease()
        assert newcomer.connection is not second.connection
        second.release()
        assert world.backend.terminated == 1
        newcomer.release()

    in_world(story, max_size=2, max_leases_per_connection=2)


def test_a_shared_pool_lends_the_least_leased_connection() -> None:
    """Load spreads over what is open; another is opened only when all are full."""

    async def story(world: World) -> None:
        leases = [await world.pool.lease() for _ in range(4)]
        assert world.backend.opened == 2
        leases[0].release()
        leases[1].release()
        leases += [await world.pool.lease() for _ in range(2)]
        assert world.backend.opened == 2
        assert [len(slot.leases) for slot in world.pool._slots()] == [2, 2]
        for lease in leases[2:]:
            lease.release()

    in_world(story, max_size=3, max_leases_per_connection=2)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_connection_has_more_borrowers_than_it_may(seed: int) -> None:
    """The backend counts them; a cold burst opens no more than it needs."""

    async def story(world: World) -> None:
        world.backend.connects = Dawdle(0.01)
        await asyncio.gather(*(world.borrow(0.01, number) for number in range(100)))

    world = in_world(story, seed=seed, max_size=4, max_leases_per_connection=5)

    assert world.backend.opened == 4
    assert world.pool.stats().served == 100


def test_an_old_generation_finishes_its_leases() -> None:
    """After clear() nobody new joins it, and it is closed when the last one leaves."""

    async def story(world: World) -> None:
        first, second = await world.pool.lease(), await world.pool.lease()
        world.pool.clear()
        newcomer = await world.pool.lease()
        assert newcomer.connection is not first.connection
        first.release()
        assert world.backend.closed == 0
        second.release()
        await asyncio.sleep(0.1)
        assert world.backend.closed == 1
        newcomer.release()

    in_world(story, max_size=2, max_leases_per_connection=2)


def test_a_shared_lease_that_left_something_behind_is_reset_when_the_last_one_ends() -> None:
    """Nobody new joins before; those who share it are not disturbed."""

    async def story(world: World) -> None:
        first, second = await world.pool.lease(), await world.pool.lease()
        world.backend.after_lease_script.append(Verdict.RESET)
        first.release()
        newcomer = await world.pool.lease()
        assert newcomer.connection is not second.connection
        await second.connection.request("undisturbed")
        second.release()
        await asyncio.sleep(0.1)
        assert world.pool.stats().resets == 1
        newcomer.release()

    in_world(story, max_size=2, max_leases_per_connection=3)


def test_shared_leases_cannot_be_told_apart_by_connection() -> None:
    """The explicit spelling and detach() are refused, with a reason."""

    async def story(world: World) -> None:
        with pytest.raises(ReleaseError, match="shared pool"):
            await world.pool.acquire()
        async with world.pool.acquire() as conn, world.pool.acquire():
            with pytest.raises(ReleaseError):
                await world.pool.release(conn)
            with pytest.raises(ReleaseError, match="exactly one lease"):
                world.pool.detach(conn)

    in_world(story, max_size=1, max_leases_per_connection=2)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_borrower_cancelled_on_its_way_to_a_shared_connection_leaves_the_others_alone(seed: int) -> None:
    """Its lease ends; the connection stays with those who use it."""

    async def story(world: World) -> None:
        lease = await world.pool.lease()
        keeper = await world.pool.lease()
        first = asyncio.create_task(world.borrow(1))
        second = asyncio.create_task(world.borrow())
        await asyncio.sleep(0.1)
        lease.release()
        first.cancel()
        await asyncio.wait_for(second, 0.1)
        await keeper.connection.request("undisturbed")
        keeper.release()

    in_world(story, seed=seed, max_size=1, max_leases_per_connection=2)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_shared_connection_is_lent_no_more_than_max_uses_times_however_many_wait(seed: int) -> None:
    """One that was just opened serves as many of those who wait as it may, not as many as it could."""

    async def story(world: World) -> None:
        world.backend.connects = Dawdle(0.1)
        waiting = [asyncio.create_task(world.borrow(1.0)) for _ in range(5)]
        await asyncio.sleep(0.5)
        assert world.pool.status().leases == 2
        await asyncio.gather(*waiting)

        assert world.backend.opened == 3

    in_world(story, seed=seed, max_size=1, max_leases_per_connection=4, max_uses=2)


@pytest.mark.parametrize("spelling", ["acquire", "lease"])
def test_what_is_lent_in_passing_is_full_when_it_is_full(spelling: str) -> None:
    """Nobody waits, nobody listens: two on each, evenly, the fifth waits; and so again when all are back."""

    async def story(world: World) -> None:
        pool = world.pool

        async def enter(stack: contextlib.AsyncExitStack) -> ScriptedConnection:
            if spelling == "acquire":
                return await stack.enter_async_context(pool.acquire())
            return await stack.enter_async_context(await pool.lease())

        async with contextlib.AsyncExitStack() as stack:  # opens both
            for _ in range(4):
                await enter(stack)
        for _ in range(3):
            async with contextlib.AsyncExitStack() as stack:
                taken = [(await enter(stack)).number for _ in range(4)]
                fifth = asyncio.create_task(world.borrow())
                await asyncio.sleep(0.5)
                status = pool.status()
                assert sorted(taken[:2]) == sorted(taken[2:]) == [1, 2]
                assert (status.leases, status.busy, status.waiting) == (4, 2, 1)
                assert not fifth.done()
            await fifth
            await asyncio.sleep(1)
            assert (pool.status().leases, pool.status().idle) == (0, 2)
        assert pool.stats().served == 4 + 3 * 5
        assert pool.stats().peak_busy == 2

    in_world(story, max_size=2, max_leases_per_connection=2)


def test_a_dead_connection_is_shared_with_nobody_more() -> None:
    """Though one who has it has not noticed yet, and nobody waits."""

    async def story(world: World) -> None:
        for _ in range(2):
            await world.borrow()
        async with world.pool.acquire() as first:
            async with world.pool.acquire() as second:
                assert second is first
            first.kill()
            async with world.pool.acquire() as third:
                assert third is not first

    in_world(story, max_size=2, max_leases_per_connection=3)


def test_a_shared_lease_is_over_once() -> None:
    """In passing, too."""

    async def story(world: World) -> None:
        for _ in range(2):
            await world.borrow()
        lease, other = await world.pool.lease(), await world.pool.lease()
        lease.release()
        with pytest.raises(ReleaseError, match="over already"):
            lease.release()
        assert world.pool.status().leases == 1
        other.release()

    in_world(story, max_size=1, max_leases_per_connection=3)
