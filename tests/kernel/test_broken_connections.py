"""Broken connections: terminated, once, never lent again, their place free at once."""

import asyncio

import pytest

from millpond import CloseReason, PoolClosed, PoolTimeout
from millpond.driver import Verdict
from millpond.testing.driver import ConnectionLost, Hang, Lose, ReadOnly
from tests.kernel.worlds import SEEDS, World, in_world


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("silently", [False, True], ids=["noticed", "unnoticed"])
def test_a_connection_broken_while_others_wait_makes_room_for_a_new_one(silently: bool, seed: int) -> None:
    """Who waits is served by a fresh connection at once, and never by the broken one."""

    async def story(world: World) -> None:
        async def break_it() -> None:
            async with world.pool.acquire() as conn:
                await asyncio.sleep(1)
                conn.kill(silently=silently)
                await conn.request("anybody there")

        breaking = asyncio.create_task(break_it())
        await asyncio.sleep(0.1)
        waiting = [asyncio.create_task(world.borrow()) for _ in range(3)]
        with pytest.raises(ConnectionLost):
            await breaking
        await asyncio.wait_for(asyncio.gather(*waiting), 0.1)

    world = in_world(story, seed=seed, max_size=1)

    assert world.backend.opened == 2
    assert world.pool._ledger.closed[CloseReason.BROKEN] == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_one_that_dies_between_the_hand_over_and_the_borrower_costs_only_another_turn(seed: int) -> None:
    """The borrower keeps the head of the queue and gets the next one."""
    served: list[str] = []

    async def story(world: World) -> None:
        async def borrow(name: str) -> None:
            async with world.pool.acquire() as conn:
                served.append(name)
                await conn.request(name)

        lease = await world.pool.lease()
        conn = lease.connection
        tasks = []
        for name in "abc":
            tasks.append(asyncio.create_task(borrow(name)))
            await asyncio.sleep(0.01)
        lease.release()
        conn.kill()
        await asyncio.wait_for(asyncio.gather(*tasks), 1)

    world = in_world(story, seed=seed, max_size=1)

    assert served == list("abc")
    assert world.pool.stats().served == 4


def test_an_idle_connection_that_died_unnoticed_is_found_by_the_health_check() -> None:
    """Not by a borrower: it is pinged in the background, and replaced."""

    async def story(world: World) -> None:
        await world.pool.initialize()
        await asyncio.sleep(1)
        (conn,) = world.backend.live
        conn.kill(silently=True)
        await asyncio.sleep(31)
        await world.borrow()

    world = in_world(story, min_size=1, max_size=1)

    assert world.pool._ledger.closed[CloseReason.PING_FAILED] == 1


def test_an_idle_connection_that_died_unnoticed_is_pinged_before_it_is_lent() -> None:
    """With validate_after_idle 0 no borrower ever meets one."""

    async def story(world: World) -> None:
        for _ in range(5):
            await world.borrow()
            for conn in world.backend.live:
                conn.kill(silently=True)

    world = in_world(story, max_size=2, validate_after_idle=0.0)

    assert world.pool.stats().opened == 5


def test_every_idle_connection_killed_at_once_delays_borrowers_by_one_connect() -> None:
    """The server was restarted: all that is known to be dead goes, whoever asks gets a new one."""

    async def story(world: World) -> None:
        await asyncio.gather(*(world.borrow(0.1) for _ in range(5)))
        for conn in world.backend.live:
            conn.kill()
        began = world.now()
        await asyncio.gather(*(world.borrow() for _ in range(5)))
        assert world.now() - began < 0.05

    world = in_world(story, max_size=5)

    assert world.backend.opened <= 10


def test_a_borrower_may_say_itself_that_a_connection_is_broken() -> None:
    """discard() and release(discard=True) cut it."""

    async def story(world: World) -> None:
        (await world.pool.lease()).discard()
        await world.pool.release(await world.pool.acquire(), discard=True)

    world = in_world(story, max_size=1)

    assert world.backend.terminated == 2
    assert world.pool.stats().closed_by_reason == {"discarded": 2}


