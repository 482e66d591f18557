"""What was cut short leaves nothing half done: a cancelled opening, a closed coroutine, a loop that ended."""

import asyncio
import gc
import random
from typing import Any

import pytest

from millpond import ConnectionPool, PoolSettings
from millpond.status import PoolState
from millpond.testing import ScriptedBackend, ScriptedDriver, SimulatedLoop
from millpond.testing.driver import Dawdle, Fail, Hang
from millpond.testing.loop import current
from tests.kernel.worlds import SEEDS, World, in_world

EAGER = {"eager_init": True, "min_size": 1}


@pytest.mark.parametrize("seed", SEEDS)
def test_an_opening_cancelled_as_its_connection_arrives_leaves_none_behind(seed: int) -> None:
    """A pool that was opened in vain is as new, whichever of the two came first."""

    async def story(world: World) -> None:
        world.backend.connects = Dawdle(1)
        opening = asyncio.create_task(world.pool.initialize())
        await asyncio.sleep(0.5)
        current().call_at(1.0, opening.cancel)
        await asyncio.wait([opening])
        await asyncio.sleep(1)

        assert opening.cancelled()
        assert (world.pool.state, world.pool.status().total) == (PoolState.NEW, 0)

    in_world(story, seed=seed, **EAGER)


def test_an_opening_cancelled_while_the_pool_closes_does_not_open_it_again() -> None:
    """close() has been called: whatever ends afterwards, the pool stays closed."""

    async def story(world: World) -> None:
        world.backend.connects = Hang()
        opening = asyncio.create_task(world.pool.initialize())
        await asyncio.sleep(1)
        closing = asyncio.create_task(world.pool.close())
        await asyncio.sleep(0)  # close() has woken the opening, which has not run yet
        assert world.pool.state is PoolState.CLOSING
        opening.cancel()
        await asyncio.wait([opening, closing])

        assert world.pool.state is PoolState.CLOSED

    in_world(story, seed=None, **EAGER)


def test_a_pool_whose_context_is_closed_rather_than_left_ends_at_once() -> None:
    """Nothing can be awaited in a coroutine that is being closed: what is open is cut."""

    async def story(world: World) -> None:
        async def use() -> None:
            async with world.pool, world.pool.acquire():
                await asyncio.sleep(1)

        await world.borrow()
        using = use()
        using.send(None)
        using.close()

        assert world.backend.held == []

    in_world(story, max_size=2)


class Abandoned:
    """A loop that is closed in the middle of things, as a program does that ends without tidying up."""

    def __init__(self) -> None:
        self.backend = ScriptedBackend()
        self.pool: ConnectionPool[Any] = ConnectionPool(
            ScriptedDriver(self.backend), settings=PoolSettings(max_size=1), random=random.Random(0)
        )
        self.loop = SimulatedLoop(None)

    async def borrow(self) -> None:
        """Hold it for long."""
        async with self.pool.acquire(timeout=None):
            await asyncio.sleep(1000)

    def run_for(self, seconds: float) -> None:
        """A holder, and two who wait; then the loop is closed and all of them are forgotten."""
        for _ in range(3):
            # Their end is the point here, not what the interpreter says of tasks that never ended.
            self.loop.create_task(self.borrow())._log_destroy_pending = False  # type: ignore[attr-defined]
        self.loop.run_until_complete(asyncio.wait_for(_sleep(seconds), None))
        self.loop.close()


async def _sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)


@pytest.mark.parametrize("seconds", [0.0, 0.0005, 0.5])
def test_borrowers_who_are_collected_after_their_loop_was_closed_make_no_noise(seconds: float) -> None:
    """There is nobody left to serve and nothing left to run it on."""
    abandoned = Abandoned()

    abandoned.run_for(seconds)
    asyncio.run(abandoned.pool.close())
    backend = abandoned.backend
    del abandoned
    gc.collect()

    backend.check(all_closed=True)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_attempt_that_was_due_while_the_pool_held_off_is_made_afterwards(seed: int) -> None:
    """Somebody cancels a task of the pool, and its loop goes on: the timer it had rings too early."""

    async def story(world: World) -> None:
        await world.borrow()
        world.backend.connects = Fail()
        world.pool.resize(min_size=2)
        await asyncio.sleep(0.01)
        world.backend.connects = Dawdle(0.01)
        world.backend.pings = Hang()
        await asyncio.sleep(world.pool._opener.next_attempt_at - world.now() - 0.3)
        checking = asyncio.create_task(world.pool.check())
        await asyncio.sleep(0.1)
        (pinging,) = (task for task in asyncio.all_tasks() if "ping" in task.get_name())
        pinging.cancel()
        await asyncio.sleep(1.2)

        assert world.pool.status().idle == 2
        await checking

    in_world(
        story, seed=seed, max_size=2, retry_delay=900.0, recovery_timeout=900.0, health_check_interval=None
    )
