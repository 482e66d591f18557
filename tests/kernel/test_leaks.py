"""Leases that may be lost are reported; nothing is taken back by force."""

import asyncio
import logging
from typing import Any

import pytest

from millpond import ConnectionPool, EventKind
from millpond.events import Event
from millpond.testing.driver import ScriptedConnection
from tests.kernel.worlds import World, in_world


def leaks(world: World) -> list[Event]:
    """The reports, from now on."""
    heard: list[Event] = []
    world.pool.add_listener(
        lambda event: heard.append(event) if event.kind is EventKind.LEAKED else None  # type: ignore[func-returns-value]
    )
    return heard


async def take_and_forget(world: World) -> ScriptedConnection:
    """What a careless program does."""
    return await world.pool.acquire()


def test_an_abandoned_lease_is_reported_with_its_task_and_where_it_was_taken(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The task has ended, the connection is still out: the log names both."""

    async def story(world: World) -> None:
        heard = leaks(world)
        conn = await asyncio.create_task(take_and_forget(world), name="careless")
        await asyncio.sleep(6)
        (event,) = heard
        assert event.reason == "its task has ended"
        assert "careless" in event.detail
        assert "take_and_forget" in event.detail
        assert world.pool.stats().leaked == 1
        await conn.request("nothing was taken back")
        await world.pool.release(conn)

    in_world(story, max_size=1, leak_detection_threshold=60.0)

    assert "careless" in caplog.text
    assert "take_and_forget" in caplog.text


def test_a_lease_whose_task_has_ended_is_reported_without_a_threshold_too() -> None:
    """That costs nothing; only the stack is missing."""

    async def story(world: World) -> None:
        heard = leaks(world)
        conn = await asyncio.create_task(take_and_forget(world), name="careless")
        await asyncio.sleep(6)
        assert [event.detail for event in heard] == ["careless"]
        await world.pool.release(conn)

    in_world(story, max_size=1)


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after waiting"])
def test_a_lease_held_too_long_is_reported_once_with_the_acquiring_stack(waits: bool) -> None:
    """Its task is alive: it is named, with the line that took the connection."""

    async def story(world: World) -> None:
        async def slow_work() -> None:
            async with world.pool.acquire():
                await asyncio.sleep(100)

        heard = leaks(world)
        if waits:
            holder = asyncio.create_task(world.borrow(1))
            await asyncio.sleep(0.1)
        working = asyncio.create_task(slow_work(), name="slow")
        if waits:
            await holder
        await asyncio.sleep(50)
        (event,) = heard
        assert event.reason == "held longer than leak_detection_threshold"
        assert event.seconds >= 10
        (held,) = world.pool.holders()
        assert held.task == "task slow"
        assert any("slow_work" in line for line in held.stack)
        await working
        assert len(heard) == 1

    in_world(story, max_size=1, leak_detection_threshold=10.0)


def test_a_lease_that_ends_in_time_is_not_reported() -> None:
    """Neither are many of them."""

    async def story(world: World) -> None:
        heard = leaks(world)
        for _ in range(20):
            await world.borrow(5)
        assert heard == []

    in_world(story, max_size=1, leak_detection_threshold=10.0)


def test_a_lease_passed_on_to_another_task_is_not_lost_by_being_reported() -> None:
    """A report is a hint: the lease goes on, and ends as ever."""

    async def story(world: World) -> None:
        heard = leaks(world)
        lease = await asyncio.create_task(world.pool.lease())
        await asyncio.sleep(20)
        assert len(heard) == 1
        await lease.connection.request("still mine")
        lease.release()
        await world.borrow()

    in_world(story, max_size=1)


def test_who_holds_what_is_answered_for_every_lease_the_oldest_first(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """holders() names connection, lease, age and task; a timeout repeats the oldest three."""
    caplog.set_level(logging.ERROR)

    async def story(world: World) -> None:
        tasks = []
        for number in range(5):
            tasks.append(asyncio.create_task(world.borrow(10), name=f"holder {number}"))
            await asyncio.sleep(1)
        holders = world.pool.holders()
        assert [held.task for held in holders] == [f"task holder {number}" for number in range(5)]
        assert [round(held.age) for held in holders] == [5, 4, 3, 2, 1]
        with pytest.raises(TimeoutError, match="holder 0") as caught:
            await world.pool.acquire(timeout=0.5)
        assert [held.task for held in caught.value.holders] == [
            f"task holder {number}" for number in range(3)
        ]
        await asyncio.gather(*tasks)
        assert world.pool.holders() == ()

    in_world(story, max_size=5)


class Overlooked(list[Any]):
    """The leases of a connection; another thread asks who holds it in the instant in which one is entered."""

    def __init__(self, pool: ConnectionPool[Any], seen: list[int]) -> None:
        super().__init__()
        self._pool = pool
        self._seen = seen

    def append(self, hold: Any) -> None:
        """Enter a lease."""
        super().append(hold)
        self._seen += [held.lease for held in self._pool.holders()]


@pytest.mark.parametrize("listens", [False, True])
def test_a_thread_that_asks_who_holds_what_never_meets_half_a_lease(listens: bool) -> None:
    """Whether it begins in passing, the long way, or by hand-over: what is entered is complete."""
    seen: list[int] = []

    async def story(world: World) -> None:
        await world.borrow()
        world.pool._idle[0].leases = Overlooked(world.pool, seen)
        if listens:
            world.pool.add_listener(lambda _: None)
        async with world.pool.acquire():
            waiting = asyncio.create_task(world.borrow())
            await asyncio.sleep(1)
        await waiting

    in_world(story, max_size=1)

    assert seen == [2, 3]
