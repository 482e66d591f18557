"""Misuse gets one clear error, at once, and harms nobody else."""

import asyncio
import contextlib
import copy
import gc
import inspect
import pickle
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from millpond import ConnectFailed, ConnectionPool, InvalidSettings, PoolSettings, PoolTimeout, ReleaseError
from millpond import errors as errors_module
from millpond.errors import Holder, PoolError, TimeoutCause
from millpond.testing import ScriptedBackend, ScriptedDriver, run
from tests.kernel.worlds import World, in_world


@pytest.mark.parametrize("explicit", [True, False])
def test_one_acquire_serves_one_borrower_even_when_two_wait_with_it(explicit: bool) -> None:
    """The second is refused while the first still waits; no connection is shared or lost."""

    async def story(world: World) -> None:
        acquire: Any = world.pool.acquire()

        async def borrow() -> Any:
            return await (acquire if explicit else acquire.__aenter__())

        first, second = await asyncio.gather(borrow(), borrow(), return_exceptions=True)
        refused, conn = (first, second) if isinstance(first, ReleaseError) else (second, first)
        assert "used once" in str(refused)
        if explicit:
            await world.pool.release(conn)
        else:
            await acquire.__aexit__(None, None, None)
        assert world.pool.status().busy == 0

    in_world(story, max_size=2)


@pytest.mark.parametrize("timeout", [float("nan"), "1", True, 10**400, float("-inf")])
def test_a_timeout_that_is_no_number_is_refused_before_it_harms_others(timeout: Any) -> None:
    """Every method that takes a timeout names the culprit."""

    async def story(world: World) -> None:
        async with world.pool.acquire():
            with pytest.raises(InvalidSettings, match="timeout: must be a number of seconds"):
                await world.pool.acquire(timeout=timeout)
        with pytest.raises(InvalidSettings, match="timeout"):
            await world.pool.initialize(timeout)
        with pytest.raises(InvalidSettings, match="timeout"):
            await world.pool.drain(timeout)
        with pytest.raises(InvalidSettings, match="timeout"):
            await world.pool.check(timeout)
        with pytest.raises(InvalidSettings, match="timeout"):
            await world.pool.close(timeout)
        async with world.pool.acquire(timeout=1.0):
            pass

    in_world(story, max_size=1)


def test_an_infinite_timeout_is_no_limit() -> None:
    """Infinity means what None means."""

    async def story(world: World) -> None:
        held = await world.pool.acquire()
        waiting = asyncio.create_task(world.borrow())
        patient = asyncio.create_task(world.pool.lease(timeout=float("inf")))
        await asyncio.sleep(5)
        await world.pool.release(held)
        await waiting
        async with await patient as conn:
            assert conn is held

    in_world(story, max_size=1)


def pickled(error: PoolError) -> PoolError:
    """There and back."""
    return pickle.loads(pickle.dumps(error))  # type: ignore[no-any-return]


def every_error() -> list[PoolError]:
    """One of each public error."""
    holder = Holder(1, 2, 3.0, "task t")
    made: dict[str, PoolError] = {
        "PoolTimeout": PoolTimeout("p", waited=1.0, cause=TimeoutCause.EXHAUSTED, holders=[holder]),
        "PoolExhausted": errors_module.PoolExhausted("p", max_waiting=3, status=None, retry_after=1.0),
        "PoolClosed": errors_module.PoolClosed("p", why="the pool is closed"),
        "ConnectFailed": ConnectFailed("p", attempts=3, last_error="OSError: away", permanent=False),
        "CircuitOpen": errors_module.CircuitOpen("p", last_error="OSError: away", retry_after=2.0),
        "WrongLoop": errors_module.WrongLoop("p", why="bound to another event loop"),
        "ReleaseError": ReleaseError("p", why="not on loan"),
        "InvalidSettings": InvalidSettings("max_size", 0, "must be positive"),
    }
    known = {
        name
        for name, kind in vars(errors_module).items()
        if inspect.isclass(kind) and issubclass(kind, PoolError)
    }
    made["PoolError"] = PoolError("something", pool="p")
    made["InvariantBroken"] = errors_module.InvariantBroken("contradiction")
    made["MissingExtra"] = errors_module.MissingExtra("redis", needed_for="Redis", module="redis")
    made["ConfigError"] = errors_module.ConfigError(["file.json: a.b: wrong"])
    assert known == set(made)
    return list(made.values())


