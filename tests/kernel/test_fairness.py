"""First come, first served, whoever comes back and whatever comes first."""

import asyncio

import pytest

from millpond import PoolTimeout, TimeoutCause
from millpond.testing.driver import Dawdle, Fail, Hang
from tests.kernel.worlds import SEEDS, World, in_world


@pytest.mark.parametrize("seed", SEEDS)
def test_newcomers_never_overtake(seed: int) -> None:
    """Not even one who asks in the very step in which the connection of those who wait comes back."""
    served: list[str] = []

    async def story(world: World) -> None:
        async def borrow(name: str) -> None:
            async with world.pool.acquire():
                served.append(name)
                await asyncio.sleep(0.01)

        lease = await world.pool.lease()
        tasks = []
        for name in ("first", "second"):
            tasks.append(asyncio.create_task(borrow(name)))
            await asyncio.sleep(0.01)
        lease.release()
        newcomer = world.pool.acquire()
        entering = newcomer.__aenter__()
        waits = entering.send(None)
        assert waits is not None
        entering.close()
        tasks.append(asyncio.create_task(borrow("newcomer")))
        with pytest.raises(PoolTimeout):
            await world.pool.acquire(timeout=0)
        await asyncio.gather(*tasks)

    in_world(story, seed=seed, max_size=1)

    assert served == ["first", "second", "newcomer"]


@pytest.mark.parametrize("seed", SEEDS)
def test_who_releases_and_asks_again_goes_to_the_back(seed: int) -> None:
    """A loop without any pause does not keep its connection."""
    served: list[str] = []

    async def story(world: World) -> None:
        async def greedy() -> None:
            for _ in range(3):
                async with world.pool.acquire():
                    served.append("greedy")
                    await asyncio.sleep(0.1)

        async def modest(number: int) -> None:
            async with world.pool.acquire():
                served.append(f"modest {number}")

        looping = asyncio.create_task(greedy())
        await asyncio.sleep(0.05)
        tasks = []
        for number in range(3):
            tasks.append(asyncio.create_task(modest(number)))
            await asyncio.sleep(0.001)
        await asyncio.gather(looping, *tasks)

    in_world(story, seed=seed, max_size=1)

    assert served == ["greedy", "modest 0", "modest 1", "modest 2", "greedy", "greedy"]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("first", ["a return", "an open"])
def test_a_waiter_is_served_by_whichever_is_first(first: str, seed: int) -> None:
    """Its own connect and another's return race: the earlier of the two serves it."""

    async def story(world: World) -> None:
        holder = asyncio.create_task(world.borrow(0.5))
        await asyncio.sleep(0.1)
        world.backend.connects = Dawdle(2 if first == "a return" else 0.2)
        began = world.now()
        await world.borrow()
        waited = world.now() - began
        assert waited == pytest.approx(0.4 if first == "a return" else 0.2, abs=0.01)
        await holder
        await asyncio.sleep(3)
        assert world.pool.status().idle == 2

    in_world(story, seed=seed, max_size=2)


@pytest.mark.parametrize("seed", SEEDS)
def test_one_slow_connect_delays_nobody_who_can_have_an_idle_one(seed: int) -> None:
    """Those who come later are served from what is idle, though one of them began to open another."""

    async def story(world: World) -> None:
        await asyncio.gather(world.borrow(0.1), world.borrow(0.1))
        world.backend.connects = Hang()
        held = [await world.pool.lease() for _ in range(2)]
        waiting = asyncio.create_task(world.borrow())
        await asyncio.sleep(0.1)
        assert world.pool.status().opening == 1
        for lease in held:
            lease.release()
        await asyncio.wait_for(waiting, 0.1)
        for _ in range(100):
            await asyncio.wait_for(world.borrow(), 0.1)

    in_world(story, seed=seed, max_size=3)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_nested_acquire_that_cannot_succeed_ends_by_its_deadline_and_says_who_holds_what(
    seed: int,
) -> None:
    """Two tasks have one connection each and want another: both are told, by name, who is in the way."""

    async def story(world: World) -> None:
        async def greedy() -> None:
            async with world.pool.acquire():
                await asyncio.sleep(0.1)
                async with world.pool.acquire(timeout=2):
                    raise AssertionError("there is no third connection")

        began = world.now()
        tasks = [asyncio.create_task(greedy(), name=name) for name in ("left hand", "right hand")]
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert world.now() - began == pytest.approx(2.1, abs=0.01)
        # The first to be told gives its connection back, too late for the other: both deadlines have come.
        for outcome in outcomes:
            assert isinstance(outcome, PoolTimeout)
            assert outcome.cause is TimeoutCause.EXHAUSTED
            assert "left hand" in str(outcome)
            assert "right hand" in str(outcome)

    in_world(story, seed=seed, max_size=2)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_hung_connect_gives_its_place_to_those_who_wait(seed: int) -> None:
    """At connect_timeout the place is free: three borrowers behind three hung connects are served."""

    async def story(world: World) -> None:
        world.backend.connect_script.extend([Hang()] * 3)
        await asyncio.gather(*(world.borrow(0.1) for _ in range(3)))
        assert world.now() < 5

    in_world(story, seed=seed, max_size=3, connect_timeout=2.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_one_who_gives_up_leaves_its_place_in_the_queue_to_the_next(seed: int) -> None:
    """By timeout or by cancellation: the order of the others does not change."""
    served: list[int] = []

    async def story(world: World) -> None:
        async def borrow(number: int) -> None:
            async with world.pool.acquire(timeout=0.5 if number % 3 == 1 else None):
                served.append(number)
                await asyncio.sleep(0.01)

        lease = await world.pool.lease()
        tasks = []
        for number in range(9):
            tasks.append(asyncio.create_task(borrow(number)))
            await asyncio.sleep(0.01)
        await asyncio.sleep(1)
        for task in tasks[2::3]:
            task.cancel()
        lease.release()
        await asyncio.gather(*tasks, return_exceptions=True)

    in_world(story, seed=seed, max_size=1)

    assert served == [0, 3, 6]


@pytest.mark.parametrize("seed", SEEDS)
def test_one_deadline_covers_waiting_connecting_checking_and_retrying(seed: int) -> None:
    """A busy pool, then a connect that fails, then one that hangs: the timeout is one budget for all."""

    async def story(world: World) -> None:
        lease = await world.pool.lease()
        began = world.now()
        waiting = asyncio.create_task(world.pool.lease(timeout=3))
        await asyncio.sleep(1)
        world.backend.connects = Hang()
        world.backend.connect_script.append(Fail(after=0.5))
        lease.discard()
        with pytest.raises(PoolTimeout) as caught:
            await waiting
        assert world.now() - began == pytest.approx(3, abs=0.001)
        assert caught.value.waited == pytest.approx(3, abs=0.001)
        assert len(world.backend.attempt_times) == 3

    in_world(story, seed=seed, max_size=1, acquire_timeout=100.0, connect_timeout=20.0)
