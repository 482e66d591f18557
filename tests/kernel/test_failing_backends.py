"""What happens while the backend fails, and how the pool heals."""

import asyncio
import itertools

import pytest

from millpond import CircuitOpen, ConnectFailed, ConnectionPool, EventKind, PoolSettings, Verdict
from millpond.testing.driver import AccessDenied, BackendDown, Dawdle, Fail, Hang, Lose, Succeed
from tests.kernel.worlds import SEEDS, World, in_world


def test_the_breaker_opens_and_newcomers_are_told_at_once() -> None:
    """After failure_threshold failures nobody waits; the pool heals by itself."""

    async def story(world: World) -> None:
        world.backend.down()
        with pytest.raises((ConnectFailed, CircuitOpen)):
            await world.pool.acquire(timeout=None)
        opened = asyncio.Event()
        world.pool.add_listener(
            lambda event: opened.set() if event.kind is EventKind.BREAKER_CHANGED else None
        )
        if world.pool.status().breaker != "open":
            await opened.wait()
        began = world.now()
        with pytest.raises(CircuitOpen) as caught:
            await world.pool.acquire()
        assert world.now() == began
        assert caught.value.retry_after is not None
        world.backend.up()
        await asyncio.sleep(31)
        await world.borrow()
        assert world.pool.status().breaker == "closed"

    in_world(story, max_size=3, min_size=1)


