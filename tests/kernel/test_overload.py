"""Overload, outage, and the circuit breaker between them."""

import asyncio
import itertools
import random

import pytest

from millpond import (
    BreakerState,
    CircuitOpen,
    ConnectFailed,
    EventKind,
    PoolExhausted,
    PoolTimeout,
    TimeoutCause,
)
from millpond.testing.driver import BackendDown, Dawdle, Fail, TooManyClients
from tests.kernel.worlds import SEEDS, World, in_world


@pytest.mark.parametrize("seed", SEEDS)
def test_overload_is_not_outage(seed: int) -> None:
    """A hundred timeouts close no connection, open no breaker and begin no generation."""

    async def story(world: World) -> None:
        holders = [asyncio.create_task(world.borrow(20)) for _ in range(2)]
        await asyncio.sleep(0.1)
        for _ in range(10):
            outcomes = await asyncio.gather(
                *(world.pool.lease(timeout=1) for _ in range(10)), return_exceptions=True
            )
            assert {type(outcome) for outcome in outcomes} == {PoolTimeout}
        status = world.pool.status()
        assert (status.breaker, status.generation, status.busy) == (BreakerState.CLOSED, 0, 2)
        assert status.healthy
        await asyncio.gather(*holders)
        await world.borrow()

    world = in_world(story, seed=seed, max_size=2)

    assert world.backend.opened == 2
    assert world.pool.stats().timed_out == 100


@pytest.mark.parametrize("seed", SEEDS)
def test_too_many_clients_at_the_server_while_live_connections_serve_fails_nobody(seed: int) -> None:
    """The server takes three, the pool would like ten: all borrowers are served by the three."""

    async def story(world: World) -> None:
        world.backend.max_clients = 3
        answers = await asyncio.gather(*(world.borrow(0.1, number) for number in range(150)))
        assert [answer.to for answer in answers] == list(range(150))
        assert world.pool.stats().open_failures > 0

    in_world(story, seed=seed, max_size=10)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_permanent_outage_over_a_saturated_pool_fails_nobody_who_can_wait(seed: int) -> None:
    """New connections are refused for good while two live ones are busy: their returns serve everybody."""

    async def story(world: World) -> None:
        holders = [asyncio.create_task(world.borrow(3)) for _ in range(2)]
        await asyncio.sleep(0.1)
        world.backend.connects = Fail(permanent=True)
        await asyncio.gather(*(world.borrow(0.01) for _ in range(50)), *holders)
        assert world.pool.status().breaker == BreakerState.OPEN

    world = in_world(story, seed=seed, max_size=5)

    assert world.pool.stats().failed == 0
    assert len(world.backend.attempt_times) < 10


