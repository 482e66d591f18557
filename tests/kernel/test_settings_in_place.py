"""Settings that are changed while the pool runs hold from that moment on, for what is open already too."""

import asyncio
from typing import Any

import pytest

from millpond import PoolError
from millpond.events import Event, EventKind
from millpond.status import BreakerState
from millpond.testing.driver import Dawdle, Fail
from tests.kernel.worlds import SEEDS, World, in_world


def change(world: World, **settings: Any) -> None:
    """Apply some settings, the others as they are."""
    world.pool.apply(world.pool.settings.changed(**settings))


async def have_idle(world: World, count: int) -> None:
    """Open so many connections, and leave them idle."""
    leases = [await world.pool.lease() for _ in range(count)]
    for lease in leases:
        lease.release()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_smaller_max_idle_closes_what_is_too_much(seed: int) -> None:
    """The coldest go; without a smaller idle_timeout nothing else would ever close them."""

    async def story(world: World) -> None:
        await have_idle(world, 5)
        warmest = world.pool._idle[-2:]
        change(world, max_idle=2)

        assert world.pool._idle == warmest

    in_world(story, seed=seed, idle_timeout=None)


@pytest.mark.parametrize("settings", [{"max_uses": 3}, {"max_lifetime": 5.0}], ids=str)
def test_a_shorter_service_ends_that_of_connections_that_are_open(settings: dict[str, Any]) -> None:
    """One that has served longer than it may now is not lent again; uses count while there is a limit."""

    async def story(world: World) -> None:
        for _ in range(4):
            await world.borrow()
        await asyncio.sleep(10)
        change(world, **settings)
        await world.borrow()

        assert world.backend.opened == 2

    in_world(story, max_lifetime=1000.0, max_uses=1000)


def test_a_limit_of_uses_counts_from_when_it_is_set() -> None:
    """Without one nobody counts: counting costs every lease something."""

    async def story(world: World) -> None:
        for _ in range(5):
            await world.borrow()
        change(world, max_uses=3)
        for _ in range(3):
            assert world.backend.opened == 1
            await world.borrow()
        await world.borrow()

        assert world.backend.opened == 2

    in_world(story)


def test_a_longer_lifetime_is_that_of_connections_that_are_open_too() -> None:
    """It counts from when they were opened."""

    async def story(world: World) -> None:
        await world.borrow()
        change(world, max_lifetime=None)
        await asyncio.sleep(100)
        await world.borrow()

        assert world.backend.opened == 1

    in_world(story, max_lifetime=10.0, idle_timeout=None)


def test_a_lifetime_changed_under_a_condemned_connection_does_not_reprieve_it() -> None:
    """What must not be lent again never is."""

    async def story(world: World) -> None:
        async with world.pool.acquire():
            world.pool.clear()
            change(world, max_lifetime=None)

        assert world.pool.status().idle == 0

    in_world(story)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_shrink_closes_no_connection_in_whose_place_an_attempt_is_stopped(seed: int) -> None:
    """Two are idle and two are being opened: of four, the two that work stay."""

    async def story(world: World) -> None:
        await have_idle(world, 2)
        world.backend.connects = Dawdle(1.0)
        world.pool.resize(min_size=4, max_size=4)
        await asyncio.sleep(0.1)
        async with world.pool.acquire():
            world.pool.resize(min_size=2, max_size=2)
        await asyncio.sleep(0.1)

        assert (world.pool.status().idle, world.backend.closed) == (2, 0)

    in_world(story, seed=seed, max_size=4)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shorter", ["recovery_timeout", "retry_delay"])
def test_a_shorter_backoff_ends_a_pause_that_is_longer(shorter: str, seed: int) -> None:
    """The backend is back: nobody has to wait for the step of a backoff that is no longer configured."""

    async def story(world: World) -> None:
        await have_idle(world, 1)
        world.backend.connects = Fail()
        world.pool.resize(min_size=2)
        await asyncio.sleep(0.1)
        world.pool._opener.next_attempt_at = world.now() + 3600
        world.backend.connects = Dawdle(0.01)
        change(world, **{shorter: 1.0})
        await asyncio.sleep(1.1)

        assert world.pool.status().idle == 2

    in_world(
        story, seed=seed, min_size=1, retry_delay=3600.0, recovery_timeout=3600.0, health_check_interval=None
    )


def test_a_breaker_that_is_switched_off_says_that_it_is_closed() -> None:
    """Whoever shows its state hears of every change."""

    async def story(world: World) -> None:
        heard: list[Event] = []
        world.pool.add_listener(heard.append)
        world.backend.down()
        with pytest.raises(PoolError):
            await world.borrow()
        change(world, failure_threshold=None)

        states = [event.reason for event in heard if event.kind is EventKind.BREAKER_CHANGED]
        assert states == ["open", "closed"]
        assert world.pool.status().breaker is BreakerState.CLOSED

    in_world(story, failure_threshold=2)


def test_where_leases_were_taken_is_forgotten_when_nobody_looks_for_leaks_any_more() -> None:
    """The short way back, open again, does not keep the books of the long one."""

    async def story(world: World) -> None:
        async with world.pool.acquire():
            change(world, leak_detection_threshold=None)
        await asyncio.sleep(10)

        assert not world.pool._upkeep._stacks

    in_world(story, leak_detection_threshold=5.0)