@pytest.mark.parametrize(
    ("verdict", "generation"), [(Verdict.DISCARD, 0), (Verdict.DISCARD_ALL, 1)], ids=["broken", "failover"]
)
def test_a_reported_connection_is_cut_when_it_comes_back(verdict: Verdict, generation: int) -> None:
    """It is not closed politely: the driver said that it is not to be used."""

    async def story(world: World) -> None:
        lease = await world.pool.lease()
        world.backend.after_lease_script.append(verdict)
        world.pool.report(lease.connection, ValueError("what the borrower handled"))
        assert world.backend.terminated == 0
        lease.release()
        assert world.backend.terminated == 1
        assert world.pool.status().generation == generation

    in_world(story, max_size=1)


def test_a_report_that_means_nothing_changes_nothing() -> None:
    """The driver says keep: the connection is lent again."""

    async def story(world: World) -> None:
        lease = await world.pool.lease()
        world.pool.report(lease.connection, ValueError("a row that exists already"))
        lease.release()
        await world.borrow()

    world = in_world(story, max_size=1)

    assert world.backend.opened == 1


def test_a_fresh_connection_that_is_dead_on_arrival_counts_as_a_failed_attempt() -> None:
    """It is never lent, and the backoff paces the next attempt."""

    async def story(world: World) -> None:
        world.backend.connect_script.append(Lose(0))
        await world.borrow()

    world = in_world(story, max_size=1)

    assert world.pool.stats().open_failures == 1
    assert world.backend.terminated == 1


def test_a_connection_of_an_older_generation_does_not_clear_the_newer_one() -> None:
    """A late failover report of before the clear costs only its own connection."""

    async def story(world: World) -> None:
        old = await world.pool.lease()
        world.pool.clear()
        await world.borrow()
        world.backend.after_lease_script.append(Verdict.DISCARD_ALL)
        old.release(ReadOnly("the node of yesterday"))
        assert world.pool.status().generation == 1
        assert world.pool.status().idle == 1

    world = in_world(story, max_size=2)

    assert world.backend.opened == 2


@pytest.mark.parametrize("seed", SEEDS)
def test_no_connection_that_died_is_ever_closed_politely(seed: int) -> None:
    """However it is found: at a return, at a lending, by the sweep, at the end."""

    async def story(world: World) -> None:
        rng = world.backend.random
        for _ in range(200):
            tasks = [asyncio.create_task(world.borrow(rng.random() * 0.1)) for _ in range(3)]
            await asyncio.sleep(rng.random() * 0.1)
            for conn in world.backend.live:
                if rng.random() < 0.3:
                    conn.kill()
            await asyncio.gather(*tasks, return_exceptions=True)

    in_world(story, seed=seed, max_size=3, idle_timeout=1.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_one_who_has_to_ask_again_keeps_its_deadline(seed: int) -> None:
    """The connection it was given died in the hand-over, and there is no other: one budget for everything."""

    async def story(world: World) -> None:
        lease = await world.pool.lease()
        waiting = asyncio.create_task(world.pool.lease(timeout=2))
        await asyncio.sleep(1.5)
        world.backend.connects = Hang()
        began = world.now() - 1.5
        conn = lease.connection
        lease.release()
        conn.kill()
        with pytest.raises(PoolTimeout) as caught:
            await waiting
        assert world.now() - began == pytest.approx(2, abs=0.01)
        assert caught.value.waited == pytest.approx(2, abs=0.01)

    in_world(story, seed=seed, max_size=1)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_connection_lost_on_its_way_to_a_borrower_who_is_then_refused_is_replaced(seed: int) -> None:
    """The borrower finds the pool paused and goes; min_size is filled again at once all the same."""

    async def story(world: World) -> None:
        lease = await world.pool.lease()
        waiting = asyncio.create_task(world.borrow())
        await asyncio.sleep(0.1)
        lost = lease.connection
        lease.release()
        assert world.pool.status().busy == 1  # on its way
        world.pool.pause("refuse")
        lost.kill()
        with pytest.raises(PoolClosed, match="paused"):
            await waiting
        assert world.pool.status().opening == 1

    in_world(story, seed=seed, max_size=1, min_size=1, reset="none")
