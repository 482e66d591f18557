"""How many connections there are, and how long each lives."""

import asyncio
import time

import pytest

from millpond import EventKind, InvalidSettings, PoolTimeout
from millpond.events import Event
from millpond.testing.driver import Dawdle
from tests.kernel.worlds import SEEDS, World, in_world


def closings(world: World) -> list[float]:
    """When connections are closed, from now on: filled as it happens."""
    times: list[float] = []

    def note(event: Event) -> None:
        if event.kind is EventKind.CLOSED:
            times.append(world.now())

    world.pool.add_listener(note)
    return times


def test_lifetimes_are_spread_so_that_what_opened_together_does_not_end_together() -> None:
    """Twenty connections of one burst go over a fifth of max_lifetime, not in one instant."""
    times: list[float] = []

    async def story(world: World) -> None:
        noted = closings(world)
        await world.pool.initialize()
        await asyncio.sleep(99)
        times.extend(noted)
        assert world.pool.status().idle == 20

    in_world(story, min_size=20, max_size=20, max_lifetime=100.0, lifetime_jitter=0.2)

    assert len(times) >= 18
    assert 80 <= min(times) <= max(times) <= 99.1
    assert max(times) - min(times) > 12
    assert max(sum(1 for each in times if at <= each < at + 1) for at in times) <= 6


def test_without_jitter_a_lifetime_is_exact() -> None:
    """The setting says how much it varies."""

    async def story(world: World) -> None:
        noted = closings(world)
        await world.borrow()
        opened_at = world.now()
        await asyncio.sleep(101)
        assert noted == [pytest.approx(opened_at + 100, abs=0.1)]

    in_world(story, max_size=1, max_lifetime=100.0, lifetime_jitter=0.0, idle_timeout=None)


def test_a_lifetime_that_ends_during_a_lease_waits_for_its_end() -> None:
    """It is never taken back by force, and never lent again."""

    async def story(world: World) -> None:
        async with world.pool.acquire() as conn:
            await asyncio.sleep(200)
            assert conn.is_alive
        await asyncio.sleep(0.1)
        assert world.pool.status().total == 0

    world = in_world(story, max_size=1, max_lifetime=100.0)

    assert world.pool.stats().closed_by_reason == {"lifetime": 1}


def test_an_old_connection_returned_while_others_wait_makes_room_for_a_new_one() -> None:
    """The waiter gets the new one."""

    async def story(world: World) -> None:
        async with world.pool.acquire() as old:
            waiting = asyncio.create_task(world.pool.lease(timeout=None))
            await asyncio.sleep(101)
        lease = await asyncio.wait_for(waiting, 0.1)
        assert lease.connection is not old
        lease.release()

    in_world(story, max_size=1, max_lifetime=100.0)


def test_the_floor_is_kept_for_connections_that_were_never_used_too() -> None:
    """Lifetimes end, the server hangs up, nobody ever asks: there are three, always."""

    async def story(world: World) -> None:
        await world.pool.initialize()
        await asyncio.sleep(1)
        for hour in range(6):
            for conn in world.backend.live[: hour % 3]:
                conn.kill(silently=True)
            await asyncio.sleep(3600)
            assert world.pool.status().idle == 3
            assert len(world.backend.live) == 3

    world = in_world(story, min_size=3, max_size=5, max_lifetime=600.0, idle_timeout=60.0)

    assert "idle" not in world.pool.stats().closed_by_reason


def test_a_pool_shrinks_to_its_floor_after_a_spike() -> None:
    """What the spike needed goes idle_timeout after it, the coldest first; what is used stays."""

    async def story(world: World) -> None:
        await asyncio.gather(*(world.borrow(1) for _ in range(20)))
        assert world.pool.status().total == 20
        for _ in range(70):
            await asyncio.sleep(1)
            await world.borrow()
        status = world.pool.status()
        assert status.total == 2

    in_world(story, min_size=2, max_size=20, idle_timeout=60.0)


def test_no_more_than_max_idle_are_kept() -> None:
    """A spike's connections above it go as they come back."""

    async def story(world: World) -> None:
        await asyncio.gather(*(world.borrow(1) for _ in range(10)))
        await asyncio.sleep(0.1)
        assert world.pool.status().idle == 3

    in_world(story, max_size=10, max_idle=3)


def test_the_warmest_connection_is_lent_first() -> None:
    """Last in, first out: the others grow cold and can be closed."""

    async def story(world: World) -> None:
        await asyncio.gather(*(world.borrow(0.1) for _ in range(5)))
        used = set()
        for _ in range(20):
            async with world.pool.acquire() as conn:
                used.add(conn)
        assert len(used) == 1

    in_world(story, max_size=5)


def test_a_connection_is_lent_max_uses_times() -> None:
    """Then it goes."""

    async def story(world: World) -> None:
        for _ in range(10):
            await world.borrow()

    world = in_world(story, max_size=1, max_uses=3)

    assert world.backend.opened == 4
    assert world.pool.stats().closed_by_reason["uses"] == 3