@pytest.mark.parametrize("seed", SEEDS)
def test_those_who_wait_behind_an_open_breaker_fail_when_the_last_connection_goes(seed: int) -> None:
    """Nobody is left who could serve them: they hear at once, not at their deadline."""

    async def story(world: World) -> None:
        lease = await world.pool.lease()
        world.backend.connects = Fail()
        waiting = [asyncio.create_task(world.pool.lease(timeout=None)) for _ in range(5)]
        await asyncio.sleep(120)
        assert world.pool.status().breaker == BreakerState.OPEN
        assert not any(task.done() for task in waiting)
        lease.discard()
        outcomes = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 0.1)
        assert {type(outcome) for outcome in outcomes} == {CircuitOpen}

    in_world(story, seed=seed, max_size=3)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_failed_connect_passes_its_place_on_while_others_wait(seed: int) -> None:
    """One refusal costs one retry: all who wait are served, in their order, by what comes after."""
    served: list[int] = []

    async def story(world: World) -> None:
        async def borrow(number: int) -> None:
            async with world.pool.acquire():
                served.append(number)
                await asyncio.sleep(0.01)

        world.backend.connect_script.extend([Fail(), Fail(), Fail()])
        tasks = []
        for number in range(5):
            tasks.append(asyncio.create_task(borrow(number)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)

    world = in_world(story, seed=seed, max_size=1)

    assert served == list(range(5))
    assert world.pool.stats().open_failures == 3


@pytest.mark.parametrize("seed", SEEDS)
def test_a_breaker_over_a_pool_of_one_opens_probes_and_closes_by_itself(seed: int) -> None:
    """The probe has the only place; when it succeeds that very connection serves."""

    async def story(world: World) -> None:
        world.backend.down()
        outcomes = [
            (await asyncio.gather(world.pool.lease(timeout=60), return_exceptions=True))[0] for _ in range(3)
        ]
        assert {type(outcome) for outcome in outcomes} <= {ConnectFailed, CircuitOpen}
        await asyncio.sleep(60)
        assert world.pool.status().breaker == BreakerState.OPEN
        world.backend.up()
        began = world.now()
        changed = asyncio.Event()
        world.pool.add_listener(
            lambda event: changed.set() if event.kind is EventKind.BREAKER_CHANGED else None
        )
        await changed.wait()
        assert world.now() - began <= 30.2
        await world.borrow()
        await world.borrow()
        assert world.pool.status().breaker == BreakerState.CLOSED

    in_world(story, seed=seed, max_size=1)


def test_a_pool_of_one_that_shrank_while_its_breaker_was_open_is_well_again_by_use() -> None:
    """There is no place for a probe: the one connection that serves well is proof enough."""

    async def story(world: World) -> None:
        lease = await world.pool.lease()
        world.backend.connects = Fail()
        waiting = asyncio.create_task(world.pool.lease(timeout=60))
        await asyncio.sleep(30)
        assert world.pool.status().breaker == BreakerState.OPEN
        world.pool.resize(max_size=1)
        world.backend.connects = Dawdle(0)
        lease.release()
        (await waiting).release()
        for _ in range(10):
            await world.borrow(1)
        assert world.pool.status().breaker == BreakerState.CLOSED
        assert world.pool.status().healthy

    in_world(story, max_size=2)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_outage_is_probed_at_the_pace_of_the_backoff(seed: int) -> None:
    """An hour of it: one attempt at a time, no more than the jittered backoff allows."""

    async def story(world: World) -> None:
        world.backend.down()
        await world.pool.initialize()
        await asyncio.sleep(3600)
        times = world.backend.attempt_times
        assert world.backend.peak_connecting <= 4
        # Full jitter on at most 30 s: 15 s between two attempts on the average.
        assert 100 < len(times) < 400
        gaps = [later - earlier for earlier, later in itertools.pairwise(times[10:])]
        assert max(gaps) <= 30.1

    in_world(story, seed=seed, min_size=4, max_size=4)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_backend_that_comes_back_is_used_again_within_one_step_of_the_backoff(seed: int) -> None:
    """By itself, whoever asks or does not."""

    async def story(world: World) -> None:
        await world.borrow()
        world.backend.down()
        await asyncio.sleep(random.Random(seed).uniform(10, 100))
        world.backend.up()
        await asyncio.sleep(30.1)
        await asyncio.wait_for(world.borrow(), 0.1)

    in_world(story, seed=seed, min_size=1, max_size=3, health_check_interval=1.0)


def test_without_a_breaker_each_further_failure_fails_the_oldest_waiter() -> None:
    """connect_retries failures in a row are waited out, then they fail one by one, the oldest first."""
    failed: list[int] = []

    async def story(world: World) -> None:
        async def borrow(number: int) -> None:
            with pytest.raises(ConnectFailed) as caught:
                await world.pool.lease(timeout=None)
            failed.append(number)
            assert caught.value.attempts >= 4
            assert caught.value.retry_after is not None

        world.backend.connects = Fail()
        tasks = []
        for number in range(4):
            tasks.append(asyncio.create_task(borrow(number)))
            await asyncio.sleep(0.0001)
        await asyncio.gather(*tasks)

    in_world(story, max_size=2, failure_threshold=None, connect_retries=3)

    assert failed == [0, 1, 2, 3]


def test_a_timeout_during_an_outage_says_what_the_backend_said() -> None:
    """The cause is the backend, and its last words are in the message."""

    async def story(world: World) -> None:
        world.backend.connects = Fail(TooManyClients("sorry, too many clients already"))
        with pytest.raises(PoolTimeout, match="too many clients already") as caught:
            await world.pool.acquire(timeout=0.1)
        assert caught.value.cause is TimeoutCause.BACKEND_FAILING

    in_world(story, max_size=1, connect_retries=50, failure_threshold=None)


def test_a_full_queue_counts_only_those_who_really_wait() -> None:
    """Those for whom a connection is being opened are not in anybody's way."""

    async def story(world: World) -> None:
        world.backend.connects = Dawdle(1)
        tasks = [asyncio.create_task(world.borrow(1)) for _ in range(4)]
        await asyncio.sleep(0.1)
        assert world.pool.status().opening == 2
        with pytest.raises(PoolExhausted) as caught:
            await world.pool.acquire()
        assert caught.value.retry_after is not None
        await asyncio.gather(*tasks)

    in_world(story, max_size=2, max_waiting=2)


def test_errors_of_an_outage_say_nothing_secret() -> None:
    """What a driver says of a DSN is masked wherever it is repeated."""

    async def story(world: World) -> None:
        world.backend.connects = Fail(
            BackendDown("cannot reach postgresql://app:hunter2@db/orders password=hunter2"), permanent=True
        )
        with pytest.raises(ConnectFailed) as caught:
            await world.pool.acquire()
        assert "hunter2" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert "hunter2" not in (world.pool.status().last_error or "")

    in_world(story, max_size=1)
