"""Listeners: told in order, once the books are closed; they may raise, and may call the pool."""

import asyncio

import pytest

from millpond import CloseReason, EventKind
from millpond.events import Event
from millpond.testing.driver import Fail
from tests.kernel.worlds import SEEDS, World, in_world


@pytest.mark.parametrize("seed", SEEDS)
def test_a_listener_that_raises_harms_nothing(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged and counted; the other listeners hear everything all the same."""
    heard: list[Event] = []

    async def story(world: World) -> None:
        def faulty(event: Event) -> None:
            raise RuntimeError(f"cannot stand {event.kind.value}")

        world.pool.add_listener(faulty)
        world.pool.add_listener(heard.append)
        await asyncio.gather(*(world.borrow(0.1) for _ in range(5)))
        world.pool.clear()
        await world.pool.close()
        assert world.pool.stats().listener_errors == len(heard) > 10

    in_world(story, seed=seed, max_size=2)

    assert "cannot stand lent" in caplog.text
    assert [event.sequence for event in heard] == list(range(1, len(heard) + 1))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_listener_may_call_the_pool_again(seed: int) -> None:
    """Resize, clear, pause, questions: its own events come after those that are being told."""
    heard: list[Event] = []

    async def story(world: World) -> None:
        pool = world.pool

        def busy(event: Event) -> None:
            heard.append(event)
            pool.status()
            pool.stats()
            pool.holders()
            if event.kind is EventKind.WAITING and pool.settings.max_size < 3:
                pool.resize(max_size=pool.settings.max_size + 1)
            if event.kind is EventKind.RETURNED and event.lease == 5:
                pool.clear()
            if event.kind is EventKind.CLEARED:
                pool.pause()
            if event.kind is EventKind.CHANGED and event.reason == "state" and event.detail == "paused":
                pool.resume()

        pool.add_listener(busy)
        await asyncio.wait_for(asyncio.gather(*(world.borrow(0.1) for _ in range(10))), 5)
        assert pool.settings.max_size == 3
        assert pool.status().generation == 1

    in_world(story, seed=seed, max_size=1)

    assert [event.sequence for event in heard] == list(range(1, len(heard) + 1))


def test_a_listener_hears_of_a_lease_before_its_borrower_runs() -> None:
    """Delivered after the books are closed and before the waiter runs."""
    order: list[str] = []

    async def story(world: World) -> None:
        def listen(event: Event) -> None:
            if event.kind is EventKind.LENT:
                assert world.pool.status().busy == 1
                order.append(f"lent {event.lease}")

        async def borrow(number: int) -> None:
            async with world.pool.acquire():
                order.append(f"runs {number}")
                await asyncio.sleep(0.01)

        world.pool.add_listener(listen)
        tasks = []
        for number in (1, 2, 3):
            tasks.append(asyncio.create_task(borrow(number)))
            await asyncio.sleep(0.001)
        await asyncio.gather(*tasks)

    in_world(story, max_size=1)

    assert order == ["lent 1", "runs 1", "lent 2", "runs 2", "lent 3", "runs 3"]


def test_a_listener_that_leaves_hears_no_more() -> None:
    """Even when it leaves in the middle of being told."""
    heard: list[Event] = []

    async def story(world: World) -> None:
        def once(event: Event) -> None:
            heard.append(event)
            leave()

        leave = world.pool.add_listener(once)
        await world.borrow()
        await world.borrow()

    in_world(story, max_size=1)

    assert len(heard) == 1


def test_everything_that_happens_is_told_with_its_reason() -> None:
    """One of each kind, and each closing says why."""
    heard: list[Event] = []

    async def story(world: World) -> None:
        pool = world.pool
        pool.add_listener(heard.append)
        world.backend.connect_script.append(Fail())
        async with pool.acquire() as conn:
            await conn.begin()
            with pytest.raises(TimeoutError):
                await pool.acquire(timeout=1)
        (await pool.lease()).discard()
        world.backend.connects = Fail(permanent=True)
        with pytest.raises(ConnectionError):
            await pool.acquire()
        pool.clear()

    world = in_world(story, max_size=1)

    kinds = {event.kind for event in heard}
    assert kinds >= {
        EventKind.OPENED, EventKind.OPEN_FAILED, EventKind.LENT, EventKind.RETURNED, EventKind.RESET,
        EventKind.DISCARDED, EventKind.CLOSED, EventKind.WAITING, EventKind.TIMED_OUT,
        EventKind.BREAKER_CHANGED, EventKind.CLEARED, EventKind.CHANGED,
    }  # fmt: skip
    closed = [event for event in heard if event.kind is EventKind.CLOSED]
    assert {event.reason for event in closed} == {CloseReason.DISCARDED}
    assert len(closed) == world.backend.opened
    assert all(event.pool == "world" for event in heard)


def test_opened_and_closed_events_balance() -> None:
    """Whoever only listens can count what is open."""
    open_now: set[int] = set()

    async def story(world: World) -> None:
        def count(event: Event) -> None:
            if event.kind is EventKind.OPENED:
                open_now.add(event.connection)
            elif event.kind is EventKind.CLOSED:
                open_now.remove(event.connection)

        world.pool.add_listener(count)
        for _ in range(10):
            await asyncio.gather(*(world.borrow(0.1) for _ in range(5)))
            assert len(open_now) == world.pool.status().total
            world.pool.clear()
            await asyncio.sleep(0.1)

    in_world(story, max_size=3)

    assert open_now == set()
