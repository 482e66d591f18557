"""Cancellation loses nothing, wherever it strikes, and is never swallowed."""

import asyncio

import pytest

from millpond.testing.driver import Dawdle, Fail, Verb
from millpond.testing.loop import current
from tests.kernel.worlds import SEEDS, World, in_world


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("turns", range(12))
def test_a_borrower_cancelled_at_any_turn_leaves_the_pool_whole(turns: int, seed: int) -> None:
    """Cold pool, someone waiting behind: the one behind is served and nothing leaks."""

    async def story(world: World) -> None:
        world.backend.connects = Dawdle(0.001)
        first = asyncio.create_task(world.borrow(0.001))
        behind = asyncio.create_task(world.borrow())
        for _ in range(turns):
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        await behind
        assert world.pool.status().busy == 0

    world = in_world(story, seed=seed, max_size=1)

    stats = world.pool.stats()
    assert stats.requests == stats.served + stats.cancelled


@pytest.mark.parametrize("seed", SEEDS)
def test_a_waiter_cancelled_as_it_is_handed_a_connection_passes_it_on(seed: int) -> None:
    """The hand-over and the cancellation fall in the same turn of the loop."""

    async def story(world: World) -> None:
        conn = await world.pool.acquire()
        first = asyncio.create_task(world.borrow())
        second = asyncio.create_task(world.borrow())
        await asyncio.sleep(0.01)
        await world.pool.release(conn)
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
        await asyncio.wait_for(second, 1)

    world = in_world(story, seed=seed, max_size=1)

    assert world.backend.opened == 1


def test_a_connect_started_for_one_who_left_serves_the_next() -> None:
    """The attempt belongs to the pool."""

    async def story(world: World) -> None:
        world.backend.connects = Dawdle(1)
        first = asyncio.create_task(world.borrow())
        await asyncio.sleep(0.5)
        first.cancel()
        began = world.now()
        await world.borrow()
        assert world.now() - began < 0.6

    world = in_world(story, max_size=1)

    assert world.backend.opened == 1


def test_a_coroutine_closed_while_it_waits_leaves_the_queue() -> None:
    """GeneratorExit is as good as a cancellation."""

    async def story(world: World) -> None:
        async with world.pool.acquire():
            waiting = world.pool.acquire().__aenter__()
            waiting.send(None)
            assert world.pool.status().waiting == 1
            waiting.close()
            assert world.pool.status().waiting == 0

    in_world(story, max_size=1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("spelling", ["async with", "await", "lease"])
def test_a_cancellation_is_never_swallowed(spelling: str, seed: int) -> None:
    """It strikes in the very turn in which a connection is handed over: the borrower's code does not run."""
    entered: list[object] = []

    async def story(world: World) -> None:
        async def borrow() -> None:
            match spelling:
                case "async with":
                    async with world.pool.acquire() as conn:
                        entered.append(conn)
                case "await":
                    entered.append(await world.pool.acquire())
                case _:
                    entered.append(await world.pool.lease())

        conn = await world.pool.acquire()
        waiting = asyncio.create_task(borrow())
        await asyncio.sleep(0.1)
        await world.pool.release(conn)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert world.pool.status().idle == 1

    in_world(story, seed=seed, max_size=1)

    assert entered == []


@pytest.mark.parametrize("seed", range(10))
def test_a_borrower_cancelled_as_its_connect_finishes_loses_nothing(seed: int) -> None:
    """The two fall at the same instant, in an order drawn by the seed: the one behind is served."""

    async def story(world: World) -> None:
        world.backend.connects = Dawdle(1)
        first = asyncio.create_task(world.borrow(10))
        await asyncio.sleep(0)
        behind = asyncio.create_task(world.borrow())
        current().call_at(1.0, first.cancel)
        await asyncio.wait([first])
        assert first.cancelled()
        await asyncio.wait_for(behind, 0.1)

    world = in_world(story, seed=seed, max_size=1)

    assert world.backend.opened == 1


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("verb", [Verb.PING, Verb.RESET, Verb.CLOSE])
def test_a_borrower_cancelled_while_its_connection_is_tended_disturbs_nothing(verb: Verb, seed: int) -> None:
    """The driver's call runs on to its own end; the one behind is served by it or after it."""

    async def story(world: World) -> None:
        backend = world.backend
        backend.scripts[verb].default = Dawdle(0.5)
        async with world.pool.acquire() as conn:
            if verb is Verb.RESET:
                await conn.begin()
            if verb is Verb.CLOSE:
                world.pool.clear()
        first = asyncio.create_task(world.borrow())
        behind = asyncio.create_task(world.borrow())
        await asyncio.sleep(0.25)
        assert backend.active[verb] == 1
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
        assert backend.active[verb] == 1
        await asyncio.wait_for(behind, 0.6)
        assert backend.calls[verb] == 1
        assert backend.faults == []

    in_world(story, seed=seed, max_size=1, validate_after_idle=0.0 if verb is Verb.PING else None)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_borrower_cancelled_between_two_attempts_leaves_the_queue(seed: int) -> None:
    """The backoff goes on for the one behind."""

    async def story(world: World) -> None:
        world.backend.connect_script.append(Fail())
        first = asyncio.create_task(world.borrow())
        behind = asyncio.create_task(world.borrow())
        await asyncio.sleep(0.002)
        assert world.pool.status().opening == 0
        first.cancel()
        await behind
        assert first.cancelled()

    in_world(story, seed=seed, max_size=1)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_borrower_cancelled_twice_is_as_good_as_cancelled_once(seed: int) -> None:
    """A second cancellation in the same turn, and one after it, find nothing half done."""

    async def story(world: World) -> None:
        conn = await world.pool.acquire()
        first = asyncio.create_task(world.borrow())
        second = asyncio.create_task(world.borrow())
        await asyncio.sleep(0.1)
        await world.pool.release(conn)
        for _ in range(3):
            first.cancel()
            first.cancel()
            await asyncio.sleep(0)
        await asyncio.wait_for(second, 1)

    in_world(story, seed=seed, max_size=1)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_timeout_of_the_callers_own_gives_the_connection_back(seed: int) -> None:
    """asyncio.timeout strikes at the instant of the hand-over; whoever wins, nothing is lost."""

    async def story(world: World) -> None:
        async def impatient() -> None:
            async with asyncio.timeout(1):
                async with world.pool.acquire():
                    await asyncio.sleep(0)

        holder = asyncio.create_task(world.borrow(0.998))
        await asyncio.sleep(0)
        outcomes = await asyncio.gather(impatient(), impatient(), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {type(None), TimeoutError}
        await asyncio.wait_for(asyncio.gather(world.borrow(), holder), 1)

    in_world(story, seed=seed, max_size=1)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_storm_of_cancellations_ends_with_everything_in_its_place(seed: int) -> None:
    """A hundred and fifty borrowers on two connections, most of them cancelled at random."""

    async def story(world: World) -> None:
        rng = current().random
        tasks = [asyncio.create_task(world.borrow(rng.random() * 0.01)) for _ in range(150)]
        for task in rng.sample(tasks, 120):
            task.cancel()
            await asyncio.sleep(rng.choice([0, 0, 0.001]))
        await asyncio.wait(tasks)
        status = world.pool.status()
        assert (status.busy, status.waiting, status.opening) == (0, 0, 0)

    in_world(story, seed=seed, max_size=2)