def test_a_permanent_error_fails_everybody_at_once() -> None:
    """A wrong password does not become right by waiting."""

    async def story(world: World) -> None:
        world.backend.connects = Fail(permanent=True)
        outcomes = await asyncio.gather(*(world.borrow() for _ in range(5)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {ConnectFailed, CircuitOpen}
        assert any(isinstance(outcome, ConnectFailed) and outcome.permanent for outcome in outcomes)
        assert world.now() < 1
        world.backend.connects = Fail(BackendDown())

    in_world(story, max_size=1)


@pytest.mark.parametrize("seed", SEEDS)
def test_live_connections_serve_while_new_ones_are_refused(seed: int) -> None:
    """Too many clients at the server: nobody fails, everybody waits for a return."""

    async def story(world: World) -> None:
        await asyncio.gather(*(world.borrow(0.01) for _ in range(2)))
        world.backend.connects = Fail(BackendDown())
        answers = await asyncio.gather(*(world.borrow(0.01, number) for number in range(100)))
        assert len(answers) == 100

    in_world(story, seed=seed, max_size=10)


@pytest.mark.parametrize("seed", SEEDS)
def test_attempts_that_fail_together_are_one_step_of_the_backoff(seed: int) -> None:
    """Four were under way when the server went away: that is one outage noticed, not four."""
    connecting = 0.01

    async def story(world: World) -> None:
        world.backend.connects = Fail(after=connecting)
        asks = [asyncio.create_task(world.borrow()) for _ in range(10)]
        await asyncio.sleep(0.5 + 1.0 + 2.0 + 0.1)
        world.backend.connects = Succeed()
        await asyncio.gather(*asks)
        times = world.backend.attempt_times
        together = times.count(times[0])
        pauses = [later - earlier - connecting for earlier, later in itertools.pairwise(times)][3:6]
        assert together == 4
        assert len(pauses) == 3
        assert all(pause <= most + 0.001 for pause, most in zip(pauses, (0.5, 1.0, 2.0), strict=True))

    in_world(story, seed=seed, max_size=10, connect_retries=50, failure_threshold=None, acquire_timeout=60.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_pause_begins_with_the_last_of_those_that_fail_together(seed: int) -> None:
    """Two are refused at once, one hangs until its time is over: the next is paced by that one."""

    async def story(world: World) -> None:
        world.backend.connect_script.extend([Fail(), Fail(), Hang()])
        await asyncio.gather(*(world.borrow() for _ in range(3)))
        began, healed = world.backend.attempt_times[2:4]
        assert 2.0 < healed - began < 2.0 + 0.5 + 0.001

    in_world(story, seed=seed, max_size=3, connect_timeout=2.0)


def test_a_permanent_error_counts_whatever_failed_together_with_it() -> None:
    """Two attempts at once: the first finds nobody, the second a server that knows no such user."""

    async def story(world: World) -> None:
        world.backend.connect_script.extend([Fail(), Fail(AccessDenied, after=0.01)])
        world.backend.connects = Fail()
        outcomes = await asyncio.gather(*(world.borrow() for _ in range(2)), return_exceptions=True)
        assert [isinstance(each, ConnectFailed) and each.permanent for each in outcomes] == [True, True]
        assert world.now() < 0.02
        assert world.pool.status().breaker == "open"

    in_world(story, max_size=2)


def test_a_failure_beside_a_success_is_the_first_of_a_new_row() -> None:
    """Of three attempts one fails, one succeeds, and then one fails: the pool is failing again."""

    async def story(world: World) -> None:
        world.backend.connect_script.extend([Fail(), Dawdle(0.02), Fail(after=0.03)])
        asks = [asyncio.create_task(world.borrow(1.0)) for _ in range(3)]
        await asyncio.sleep(0.1)
        failing_after_all = world.pool._opener.is_failing
        await asyncio.gather(*asks)
        assert failing_after_all

    in_world(story, max_size=3, retry_delay=30.0, acquire_timeout=60.0)


def test_one_failover_however_many_report_it() -> None:
    """Ten borrowers of one generation raise it once."""

    async def story(world: World) -> None:
        conns = [await world.pool.acquire() for _ in range(5)]
        world.driver.backend.after_lease_script.extend([Verdict.DISCARD_ALL] * 5)
        for conn in conns:
            await world.pool.release(conn)
        assert world.pool.status().generation == 1
        await world.borrow()

    in_world(story, max_size=5)


def test_a_dead_idle_connection_is_never_lent() -> None:
    """What is known to be closed is replaced before the borrower gets it."""

    async def story(world: World) -> None:
        async with world.pool.acquire() as conn:
            pass
        conn.kill()
        async with world.pool.acquire() as other:
            assert other is not conn

    in_world(story, max_size=1)


def test_a_frozen_idle_connection_delays_a_borrower_by_the_hedge_only() -> None:
    """While the ping hangs, another connection is opened and serves."""

    async def story(world: World) -> None:
        await world.borrow()
        world.backend.ping_script.append(Hang())
        began = world.now()
        await world.borrow()
        assert world.now() - began < 0.2

    in_world(story, max_size=2, validate_after_idle=0.0)


def test_min_size_is_refilled_in_the_background() -> None:
    """Nobody has to ask."""

    async def story(world: World) -> None:
        await world.pool.initialize()
        await asyncio.sleep(1)
        assert world.pool.status().idle == 3
        world.pool.clear()
        await asyncio.sleep(1)
        assert world.pool.status().idle == 3

    in_world(story, min_size=3, max_size=5)


def test_an_initialize_that_fails_leaves_nothing_behind_and_may_be_repeated() -> None:
    """The third connect of three fails for good."""

    async def story(world: World) -> None:
        world.backend.max_clients = 2
        with pytest.raises(ConnectFailed):
            await world.pool.initialize()
        assert world.pool.status().total == 0
        world.backend.max_clients = None
        await world.pool.initialize()
        assert world.pool.status().idle == 3

    in_world(story, min_size=3, max_size=3, eager_init=True)


def test_a_connection_lost_in_the_middle_of_a_lease_is_cut_and_replaced() -> None:
    """Its place is free at once."""

    async def story(world: World) -> None:
        world.backend.request_script.append(Lose(0))
        with pytest.raises(OSError):  # noqa: PT011 - whatever the backend raises for a lost connection
            await world.borrow()
        await world.borrow()

    world = in_world(story, max_size=1)

    assert world.pool.stats().opened == 2


def test_a_factory_pool_discards_after_an_error() -> None:
    """Without after_lease nobody knows what the error left behind; the connection is closed."""
    made: list[list[str]] = []

    async def story(_world: World) -> None:
        def connect() -> list[str]:
            made.append([])
            return made[-1]

        async def close(conn: list[str]) -> None:
            conn.append("closed")

        settings = PoolSettings(min_size=0, max_size=1)
        pool = ConnectionPool.from_factory(connect, close=close, settings=settings)
        with pytest.raises(ValueError, match="mine"):
            async with pool.acquire():
                raise ValueError("mine")
        async with pool.acquire():
            pass
        await pool.close()

    in_world(story)

    assert made == [["closed"], ["closed"]]
