"""Who gets which connection, and when."""

import asyncio

import pytest

from millpond import PoolClosed, PoolExhausted, PoolTimeout, TimeoutCause
from millpond.events import Event, EventKind
from millpond.testing.driver import Dawdle, Fail, Hang, Succeed
from tests.kernel.worlds import SEEDS, World, in_world


@pytest.mark.parametrize("seed", SEEDS)
def test_first_come_first_served(seed: int) -> None:
    """Waiters are served in the order in which they asked."""
    served: list[int] = []

    async def story(world: World) -> None:
        async def borrow(number: int) -> None:
            async with world.pool.acquire():
                served.append(number)
                await asyncio.sleep(0.01)

        tasks = []
        for number in range(10):
            tasks.append(asyncio.create_task(borrow(number)))
            await asyncio.sleep(0.001)
        await asyncio.gather(*tasks)

    in_world(story, seed=seed, max_size=1)

    assert served == list(range(10))


@pytest.mark.parametrize("seed", SEEDS)
def test_loopers_get_equal_shares(seed: int) -> None:
    """20 tasks looping on 2 connections: none gets more than 1.2 times another's turns."""
    turns = [0] * 20

    async def story(world: World) -> None:
        async def loop(number: int) -> None:
            while world.now() < 10:
                async with world.pool.acquire():
                    turns[number] += 1
                    await asyncio.sleep(0.01)

        await asyncio.gather(*(loop(number) for number in range(20)))

    in_world(story, seed=seed, max_size=2)

    assert max(turns) / min(turns) <= 1.2


@pytest.mark.parametrize("seed", SEEDS)
def test_a_slow_connect_does_not_delay_who_can_have_a_returned_connection(seed: int) -> None:
    """Served by whichever comes first, a return or an open."""
    waited: list[float] = []

    async def story(world: World) -> None:
        first = asyncio.create_task(world.borrow(0.1))
        await asyncio.sleep(0.05)
        world.backend.connects = Dawdle(4)
        began = world.now()
        await world.borrow()
        waited.append(world.now() - began)
        await first

    in_world(story, seed=seed, max_size=2)

    assert waited[0] < 0.2


def test_a_timeout_covers_everything_and_says_who_holds_what() -> None:
    """An acquire that cannot succeed ends by its deadline; the error names cause and holder."""
    errors: list[PoolTimeout] = []

    async def story(world: World) -> None:
        async with world.pool.acquire():
            began = world.now()
            with pytest.raises(PoolTimeout) as caught:
                await world.pool.acquire(timeout=1.5)
            assert world.now() - began == pytest.approx(1.5)
            errors.append(caught.value)

    in_world(story, max_size=1)

    assert errors[0].cause is TimeoutCause.EXHAUSTED
    assert len(errors[0].holders) == 1
    assert "busy 1/1" in str(errors[0])


def test_a_hung_connect_frees_its_place_at_connect_timeout() -> None:
    """The next attempt gets through."""

    async def story(world: World) -> None:
        world.backend.connect_script.append(Hang())
        await world.borrow()
        assert 2 <= world.now() < 4

    world = in_world(story, max_size=1, connect_timeout=2.0)

    assert world.pool.stats().open_failures == 1


def test_a_zero_timeout_takes_only_what_is_idle() -> None:
    """With nothing idle it fails at once; with something idle it succeeds."""

    async def story(world: World) -> None:
        with pytest.raises(PoolTimeout):
            await world.pool.acquire(timeout=0)
        await world.borrow()
        async with world.pool.acquire(timeout=0):
            pass

    in_world(story, max_size=1)


def test_a_full_queue_refuses_at_once() -> None:
    """max_waiting counts those who really wait."""

    async def story(world: World) -> None:
        async with world.pool.acquire():
            waiter = asyncio.create_task(world.borrow())
            await asyncio.sleep(0.1)
            with pytest.raises(PoolExhausted):
                await world.pool.acquire()
        await waiter

    world = in_world(story, max_size=1, max_waiting=1)

    assert world.pool.stats().refused == 1


def test_a_cold_burst_keeps_to_max_connecting() -> None:
    """Fifty borrowers at once open at most four connections at a time."""

    async def story(world: World) -> None:
        world.backend.connects = Dawdle(0.02)
        await asyncio.gather(*(world.borrow() for _ in range(50)))

    world = in_world(story, max_size=20, max_connecting=4)

    assert world.backend.peak_connecting == 4


@pytest.mark.parametrize("mode", ["queue", "refuse"])
def test_a_paused_pool_lends_nothing(mode: str) -> None:
    """Borrowers queue until resume, or are refused at once."""

    async def story(world: World) -> None:
        await world.borrow()
        world.pool.pause(mode)  # type: ignore[arg-type]
        if mode == "refuse":
            with pytest.raises(PoolClosed):
                await world.pool.acquire()
            world.pool.resume()
        else:
            waiter = asyncio.create_task(world.borrow())
            await asyncio.sleep(1)
            assert not waiter.done()
            world.pool.resume()
            await waiter

    in_world(story, max_size=1)


def _kill_what_is_handed_over(world: World, count: int) -> None:
    """Listeners hear of a hand-over before its borrower runs: its connection dies in between."""
    left = [None] * count

    def listen(event: Event) -> None:
        if event.kind is EventKind.LENT and event.seconds and left:
            left.pop()
            world.backend.kill(world.pool._ledger.slots[event.connection].conn)

    world.pool.add_listener(listen)


@pytest.mark.parametrize("seed", SEEDS)
def test_those_whose_connections_die_in_the_hand_over_keep_their_order(seed: int) -> None:
    """Who asks again takes the place in the queue that it had, whichever of them runs first."""
    served: list[int] = []

    async def story(world: World) -> None:
        held = [await world.pool.acquire() for _ in range(3)]

        async def wait(number: int) -> None:
            async with world.pool.acquire():
                served.append(number)

        waiting = []
        for number in range(4):
            waiting.append(asyncio.create_task(wait(number)))
            await asyncio.sleep(0.01)
        _kill_what_is_handed_over(world, 3)
        for conn in held:
            await world.pool.release(conn)
        await asyncio.gather(*waiting)

    in_world(story, seed=seed, max_size=3, max_connecting=1)

    assert served == [0, 1, 2, 3]


def test_who_was_handed_a_dying_connection_is_not_turned_away_at_the_queue() -> None:
    """It was let in once; that others have filled the queue meanwhile is no reason to refuse it."""

    async def story(world: World) -> None:
        conn = await world.pool.acquire()
        world.backend.connects = Fail()
        first = asyncio.create_task(world.borrow())
        await asyncio.sleep(0.01)
        world.backend.connects = Succeed()
        _kill_what_is_handed_over(world, 1)
        second = asyncio.create_task(world.borrow())  # runs before the one who was handed the connection
        await world.pool.release(conn)

        await asyncio.gather(first, second)

    in_world(story, seed=None, max_size=2, max_waiting=1, retry_delay=8.0)
