"""check(): is the backend there? It asks the cheapest thing that can tell, and queues behind nobody."""

import asyncio

import pytest

from millpond.driver import Verdict
from millpond.testing.driver import Dawdle, Fail, Hang
from tests.kernel.worlds import SEEDS, World, in_world


@pytest.mark.parametrize(
    ("idle_s", "source", "seconds"),
    [
        pytest.param(0.5, "recent", 0.0, id="what was used a moment ago is believed"),
        pytest.param(5.0, "ping", 0.1, id="what is idle is pinged"),
    ],
)
def test_what_is_open_answers(idle_s: float, source: str, seconds: float) -> None:
    """Without a new connection."""

    async def story(world: World) -> None:
        world.backend.pings = Dawdle(0.1)
        await world.borrow()
        await asyncio.sleep(idle_s)
        found = await world.pool.check()

        assert (found.healthy, found.source) == (True, source)
        assert found.latency == pytest.approx(seconds, abs=0.01)
        assert world.backend.opened == 1

    in_world(story)


def test_where_nothing_is_open_a_connect_tells() -> None:
    """It is kept: the next borrower has no need to wait for one."""

    async def story(world: World) -> None:
        found = await world.pool.check()

        assert (found.healthy, found.source) == (True, "connect")
        assert world.pool.status().idle == 1

    in_world(story)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_pool_whose_connections_are_all_out_is_believed_at_once(seed: int) -> None:
    """There is nothing to ask: to wait for a borrower to return would be to queue behind it."""

    async def story(world: World) -> None:
        async with world.pool.acquire(), world.pool.acquire():
            await asyncio.sleep(60)
            waiting = asyncio.create_task(world.borrow())
            await asyncio.sleep(0.1)
            found = await world.pool.check()

        assert (found.healthy, found.source, found.latency) == (True, "busy", 0.0)
        await waiting

    in_world(story, seed=seed, max_size=2)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_pool_whose_only_free_connection_is_being_cleaned_waits_for_that(seed: int) -> None:
    """The backend has been asked already: its answer comes before the other's borrower is done."""

    async def story(world: World) -> None:
        async with world.pool.acquire():
            lease = await world.pool.lease()
            await asyncio.sleep(60)
            world.backend.resets = Dawdle(0.3)
            world.backend.after_lease_script.append(Verdict.RESET)
            lease.release(ValueError("of the borrower"))
            found = await world.pool.check()

        assert (found.healthy, found.source) == (True, "busy")
        assert found.latency == pytest.approx(0.3, abs=0.01)

    in_world(story, seed=seed, max_size=2)


@pytest.mark.parametrize("trouble", [Fail(), Hang()], ids=["refuses", "hangs"])
def test_a_backend_that_is_away_is_told_in_time(trouble: Fail | Hang) -> None:
    """The ping fails or hangs, and so does the connect after it."""

    async def story(world: World) -> None:
        await world.borrow()
        await asyncio.sleep(5)
        world.backend.pings = world.backend.connects = trouble
        began = world.now()
        found = await world.pool.check(timeout=2.0)

        assert not found.healthy
        assert found.error
        assert world.now() - began <= 2.0

    in_world(story)