@pytest.mark.parametrize("seed", SEEDS)
def test_a_resize_below_what_is_out_takes_nothing_back_and_only_falls(seed: int) -> None:
    """Borrowers finish; the bound is what was open, and it never rises again."""
    totals: list[int] = []

    async def story(world: World) -> None:
        borrowers = [asyncio.create_task(world.borrow(number)) for number in range(1, 6)]
        await asyncio.sleep(0.5)
        waiting = [asyncio.create_task(world.borrow(0.1)) for _ in range(10)]
        world.pool.resize(max_size=2)
        while not all(task.done() for task in borrowers):
            totals.append(len(world.backend.live))
            await asyncio.sleep(0.1)
        await asyncio.gather(*borrowers, *waiting)
        assert world.pool.status().total == 2

    world = in_world(story, seed=seed, max_size=5)

    assert totals == sorted(totals, reverse=True)
    assert totals[0] == 5
    assert world.pool.stats().closed_by_reason["shrunk"] == 3


def test_a_resize_during_connects_stops_the_youngest() -> None:
    """What is being opened above the new limit is given up; those who wait are served by the rest."""

    async def story(world: World) -> None:
        world.backend.connects = Dawdle(1)
        tasks = [asyncio.create_task(world.borrow(0.1)) for _ in range(4)]
        await asyncio.sleep(0.5)
        world.pool.resize(max_size=1)
        await asyncio.gather(*tasks)

    world = in_world(story, max_size=4)

    assert world.backend.opened == 1


def test_a_resize_upwards_serves_those_who_wait_at_once() -> None:
    """Nobody has to come back first."""

    async def story(world: World) -> None:
        holder = asyncio.create_task(world.borrow(10))
        await asyncio.sleep(0.1)
        waiting = asyncio.create_task(world.borrow())
        await asyncio.sleep(0.1)
        world.pool.resize(max_size=2)
        await asyncio.wait_for(waiting, 0.1)
        await holder

    in_world(story, max_size=1)


def test_a_floor_above_the_ceiling_is_refused_and_changes_nothing() -> None:
    """The pool goes on with what it had."""

    async def story(world: World) -> None:
        with pytest.raises(InvalidSettings):
            world.pool.resize(min_size=6)
        await world.borrow()
        assert world.pool.settings.min_size == 0

    in_world(story, max_size=5)


def test_a_jumping_wall_clock_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only monotonic time counts: set back a year and forward a decade, it ends nothing and nobody."""
    really = time.time
    jumps = [0.0, -3e7, 3e8]

    async def story(world: World) -> None:
        for jump in jumps:
            monkeypatch.setattr(time, "time", lambda jump=jump: really() + jump)
            began = world.now()
            async with world.pool.acquire():
                with pytest.raises(PoolTimeout):
                    await world.pool.acquire(timeout=2)
            assert world.now() - began == pytest.approx(2, abs=0.01)
            await asyncio.sleep(5)
            assert world.pool.holders() == ()

    world = in_world(story, max_size=1)

    assert world.backend.opened == 1


def test_a_health_sweep_starves_nobody() -> None:
    """All are due for a ping at once, and pings are slow: a few at a time, borrowers take the rest."""

    async def story(world: World) -> None:
        await world.pool.initialize()
        await asyncio.sleep(1)
        world.backend.pings = Dawdle(2)
        await asyncio.sleep(29.5)
        assert world.pool.status().tending == 3
        began = world.now()
        await asyncio.gather(*(world.borrow(0.1) for _ in range(7)))
        assert world.now() - began < 0.2

    world = in_world(story, min_size=10, max_size=10, max_connecting=3, validate_after_idle=None)

    assert world.backend.opened == 10


def test_who_finds_only_a_connection_that_is_being_pinged_gets_it_when_the_ping_answers() -> None:
    """Head of the queue kept: first come, first served."""
    served: list[int] = []

    async def story(world: World) -> None:
        async def borrow(number: int) -> None:
            async with world.pool.acquire():
                served.append(number)

        await world.borrow()
        world.backend.pings = Dawdle(2)
        await asyncio.sleep(30.5)
        assert world.pool.status().tending == 1
        began = world.now()
        tasks = []
        for number in range(3):
            tasks.append(asyncio.create_task(borrow(number)))
            await asyncio.sleep(0.1)
        await asyncio.gather(*tasks)
        assert world.now() - began < 2

    world = in_world(story, max_size=1)

    assert served == [0, 1, 2]
    assert world.backend.opened == 1


def test_an_idle_connection_is_pinged_once_an_interval() -> None:
    """A connection that is used needs no ping: its clean leases are proof enough."""

    async def story(world: World) -> None:
        await world.borrow()
        await asyncio.sleep(301)
        assert 9 <= world.pool.stats().pings <= 10
        for _ in range(30):
            await world.borrow()
            await asyncio.sleep(10)
        assert world.pool.stats().pings <= 10

    in_world(story, max_size=1, idle_timeout=None)
