"""Leases that may be lost are reported; nothing is taken back by force."""

import asyncio
import gc
import logging
import sys
import weakref
from types import FrameType
from typing import Any, ClassVar

import pytest

from millpond import ConnectionPool, EventKind
from millpond._core.slot import Slot
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


class Overlooked(Slot):
    """A place; another thread asks who holds it in the instant in which a lease is entered."""

    __slots__ = ()

    pool: ClassVar[ConnectionPool[Any]]
    seen: ClassVar[list[int]]

    @property
    def hold(self) -> Any:
        return Slot.hold.__get__(self)  # type: ignore[attr-defined]

    @hold.setter
    def hold(self, hold: Any) -> None:
        Slot.hold.__set__(self, hold)  # type: ignore[attr-defined]
        if hold is not None:
            self.seen.extend(held.lease for held in self.pool.holders())


@pytest.mark.parametrize("listens", [False, True])
def test_a_thread_that_asks_who_holds_what_never_meets_half_a_lease(listens: bool) -> None:
    """Whether it begins in passing, the long way, or by hand-over: what is entered is complete."""
    seen: list[int] = []

    async def story(world: World) -> None:
        await world.borrow()
        Overlooked.pool, Overlooked.seen = world.pool, seen
        world.pool._idle[0].__class__ = Overlooked
        if listens:
            world.pool.add_listener(lambda _: None)
        async with world.pool.acquire():
            waiting = asyncio.create_task(world.borrow())
            await asyncio.sleep(1)
        await waiting

    in_world(story, max_size=1)

    assert seen == [2, 3]


def test_a_lease_is_found_by_the_line_of_whoever_took_it(caplog: pytest.LogCaptureFixture) -> None:
    """Not by the kernel's own, which is the same for everybody, and would hide it among the last three."""

    async def story(world: World) -> None:
        heard = leaks(world)
        await world.borrow()
        async with world.pool.acquire():
            (held,) = world.pool.holders()
            await asyncio.sleep(20)
        assert held.stack[-1].rstrip().endswith("in story\n    async with world.pool.acquire():")
        assert any(" in main\n    await story(world)" in line for line in held.stack)
        (event,) = heard
        assert "async with world.pool.acquire()" in event.detail

    in_world(story, max_size=1, leak_detection_threshold=10.0)

    assert "async with world.pool.acquire()" in caplog.text


class Calls:
    """Counts calls of Python functions, by the module that they are of, while it is on."""

    def __init__(self) -> None:
        self.count = 0
        self.modules: set[object] = set()

    def _note(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            self.count += 1
            self.modules.add(frame.f_globals.get("__name__"))

    def __enter__(self) -> "Calls":
        self._before = sys.getprofile()
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(self._before)


def test_where_a_lease_was_taken_is_noted_with_it_and_put_into_words_when_somebody_asks() -> None:
    """Who looks for leaks pays a few calls at each lease; lines are looked up for those that are reported."""

    async def story(world: World) -> None:
        async def calls_of_a_lease(**settings: Any) -> Calls:
            pool = world.another_pool("counted", max_size=1, min_size=1, **settings)
            await world.borrow(pool=pool)
            async with pool.acquire():
                pass
            with Calls() as calls:
                lease = await pool.lease()
                lease.release()
            return calls

        counted = await calls_of_a_lease(max_uses=1000)  # every lease is noted somehow, too
        noted = await calls_of_a_lease(leak_detection_threshold=10.0)
        assert noted.count - counted.count <= 5
        assert not noted.modules & {"traceback", "linecache", "tokenize"}

    in_world(story)


class Heavy:
    """A local variable that somebody will miss."""


def test_noting_where_a_lease_was_taken_keeps_nobodys_locals() -> None:
    """What the caller had in its variables goes when the caller does, though the lease is still out."""

    async def story(world: World) -> None:
        await world.borrow()
        gone: list[weakref.ref[Heavy]] = []

        async def take() -> Any:
            heavy = Heavy()
            gone.append(weakref.ref(heavy))
            return await world.pool.lease()

        lease = await take()
        gc.collect()
        assert gone[0]() is None
        assert any("in take" in line for line in world.pool.holders()[0].stack)
        lease.release()

    in_world(story, max_size=1, leak_detection_threshold=10.0)
