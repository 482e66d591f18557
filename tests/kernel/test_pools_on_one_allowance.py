"""Pools that share one allowance: together never above it, none starves, every place comes back."""

import asyncio
import random

import pytest

from millpond import Allowance, ConnectFailed, PoolClosed, PoolTimeout, TimeoutCause
from millpond.events import CloseReason
from millpond.testing.driver import HANG_FOR_EVER, Dawdle, Fail, Hang
from tests.kernel.worlds import SEEDS, World, in_world


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_none_of_several_busy_pools_starves(limit: int) -> None:
    """Three pools with more borrowers than places: each is served all the time, never too many at once."""
    turns = [0, 0, 0]

    async def story(world: World) -> None:
        pools = [world.pool, *(world.another_pool(name, max_size=3) for name in ("second", "third"))]

        async def loop(number: int) -> None:
            while world.now() < 3:
                await world.borrow(0.01, pool=pools[number])
                turns[number] += 1

        async with asyncio.timeout(60):
            await asyncio.gather(*(loop(number) for number in (0, 1, 2) * 3))

    world = in_world(story, max_size=3, allowance=Allowance(limit))

    assert world.backend.peak_live <= limit
    assert max(turns) / min(turns) <= 1.2


@pytest.mark.parametrize("seed", SEEDS)
def test_an_idle_connection_of_one_pool_makes_way_for_a_borrower_of_another(seed: int) -> None:
    """At once, not at the idle timeout."""

    async def story(world: World) -> None:
        other = world.another_pool("other", max_size=2)
        await asyncio.gather(world.borrow(0.01), world.borrow(0.01))
        began = world.now()
        await asyncio.gather(world.borrow(0.01, pool=other), world.borrow(0.01, pool=other))
        assert world.now() - began < 0.1

    world = in_world(story, seed=seed, max_size=2, allowance=Allowance(2))

    assert world.pool._ledger.closed[CloseReason.SHED] == 2


def test_a_timeout_behind_other_pools_says_so() -> None:
    """The cause is the shared limit, not this pool's own size."""

    async def story(world: World) -> None:
        other = world.another_pool("other", max_size=5)
        async with world.pool.acquire():
            with pytest.raises(PoolTimeout) as caught:
                await other.acquire(timeout=1)
            assert caught.value.cause is TimeoutCause.SHARED_LIMIT

    in_world(story, max_size=5, allowance=Allowance(1))


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(Fail(), id="refused"),
        pytest.param(Hang(), id="hangs"),
        pytest.param(HANG_FOR_EVER, id="ignores its cancellation"),
    ],
)
def test_a_failed_connect_gives_its_place_to_another_pool(trouble: Fail | Hang) -> None:
    """Whichever way it failed."""

    async def story(world: World) -> None:
        other = world.another_pool("other", max_size=1)
        world.backend.connect_script.append(trouble)
        failing = asyncio.create_task(world.borrow())
        await asyncio.sleep(0)
        served = asyncio.create_task(world.borrow(pool=other))
        await asyncio.wait_for(served, 5)
        await failing
        world.backend.unhang()

    in_world(story, max_size=1, connect_timeout=1.0, retry_delay=1.0, allowance=Allowance(1))


@pytest.mark.parametrize("ending", ["killed", "discarded", "detached", "cleared", "spoiled"])
def test_a_connection_that_goes_gives_its_place_to_another_pool(ending: str) -> None:
    """Whichever way it goes."""

    async def story(world: World) -> None:
        other = world.another_pool("other", max_size=1)
        lease = await world.pool.lease()
        conn = lease.connection
        waiting = asyncio.create_task(world.borrow(pool=other))
        await asyncio.sleep(1)
        assert not waiting.done()
        match ending:
            case "killed":
                conn.kill()
                lease.release()
            case "discarded":
                lease.discard()
            case "detached":
                world.pool.detach(conn)
            case "cleared":
                world.pool.clear()
                lease.release()
            case "spoiled":
                conn.send("and nobody reads the answer")
                lease.release()
        await asyncio.wait_for(waiting, 0.1)
        if ending == "detached":
            await world.driver.close(conn)

    in_world(story, max_size=1, allowance=Allowance(1))


def test_a_connect_that_arrives_for_nobody_is_given_up_to_who_waits_elsewhere() -> None:
    """Its borrower was cancelled meanwhile; another pool's borrower needs the place."""

    async def story(world: World) -> None:
        other = world.another_pool("other", max_size=1)
        world.backend.connect_script.append(Dawdle(1))
        leaving = asyncio.create_task(world.borrow())
        await asyncio.sleep(0.1)
        waiting = asyncio.create_task(world.borrow(pool=other))
        await asyncio.sleep(0.1)
        leaving.cancel()
        await asyncio.wait_for(waiting, 1)

    in_world(story, max_size=1, allowance=Allowance(1))


