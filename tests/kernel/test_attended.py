"""Pools that want to know of every lease: who listens, counts uses or looks for leaks misses none."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from millpond import ConnectionPool, EventKind
from millpond.events import Event
from tests.kernel.worlds import World, in_world

Pool = ConnectionPool[Any]
Borrow = Callable[[Pool, float], Awaitable[None]]


async def in_a_block(pool: Pool, seconds: float) -> None:
    """Hold a connection in an `async with`."""
    async with pool.acquire():
        await asyncio.sleep(seconds)


async def explicitly(pool: Pool, seconds: float) -> None:
    """Hold a connection from an `await` to a `release`."""
    conn = await pool.acquire()
    await asyncio.sleep(seconds)
    await pool.release(conn)


async def by_identity(pool: Pool, seconds: float) -> None:
    """Hold a lease, and end it."""
    lease = await pool.lease()
    await asyncio.sleep(seconds)
    lease.release()


async def by_identity_in_a_block(pool: Pool, seconds: float) -> None:
    """Hold a lease that a block ends."""
    async with await pool.lease():
        await asyncio.sleep(seconds)


every_spelling = pytest.mark.parametrize(
    "borrow", [in_a_block, explicitly, by_identity, by_identity_in_a_block]
)
HOW_MANY = pytest.mark.parametrize("at_once", [1, 3], ids=["alone", "in turn"])


@every_spelling
@HOW_MANY
def test_who_listens_hears_both_ends_of_every_lease(borrow: Borrow, at_once: int) -> None:
    """Lent and returned, in pairs, each with the number of its lease."""
    heard: list[Event] = []

    async def story(world: World) -> None:
        for _ in range(2):
            await borrow(world.pool, 0.1)
        world.pool.add_listener(heard.append)
        for _ in range(4):
            await asyncio.gather(*(borrow(world.pool, 0.1) for _ in range(at_once)))

    in_world(story, max_size=1)

    told = [event for event in heard if event.kind in (EventKind.LENT, EventKind.RETURNED)]
    assert [event.kind for event in told] == [EventKind.LENT, EventKind.RETURNED] * 4 * at_once
    assert [event.lease for event in told[::2]] == [event.lease for event in told[1::2]]
    assert len({event.lease for event in told}) == 4 * at_once
    assert [event.seconds for event in told[1::2]] == pytest.approx([0.1] * 4 * at_once)


@every_spelling
@HOW_MANY
@pytest.mark.parametrize("others", [{}, {"leak_detection_threshold": 9.0}], ids=["alone", "and leaks"])
def test_every_lease_is_a_use(borrow: Borrow, at_once: int, others: dict[str, float]) -> None:
    """A connection goes when it comes back from the last that it may serve, not earlier, not later."""

    async def story(world: World) -> None:
        for done in range(1, 5):
            await asyncio.gather(*(borrow(world.pool, 0.1) for _ in range(at_once)))
            await asyncio.sleep(1)
            assert world.pool.stats().closed_by_reason.get("uses", 0) == done * at_once // 3

    in_world(story, max_size=1, max_uses=3, **others)


@every_spelling
def test_a_limit_that_is_lowered_counts_for_who_is_out(borrow: Borrow) -> None:
    """Two uses so far, one of them in passing; then two are the limit, and the third was one too many."""

    async def story(world: World) -> None:
        for _ in range(2):
            await borrow(world.pool, 0.1)
        third = asyncio.create_task(borrow(world.pool, 1.0))
        await asyncio.sleep(0.5)
        world.pool.apply(world.pool.settings.changed(max_uses=2))
        assert world.pool.stats().closed_by_reason.get("uses", 0) == 0
        await third
        await asyncio.sleep(1)
        assert world.pool.stats().closed_by_reason["uses"] == 1

    in_world(story, max_size=1, max_uses=9)


@every_spelling
@HOW_MANY
def test_where_every_lease_was_taken_is_known_while_it_is_out(borrow: Borrow, at_once: int) -> None:
    """The line of the borrower; and nothing is kept of those that are over."""

    async def story(world: World) -> None:
        await borrow(world.pool, 0.1)
        for _ in range(3):
            tasks = [asyncio.create_task(borrow(world.pool, 1.0)) for _ in range(at_once)]
            await asyncio.sleep(0.5)
            (holder,) = world.pool.holders()
            assert "pool.acquire()" in holder.stack[-1] or "pool.lease()" in holder.stack[-1]
            await asyncio.gather(*tasks)
        assert not world.pool._upkeep._stacks

    in_world(story, max_size=1, leak_detection_threshold=9.0)


@every_spelling
def test_leases_that_are_out_when_nobody_wants_to_know_any_more_leave_nothing(borrow: Borrow) -> None:
    """They were noted, and are forgotten."""

    async def story(world: World) -> None:
        for _ in range(2):
            await borrow(world.pool, 0.1)
        task = asyncio.create_task(borrow(world.pool, 1.0))
        await asyncio.sleep(0.5)
        world.pool.apply(world.pool.settings.changed(leak_detection_threshold=None))
        assert world.pool._upkeep._stacks
        await task
        assert not world.pool._upkeep._stacks
        await borrow(world.pool, 0.1)

    in_world(story, max_size=1, leak_detection_threshold=9.0)


@pytest.mark.parametrize("heard_late", [False, True], ids=["beside another", "before both ends"])
def test_who_listens_to_a_shared_pool_hears_every_end(heard_late: bool) -> None:
    """Of leases that began before, too, though others began and ended on the same connection since."""
    heard: list[Event] = []

    async def story(world: World) -> None:
        pool = world.pool
        await by_identity(pool, 0.1)
        first = await pool.lease()
        second = await pool.lease() if heard_late else None
        pool.add_listener(heard.append)
        third = await pool.lease()
        for lease in (second, third, first):
            if lease is not None:
                lease.release()

    in_world(story, max_size=1, max_leases_per_connection=3)

    ended = [event.lease for event in heard if event.kind is EventKind.RETURNED]
    assert len(ended) == len(set(ended)) == 2 + heard_late


@pytest.mark.parametrize("leases", [1, 2])
@pytest.mark.parametrize("attended", [{}, {"max_uses": 9}], ids=["plain", "counted"])
def test_a_listener_that_ends_the_program_loses_no_connection(leases: int, attended: dict[str, int]) -> None:
    """Whichever way the lease began."""

    class EndOfTheProgram(BaseException):
        """What a listener raises."""

    def end(event: Event) -> None:
        if event.kind is EventKind.LENT:
            raise EndOfTheProgram

    async def story(world: World) -> None:
        await by_identity(world.pool, 0.1)
        remove = world.pool.add_listener(end)
        for borrow in (in_a_block, by_identity):
            with pytest.raises(EndOfTheProgram):
                await borrow(world.pool, 0.0)
            assert world.pool.status().leases == 0
        remove()
        await by_identity(world.pool, 0.1)

    in_world(story, max_size=1, max_leases_per_connection=leases, **attended)
