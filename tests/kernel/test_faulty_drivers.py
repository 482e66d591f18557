"""Drivers that raise where they must not: the connection goes, the borrower is served."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from millpond import ConnectFailed, ConnectionPool, PoolSettings
from millpond.driver import Verdict
from millpond.events import Event
from millpond.testing import ScriptedBackend, ScriptedDriver, run
from millpond.testing.driver import Fail
from tests.kernel.worlds import SEEDS, World, in_world


class Faulty(ScriptedDriver):
    """Raises from `is_closed` for the connections in `cursed`."""

    cursed: frozenset[Any] = frozenset()

    def is_closed(self, conn: Any) -> bool:
        """Local knowledge, with a bug."""
        if conn in self.cursed:
            raise RuntimeError("a bug in the driver")
        return super().is_closed(conn)


def test_a_connection_whose_state_cannot_be_told_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    """is_closed() that raises costs the connection, not the borrower."""
    backend = ScriptedBackend()

    async def main() -> bool:
        pool = ConnectionPool(Faulty(backend), settings=PoolSettings(min_size=0))
        async with pool.acquire() as first:
            pass
        pool.driver.cursed = frozenset({first})
        async with pool.acquire() as second:
            other = second is not first
        await pool.close()
        return other

    assert run(main, check_timers=True)
    assert "is_closed() raised" in caplog.text


class Mended(ScriptedDriver):
    """One of its functions has a bug, until it has shown once."""

    def __init__(self, backend: ScriptedBackend, name: str, bug: Callable[[], object]) -> None:
        super().__init__(backend)
        self.times_shown = 0
        sound = getattr(self, name)

        def unsound(*given: Any) -> Any:
            if self.times_shown:
                return sound(*given)
            self.times_shown += 1
            if name == "terminate":
                sound(*given)
            return bug()

        setattr(self, name, unsound)

    def configured(self, settings: PoolSettings) -> "Mended":
        """Itself: a copy would have the bug anew."""
        return self


def cancelled() -> None:
    """What `task.result()` does when the task was cancelled: no `except Exception` sees it."""
    raise asyncio.CancelledError


def mistaken() -> None:
    """A plain bug, before anything was awaited."""
    raise TypeError("a bug in the driver")


def with_driver(world: World, driver: ScriptedDriver, **settings: Any) -> ConnectionPool[Any]:
    """Another pool of the world, with `driver`."""
    world.driver = driver
    return world.another_pool("faulty", **settings)


@pytest.mark.parametrize("listens", [False, True])
@pytest.mark.parametrize("name", ["is_closed", "after_lease", "terminate", "is_permanent"])
def test_a_plain_function_that_raises_a_cancellation_costs_no_place(name: str, listens: bool) -> None:
    """Who looks at the outcome of a cancelled task raises what nobody asked for: it is a bug like any."""

    async def story(world: World) -> None:
        driver = Mended(world.backend, name, cancelled)
        pool = with_driver(world, driver, max_size=1, retry_delay=0.0)
        if listens:
            pool.add_listener(lambda _: None)
        world.backend.connect_script.append(Fail())
        for _ in range(3):
            async with pool.acquire() as conn:
                world.backend.kill(conn)
        await world.borrow(pool=pool)

        assert driver.times_shown == 1
        assert pool.status().idle == 1

    in_world(story)


@pytest.mark.parametrize("error", [None, ValueError("of the borrower")])
@pytest.mark.parametrize("answer", [None, True, "keep"])
def test_an_answer_that_is_no_verdict_costs_the_connection(
    answer: object, error: ValueError | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A function that forgot its `return` knows nothing: not knowing means discard."""

    async def story(world: World) -> None:
        world.backend.after_leases = lambda *_: answer  # type: ignore[assignment,return-value]
        lease = await world.pool.lease()
        lease.release(error)

        assert world.pool.status().total == 0

    in_world(story)

    assert "after_lease() failed" in caplog.text


def test_an_answer_to_a_report_that_is_no_verdict_costs_the_connection() -> None:
    """What was reported is judged as what came back is."""

    async def story(world: World) -> None:
        world.backend.after_leases = lambda *_: None  # type: ignore[assignment,return-value]
        async with world.pool.acquire() as conn:
            world.pool.report(conn, ValueError("seen and handled"))
            world.backend.after_leases = None

        assert world.pool.status().total == 0

    in_world(story)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["ping", "reset", "close"])
def test_a_call_that_raises_before_its_first_await_costs_the_connection(name: str, seed: int) -> None:
    """A plain function in the place of an async one: its place is free again, and upkeep goes on."""

    async def story(world: World) -> None:
        driver = Mended(world.backend, name, mistaken)
        settings = {"health_check_interval": 1.0} if name == "ping" else {"max_uses": 2}
        pool = with_driver(world, driver, min_size=1, max_size=1, **settings)
        world.backend.after_lease_script.append(Verdict.RESET)
        for _ in range(2):
            await world.borrow(pool=pool)
        await asyncio.sleep(10)

        assert driver.times_shown == 1
        assert pool.status().idle == pool.status().total == 1

    in_world(story, seed=seed)


@pytest.mark.parametrize("name", ["connect", "ping", "reset"])
def test_a_call_that_returns_something_to_await_is_awaited_in_a_task_of_the_pool(name: str) -> None:
    """It need not be a coroutine."""

    async def story(world: World) -> None:
        sound = getattr(world.pool.driver, name)
        setattr(world.pool.driver, name, lambda *given: asyncio.ensure_future(sound(*given)))
        world.backend.after_lease_script.append(Verdict.RESET)
        await world.borrow()
        await asyncio.sleep(1)
        await world.borrow()

        assert (world.backend.opened, world.pool.status().idle) == (1, 1)

    in_world(story, validate_after_idle=0.0)


def test_a_connect_that_raises_a_cancellation_by_itself_is_a_failed_attempt() -> None:
    """Nobody cancelled it: it counts, and those who wait are told in time."""

    async def story(world: World) -> None:
        world.backend.connects = Fail(asyncio.CancelledError)
        with pytest.raises(ConnectFailed, match="after 4 attempts"):
            await world.borrow()

        assert world.now() < 5

    in_world(story, acquire_timeout=None)


def test_an_error_that_cannot_say_what_it_is_fails_like_any_other() -> None:
    """Its text is somebody's code too; the type is told."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise AttributeError("no such detail")

    async def connect() -> None:
        raise Mute

    async def story(world: World) -> None:
        sound = world.pool.driver.connect
        world.pool.driver.connect = connect
        with pytest.raises(ConnectFailed, match="Mute"):
            await world.borrow()
        world.pool.driver.connect = sound
        lease = await world.pool.lease()
        world.backend.kill(lease.connection)
        lease.release(Mute())

        assert world.pool.status().total == 0

    in_world(story, retry_delay=0.0)


def test_a_hook_may_return_anything() -> None:
    """Only what can be awaited is awaited."""

    async def story(world: World) -> None:
        pool: ConnectionPool[Any] = ConnectionPool(
            world.driver, settings=PoolSettings(min_size=0), on_connect=lambda _: 5
        )
        world.pools.append(pool)
        world.auditor.add(pool)

        await world.borrow(pool=pool)

    in_world(story)


def test_a_listener_that_raises_a_cancellation_harms_nothing() -> None:
    """It came from a task it looked at; the borrower whose lease is told has its lease."""

    async def story(world: World) -> None:
        def listen(_: Event) -> None:
            raise asyncio.CancelledError

        world.pool.add_listener(listen)
        await world.borrow()

        assert world.pool.status().idle == 1
        assert world.pool.stats().listener_errors > 3

    in_world(story)
