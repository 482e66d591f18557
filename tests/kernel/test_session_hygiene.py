"""A borrower never finds what another left behind."""

import asyncio

import pytest

from millpond import Verdict
from millpond.testing.driver import Dawdle, Fail
from tests.kernel.worlds import SEEDS, World, in_world


@pytest.mark.parametrize("seed", SEEDS)
def test_an_unread_answer_never_reaches_the_next_borrower(seed: int) -> None:
    """A question sent and not read: the connection goes, the next one gets the answer to its own."""

    async def story(world: World) -> None:
        async with world.pool.acquire() as conn:
            conn.send("left unread")
        answer = await world.borrow(question="mine")
        assert answer.to == "mine"

    world = in_world(story, seed=seed, max_size=1)

    assert world.pool.stats().closed_by_reason["spoiled"] == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_borrower_cancelled_in_the_middle_of_a_request_leaves_no_answer_behind(seed: int) -> None:
    """A hundred of them; everybody else hears the answer to their own question."""

    async def story(world: World) -> None:
        world.backend.requests = Dawdle(0.01)

        async def ask(number: int) -> None:
            async with world.pool.acquire() as conn:
                with world.backend.using(conn, number):
                    answer = await conn.request(number)
            assert answer.to == number

        tasks = [asyncio.create_task(ask(number)) for number in range(100)]
        rng = world.backend.random
        for task in rng.sample(tasks, 50):
            task.cancel()
            await asyncio.sleep(rng.choice([0, 0.003, 0.007]))
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(outcome is None or type(outcome) is asyncio.CancelledError for outcome in outcomes)

    in_world(story, seed=seed, max_size=2)


def test_an_open_transaction_is_rolled_back_before_the_next_borrower() -> None:
    """The connection stays; the session is clean."""

    async def story(world: World) -> None:
        async with world.pool.acquire() as conn:
            await conn.begin()
        answer = await world.borrow()
        assert not answer.in_transaction

    world = in_world(story, max_size=1)

    assert world.backend.opened == 1
    assert world.pool.stats().resets == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_connection_in_a_transaction_released_while_others_wait_is_cleaned_first(seed: int) -> None:
    """Those who wait are served by it, in their order, when the reset is done."""
    served: list[int] = []

    async def story(world: World) -> None:
        world.backend.resets = Dawdle(0.5)

        async def borrow(number: int) -> None:
            async with world.pool.acquire() as conn:
                with world.backend.using(conn, number):
                    served.append(number)
                    answer = await conn.request(number)
                    assert not answer.in_transaction
                    assert answer.variables == {}

        lease = await world.pool.lease()
        await lease.connection.begin()
        await lease.connection.set("role", "admin")
        tasks = []
        for number in range(3):
            tasks.append(asyncio.create_task(borrow(number)))
            await asyncio.sleep(0.01)
        lease.release()
        await asyncio.wait_for(asyncio.gather(*tasks), 0.6)

    in_world(story, seed=seed, max_size=1)

    assert served == [0, 1, 2]


def test_a_slow_reset_delays_a_borrower_by_the_hedge_only_while_there_is_room() -> None:
    """After that a second connection is opened."""

    async def story(world: World) -> None:
        world.backend.reset_script.append(Dawdle(3))
        async with world.pool.acquire() as conn:
            await conn.begin()
        began = world.now()
        await world.borrow()
        assert world.now() - began < 0.1

    world = in_world(story, max_size=2)

    assert world.backend.opened == 2


@pytest.mark.parametrize(
    ("level", "variables"), [("none", {"a": 1}), ("rollback", {"a": 1}), ("full", {})], ids=str
)
def test_a_reset_reaches_as_deep_as_it_was_asked_to(level: str, variables: dict[str, int]) -> None:
    """Below the configured level nothing is promised, and nothing is paid."""

    async def story(world: World) -> None:
        async with world.pool.acquire() as conn:
            await conn.set("a", 1)
        answer = await world.borrow()
        assert dict(answer.variables) == variables

    world = in_world(story, max_size=1, reset=level)

    assert world.pool.stats().resets == (1 if level == "full" else 0)