@pytest.mark.parametrize("why", ["cancelled", "timed out", "drained", "resized", "paused", "closed"])
def test_a_pool_that_wanted_a_place_and_no_longer_does_stands_in_nobodys_way(why: str) -> None:
    """It was first in line when its wish ended; the next in line gets the place when one comes free."""

    async def story(world: World) -> None:
        first = world.another_pool("first", max_size=2)
        second = world.another_pool("second", max_size=1)
        keeper = asyncio.create_task(world.borrow(3, pool=first))
        holder = asyncio.create_task(world.borrow(2))
        await asyncio.sleep(0.1)
        wish = asyncio.create_task(first.lease(timeout=1 if why == "timed out" else 20))
        await asyncio.sleep(0.1)
        waiting = asyncio.create_task(world.borrow(pool=second))
        await asyncio.sleep(0.1)
        ending: asyncio.Task[None] | None = None
        match why:
            case "cancelled":
                wish.cancel()
            case "drained":
                ending = asyncio.create_task(first.drain())
            case "resized":
                first.resize(max_size=1)
            case "paused":
                first.pause()
            case "closed":
                ending = asyncio.create_task(first.close())
        await holder
        await asyncio.wait_for(waiting, 0.2)
        await keeper
        if ending is not None:
            await ending
        if why in ("drained", "paused"):
            first.resume()
        if why in ("drained", "paused", "resized"):
            (await wish).release()
        else:
            await asyncio.wait([wish])
            assert wish.cancelled() or isinstance(wish.exception(), PoolTimeout | PoolClosed)

    in_world(story, max_size=1, allowance=Allowance(2))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_pool_that_closes_leaves_its_places_to_the_others(seed: int) -> None:
    """Idle ones at once, busy ones as they come back; it is no longer counted for shares."""
    allowance = Allowance(2)

    async def story(world: World) -> None:
        other = world.another_pool("other", max_size=2)
        await asyncio.gather(world.borrow(0.01), world.borrow(0.01))
        holder = asyncio.create_task(world.borrow(1))
        await asyncio.sleep(0.1)
        waiting = [asyncio.create_task(world.borrow(0.01, pool=other)) for _ in range(2)]
        await world.pool.close()
        assert holder.done()
        await asyncio.wait_for(asyncio.gather(*waiting), 0.1)
        assert "1 pools" in repr(allowance)
        with pytest.raises(PoolClosed):
            await world.pool.acquire()

    in_world(story, seed=seed, max_size=2, allowance=allowance)

    assert "0 pools" in repr(allowance)


def test_a_closed_pool_that_is_asked_again_does_not_join_again() -> None:
    """It would be counted for the others' shares for ever."""
    allowance = Allowance(2)

    async def story(world: World) -> None:
        await world.pool.close()
        with pytest.raises(PoolClosed):
            await world.pool.acquire()
        assert not (await world.pool.check()).healthy

    in_world(story, max_size=2, allowance=allowance)

    assert "0 pools" in repr(allowance)


def test_an_eager_pool_that_cannot_open_gives_its_places_back() -> None:
    """Half of its floor was open when it gave up."""
    allowance = Allowance(5)

    async def story(world: World) -> None:
        world.backend.max_clients = 2
        with pytest.raises(ConnectFailed):
            await world.pool.initialize()
        assert allowance.used == 0

    in_world(story, min_size=3, max_size=3, eager_init=True, allowance=allowance)


def test_a_floor_is_filled_when_places_come_free() -> None:
    """min_size is kept in the background, as far as the others allow."""

    async def story(world: World) -> None:
        other = world.another_pool("other", max_size=3)
        async with other.acquire(), other.acquire(), other.acquire():
            await world.pool.initialize()
            await asyncio.sleep(1)
            assert world.pool.status().total == 0
        await asyncio.sleep(1)
        assert world.pool.status().idle == 2

    in_world(story, min_size=2, max_size=3, allowance=Allowance(3))


@pytest.mark.parametrize("seed", range(8))
def test_random_pools_on_one_allowance_serve_everybody(seed: int) -> None:
    """Borrowers that come, leave and break things on three pools: nobody waits in vain, all places return."""

    async def story(world: World) -> None:
        rng = random.Random(f"allowance {seed}")
        pools = [world.pool]
        pools += [world.another_pool(name, max_size=3, min_size=rng.randrange(2)) for name in "ab"]

        async def borrow(number: int) -> None:
            await asyncio.sleep(rng.random() * 2)
            async with rng.choice(pools).acquire(timeout=None) as conn:
                with world.backend.using(conn, number):
                    await asyncio.sleep(rng.choice([0, 0.001, 0.1]))
                if rng.random() < 0.2:
                    conn.kill()

        tasks = [asyncio.create_task(borrow(number)) for number in range(60)]
        for _ in range(20):
            await asyncio.sleep(0.1)
            rng.choice(tasks).cancel()
            if rng.random() < 0.2:
                rng.choice(pools).clear()
        _, hanging = await asyncio.wait(tasks, timeout=30)
        assert not hanging

    world = in_world(story, seed=seed, max_size=3, allowance=Allowance(1 + seed % 4))

    assert world.backend.peak_live <= 1 + seed % 4
