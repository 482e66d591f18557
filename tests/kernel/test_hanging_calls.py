"""Driver calls that hang: each has its timeout, and one that ignores its cancellation is left behind."""

import asyncio
import logging

import pytest

from millpond import PoolTimeout
from millpond.testing.driver import HANG_FOR_EVER, Dawdle, Fail, Hang, Verb
from tests.kernel.worlds import SEEDS, World, in_world

HANGS = [
    pytest.param(Hang(), id="until cancelled"),
    pytest.param(Hang(ignore=1), id="until cancelled twice"),
    pytest.param(HANG_FOR_EVER, id="for ever"),
]


async def start_tending(world: World, verb: Verb) -> None:
    """Leave a connection behind that is about to be pinged, reset or closed."""
    async with world.pool.acquire() as conn:
        if verb is Verb.RESET:
            await conn.begin()
        if verb is Verb.CLOSE:
            world.pool.clear()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("hang", HANGS)
@pytest.mark.parametrize("verb", [Verb.CONNECT, Verb.PING, Verb.RESET, Verb.CLOSE])
def test_a_call_that_hangs_holds_its_place_for_its_timeout_at_most(
    verb: Verb, hang: Hang, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    """And a second more if the driver ignores its cancellation; then a new connection serves."""
    caplog.set_level(logging.ERROR)

    async def story(world: World) -> None:
        backend = world.backend
        if verb is Verb.PING:
            await world.borrow()
        backend.scripts[verb].queue.append(hang)
        if verb in (Verb.RESET, Verb.CLOSE):
            await start_tending(world, verb)
        began = world.now()
        await asyncio.gather(*(world.borrow() for _ in range(3)))
        assert world.now() - began < 2 + 1 + 0.6
        backend.unhang()
        await asyncio.sleep(0.1)
        assert world.pool.status().abandoned == 0
        assert world.pool.status().total == 1

    in_world(
        story,
        seed=seed,
        max_size=1,
        connect_timeout=2.0,
        health_check_timeout=2.0,
        reset_timeout=2.0,
        disconnect_timeout=2.0,
        validate_after_idle=0.0 if verb is Verb.PING else None,
    )


@pytest.mark.parametrize("verb", [Verb.PING, Verb.RESET])
def test_a_call_that_hangs_delays_nobody_while_there_is_room(verb: Verb) -> None:
    """After the hedge another connection is opened."""

    async def story(world: World) -> None:
        if verb is Verb.PING:
            await world.borrow()
        world.backend.scripts[verb].queue.append(HANG_FOR_EVER)
        if verb is Verb.RESET:
            await start_tending(world, verb)
        began = world.now()
        await world.borrow()
        assert world.now() - began < 0.1
        world.backend.unhang()

    in_world(story, max_size=2, validate_after_idle=0.0 if verb is Verb.PING else None)


def test_an_abandoned_call_is_counted_until_it_ends() -> None:
    """status().abandoned says how many driver calls refuse to end."""

    async def story(world: World) -> None:
        world.backend.connect_script.append(HANG_FOR_EVER)
        await world.borrow()
        assert world.pool.status().abandoned == 1
        world.backend.unhang()
        await asyncio.sleep(0.1)
        assert world.pool.status().abandoned == 0

    in_world(story, max_size=1, connect_timeout=1.0)


def test_a_connection_that_arrives_after_its_connect_was_abandoned_is_terminated() -> None:
    """Its place has been given to another; it is nobody's."""

    async def story(world: World) -> None:
        world.backend.connect_script.append(HANG_FOR_EVER)
        await world.borrow()
        assert world.backend.opened == 1
        world.backend.unhang()
        await asyncio.sleep(0.1)
        assert world.backend.opened == 2
        assert world.backend.terminated == 1
        assert world.pool.status().total == 1

    in_world(story, max_size=1, connect_timeout=1.0)


def test_a_connect_that_finishes_while_it_is_being_cancelled_is_used() -> None:
    """It took a moment too long, but here it is."""

    async def story(world: World) -> None:
        world.backend.connect_script.append(Hang(finishes=True))
        await world.borrow()
        assert world.now() == pytest.approx(1, abs=0.01)

    world = in_world(story, max_size=1, connect_timeout=1.0)

    assert world.backend.opened == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_one_deadline_covers_everything_that_hangs_on_the_way(seed: int) -> None:
    """A ping that hangs, then a connect that fails, then one that hangs: the acquire ends by its timeout."""

    async def story(world: World) -> None:
        await world.borrow()
        world.backend.ping_script.append(Hang())
        world.backend.connects = Hang()
        world.backend.connect_script.extend([Fail(after=0.5), Dawdle(0.5, then=Fail())])
        for timeout in (0.5, 3.0, 7.0):
            began = world.now()
            with pytest.raises(PoolTimeout) as caught:
                await world.pool.acquire(timeout=timeout)
            assert world.now() - began == pytest.approx(timeout, abs=0.001)
            assert caught.value.waited == pytest.approx(timeout, abs=0.001)
        world.backend.connects = Fail()

    in_world(story, seed=seed, max_size=2, validate_after_idle=0.0, connect_timeout=20.0)


def test_a_whole_backend_that_freezes_holds_no_borrower_beyond_its_timeout() -> None:
    """Pings, resets, connects and requests stand still; when it thaws all goes on."""

    async def story(world: World) -> None:
        await asyncio.gather(*(world.borrow(0.01) for _ in range(3)))
        world.backend.freeze()
        began = world.now()
        outcomes = await asyncio.gather(
            *(world.pool.lease(timeout=2) for _ in range(10)), return_exceptions=True
        )
        assert world.now() - began == pytest.approx(2, abs=0.01)
        assert {type(outcome) for outcome in outcomes} == {PoolTimeout}
        world.backend.thaw()
        await asyncio.wait_for(world.borrow(), 1)

    in_world(story, max_size=3, validate_after_idle=0.0)


def test_a_connect_that_nobody_wants_after_its_timeout_gets_no_second_grace() -> None:
    """It is given up a second after it was told to stop, however often it is told."""

    async def story(world: World) -> None:
        world.backend.connect_script.append(HANG_FOR_EVER)
        waiting = asyncio.create_task(world.borrow())
        await asyncio.sleep(1.5)
        world.pool.clear()
        await asyncio.sleep(0.6)
        assert world.pool.status().abandoned == 1
        await waiting
        world.backend.unhang()

    in_world(story, max_size=1, connect_timeout=1.0)