@pytest.mark.parametrize("error", every_error(), ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickled])
def test_errors_travel_between_processes_with_their_facts(error: PoolError, duplicate: Any) -> None:
    """A process pool that cannot unpickle an error breaks for every other job as well."""
    twin = duplicate(error)

    assert type(twin) is type(error)
    assert str(twin) == str(error)
    assert vars(twin) == vars(error)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"connect": 3}, "connect must be a function, got int"),
        ({"connect": None}, "connect must be a function"),
        ({"close": 3}, "close must be a function"),
        ({"validate": 1}, "validate must be a function"),
        ({"blocking": "yes"}, "blocking must be True or False"),
        ({"settings": {"max_size": 3}}, "settings must be PoolSettings, got dict"),
        ({"allowance": 3}, "allowance must be Allowance, got int"),
        ({"name": 3}, "name must be str, got int"),
    ],
)
def test_a_wrong_argument_is_named_when_the_pool_is_made(arguments: dict[str, Any], words: str) -> None:
    """Not when the first borrower comes."""
    with pytest.raises(TypeError, match=words):
        ConnectionPool.from_factory(**{"connect": object, **arguments})


def test_a_url_is_no_driver_and_the_error_says_what_takes_one() -> None:
    """create_pool() is what was meant."""
    nothing: Any = "postgresql://h/d"

    with pytest.raises(TypeError, match=r"create_pool\(\) makes a pool from a URL"):
        ConnectionPool(nothing)


def test_a_listener_that_would_have_to_be_awaited_is_refused() -> None:
    """It would never run."""
    pool = ConnectionPool(ScriptedDriver(ScriptedBackend()))

    async def listener(_event: object) -> None: ...

    with pytest.raises(TypeError, match="a listener must be a plain function"):
        pool.add_listener(listener)


@contextlib.asynccontextmanager
async def entered() -> AsyncIterator[object]:
    """What many libraries offer instead of a connect function."""
    yield object()


async def generated() -> AsyncIterator[object]:
    """Nor is this a connection."""
    yield object()


@pytest.mark.parametrize("factory", [entered, generated])
def test_a_factory_that_gives_something_to_be_entered_fails_at_once(factory: Any) -> None:
    """No borrower ever gets the thing itself, and nobody tries again and again."""

    async def main() -> None:
        pool = ConnectionPool.from_factory(factory)
        with pytest.raises(ConnectFailed, match="a connection is wanted"):
            await pool.acquire()
        await pool.close()

    run(main)


def test_a_blocking_close_never_runs_on_the_loop() -> None:
    """Not even for a connection that is thrown away, when it may hang longest."""
    threads: list[str] = []

    async def main() -> None:
        def close(_conn: object) -> None:
            threads.append(threading.current_thread().name)

        pool = ConnectionPool.from_factory(
            object, close=close, blocking=True, settings=PoolSettings(min_size=0)
        )
        with contextlib.suppress(ValueError):
            async with pool.acquire():
                raise ValueError("the connection is in doubt")
        await pool.close()
        await asyncio.to_thread(lambda: None)

    asyncio.run(main())

    assert len(threads) == 1
    assert threads[0] != threading.main_thread().name


@pytest.mark.parametrize("is_late", [False, True])
def test_a_blocking_factory_around_an_async_function_is_awaited(is_late: bool) -> None:
    """A lambda shows nobody what it returns; a coroutine that comes too late is not left behind."""
    served: list[type] = []
    may_answer, has_answered = threading.Event(), threading.Event()

    async def made() -> object:
        return object()

    def connect() -> Any:
        assert may_answer.wait(30)
        has_answered.set()
        return made()

    async def main() -> None:
        settings = PoolSettings(min_size=0, connect_timeout=0.05 if is_late else 30.0, connect_retries=0)
        pool = ConnectionPool.from_factory(connect, blocking=True, settings=settings)
        if not is_late:
            may_answer.set()
        with contextlib.suppress(ConnectFailed):
            async with pool.acquire() as conn:
                served.append(type(conn))
        await pool.close()
        may_answer.set()
        await asyncio.to_thread(has_answered.wait, 30)

    asyncio.run(main())
    gc.collect()

    assert served == ([] if is_late else [object])


def test_a_loop_that_ends_under_an_open_pool_opens_nothing_more() -> None:
    """asyncio.run() cancels every task, the pool's pings and connects too; none is begun in their place."""
    backend = ScriptedBackend()

    async def main() -> None:
        pool = ConnectionPool(
            ScriptedDriver(backend), settings=PoolSettings(min_size=3, max_connecting=1, max_size=3)
        )
        async with pool.acquire():
            pass
        before = len(backend.attempt_times)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0.5)
        assert len(backend.attempt_times) == before
        await asyncio.sleep(10)
        assert pool.status().total == 3
        await pool.close()

    run(main)


def test_a_pool_that_is_dropped_with_connections_open_says_so() -> None:
    """As files and sockets do."""
    pools = [ConnectionPool.from_factory(object)]

    async def use() -> None:
        async with pools[0].acquire():
            pass

    def drop() -> None:
        pools.clear()
        gc.collect()

    asyncio.run(use())
    with pytest.warns(ResourceWarning, match="unclosed <Pool 'factory'"):
        drop()
