"""Driver calls run in tasks of the pool's own, in an empty context; no timer keeps a caller's alive."""

import asyncio
import contextvars
import gc
import weakref
from typing import Any

import pytest

from millpond import ConnectionPool, PoolSettings
from millpond.testing import ScriptedDriver
from millpond.testing.driver import ScriptedConnection
from millpond.testing.loop import current
from tests.kernel.worlds import SEEDS, World, in_world

whose = contextvars.ContextVar("whose", default="nobody's")


class Observant(ScriptedDriver):
    """Notes in whose context and task each of its calls runs."""

    seen: dict[str, set[tuple[str, bool]]]

    def note(self, verb: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.seen.setdefault(verb, set()).add((whose.get(), task.get_name().startswith("millpond ")))

    def configured(self, settings: PoolSettings) -> "Observant":
        driver = super().configured(settings)
        driver.seen = {}
        return driver

    async def connect(self) -> ScriptedConnection:
        self.note("connect")
        return await super().connect()

    async def ping(self, conn: ScriptedConnection) -> None:
        self.note("ping")
        await super().ping(conn)

    async def reset(self, conn: ScriptedConnection) -> None:
        self.note("reset")
        await super().reset(conn)

    async def close(self, conn: ScriptedConnection) -> None:
        self.note("close")
        await super().close(conn)


def observed(world: World, **settings: Any) -> ConnectionPool[ScriptedConnection]:
    """A pool whose driver notes in whose context it is called."""
    pool = ConnectionPool(
        Observant(world.backend), settings=PoolSettings(**{"min_size": 0, "max_size": 1, **settings})
    )
    world.pools.append(pool)
    world.auditor.add(pool)
    return pool


def seen_by(pool: ConnectionPool[ScriptedConnection]) -> dict[str, set[tuple[str, bool]]]:
    """What its driver noted."""
    assert isinstance(pool.driver, Observant)
    return pool.driver.seen


@pytest.mark.parametrize("seed", SEEDS)
def test_driver_calls_run_in_tasks_of_the_pool_in_an_empty_context(seed: int) -> None:
    """Connect, ping, reset, close and the hook see nothing of what the borrower's context holds."""

    async def story(world: World) -> None:
        whose.set("a borrower's")
        pool = observed(world, validate_after_idle=0.0)
        pool._on_connect = lambda _conn: pool.driver.note("hook")  # type: ignore[attr-defined]
        for _ in range(2):
            async with pool.acquire() as conn:
                await conn.begin()
            await asyncio.sleep(0.1)
        pool.clear()
        await asyncio.sleep(0.1)
        assert seen_by(pool) == {
            verb: {("nobody's", True)} for verb in ("connect", "hook", "ping", "reset", "close")
        }

    in_world(story, seed=seed)


def test_what_timers_start_runs_in_an_empty_context_too() -> None:
    """Retries after failures, the health sweep, the closing of what is idle for too long."""

    async def story(world: World) -> None:
        whose.set("a borrower's")
        world.backend.down()
        pool = observed(world, idle_timeout=60.0, failure_threshold=None)
        waiting = asyncio.create_task(pool.lease(timeout=None))
        await asyncio.sleep(0.1)
        world.backend.up()
        (await waiting).release()
        await asyncio.sleep(100)
        assert pool.status().total == 0
        assert seen_by(pool) == {verb: {("nobody's", True)} for verb in ("connect", "ping", "close")}

    in_world(story)


def test_a_borrowers_context_is_not_kept_alive_by_the_pool() -> None:
    """What a request put into its context variables goes when the request is over."""
    request = contextvars.ContextVar[object]("request")

    class Request:
        """Stands for something big."""

    async def story(world: World) -> None:
        async def handle() -> weakref.ref[Request]:
            mine = Request()
            request.set(mine)
            async with world.pool.acquire() as conn:
                await conn.begin()
            with pytest.raises(TimeoutError):
                async with world.pool.acquire(), world.pool.acquire(timeout=1):
                    pass
            return weakref.ref(mine)

        seen = await asyncio.create_task(handle())
        await asyncio.sleep(1)
        gc.collect()
        assert seen() is None
        assert current().pending_timers()

    in_world(story, max_size=1)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_release_never_suspends(seed: int) -> None:
    """Whatever follows it: a reset, a close, a reconnect; the caller goes on in the same step."""

    async def story(world: World) -> None:
        conn = await world.pool.acquire()
        await conn.begin()
        step = current().steps
        await world.pool.release(conn)
        assert current().steps == step
        lease = await world.pool.lease()
        world.pool.clear()
        step = current().steps
        lease.release()
        assert current().steps == step

    in_world(story, seed=seed, max_size=1)


def test_an_uncontended_lease_makes_no_task_timer_or_turn() -> None:
    """A thousand of them in one step of the loop."""

    async def story(world: World) -> None:
        await world.borrow()
        step, timers = current().steps, len(current().pending_timers())
        for _ in range(1000):
            async with world.pool.acquire():
                pass
        assert current().steps == step
        assert len(current().pending_timers()) == timers

    in_world(story, max_size=1)