def test_a_reset_that_fails_costs_the_connection() -> None:
    """Not knowing means discard; who waits is served by a new one."""

    async def story(world: World) -> None:
        world.backend.reset_script.append(Fail())
        async with world.pool.acquire() as conn:
            await conn.begin()
            waiting = asyncio.create_task(world.borrow())
            await asyncio.sleep(0.1)
        await asyncio.wait_for(waiting, 0.1)

    world = in_world(story, max_size=1)

    assert world.pool.stats().closed_by_reason["reset_failed"] == 1
    assert world.backend.terminated == 1


def test_an_error_that_left_nothing_behind_keeps_the_connection() -> None:
    """The driver decides, not the error."""

    async def story(world: World) -> None:
        async def fail() -> None:
            async with world.pool.acquire() as conn:
                await conn.request("x")
                raise ValueError("mine")

        with pytest.raises(ValueError, match="mine"):
            await fail()
        await world.borrow()

    world = in_world(story, max_size=1)

    assert world.backend.opened == 1


def test_an_explicit_release_in_an_except_block_is_judged_by_that_error() -> None:
    """`pool.release(conn)` sees the exception that is being handled."""
    seen: list[BaseException | None] = []

    async def story(world: World) -> None:
        world.backend.after_leases = lambda _conn, error, verdict: seen.append(error) or verdict
        conn = await world.pool.acquire()
        try:
            raise ValueError("mine")
        except ValueError:
            await world.pool.release(conn)

    in_world(story, max_size=1)

    assert [type(error) for error in seen] == [ValueError]


def test_a_driver_that_cannot_judge_costs_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    """after_lease() raises: nobody knows, so it goes; the borrower hears nothing of it."""

    async def story(world: World) -> None:
        def judge(*_: object) -> Verdict:
            raise RuntimeError("a bug in the driver")

        world.backend.after_leases = judge
        await world.borrow()
        world.backend.after_leases = None
        await world.borrow()

    world = in_world(story, max_size=1)

    assert world.backend.opened == 2
    assert "after_lease() failed" in caplog.text


@pytest.mark.parametrize("max_lifetime", [None, 1.5], ids=["cleared", "too old"])
def test_what_may_not_be_lent_again_is_not_because_its_reset_is_done(max_lifetime: float | None) -> None:
    """A waiter gets another connection; how the reset ended is only one of the questions."""

    async def story(world: World) -> None:
        world.backend.resets = Dawdle(2)
        lease = await world.pool.lease()
        first = lease.connection
        await first.begin()
        lease.release()
        waiter = asyncio.create_task(world.pool.lease())
        await asyncio.sleep(1)
        if max_lifetime is None:
            world.pool.clear()
        lease = await waiter
        assert lease.connection is not first
        lease.release()

    in_world(story, max_size=1, max_lifetime=max_lifetime, lifetime_jitter=0.0)


def test_a_reset_that_serves_a_waiter_counts_like_any_other() -> None:
    """In passing, with nobody listening: the books and the status say the same as when somebody does."""

    def counted(*, is_heard: bool) -> dict[str, object]:
        async def story(world: World) -> None:
            if is_heard:
                world.pool.add_listener(lambda _: None)

            async def borrow() -> None:
                async with world.pool.acquire() as conn:
                    await conn.begin()

            await asyncio.gather(*(borrow() for _ in range(5)))

        stats = in_world(story, max_size=2).pool.stats()
        return {
            "resets": stats.resets, "served": stats.served, "waits": stats.wait_seconds.count,
            "holds": stats.hold_seconds.count, "peak": stats.peak_busy,
        }  # fmt: skip

    assert counted(is_heard=False) == counted(is_heard=True)
    assert counted(is_heard=False)["resets"] == 5
