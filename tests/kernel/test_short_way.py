"""The short way: what it does not count is known all the same, and not everybody may take it."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from millpond import ConnectFailed, ConnectionPool, EventKind, PoolSettings, Verdict, WrongLoop
from millpond.events import Event
from millpond.testing import run
from tests.kernel.worlds import World, in_world


def test_leases_in_passing_are_in_the_numbers() -> None:
    """Those that have ended, those that are out, and those counted together long ago."""

    async def story(world: World) -> None:
        for _ in range(700):  # more than are noted before they are counted
            async with world.pool.acquire():
                pass
        async with world.pool.acquire(), world.pool.acquire():
            stats = world.pool.stats()

        assert (stats.served, stats.requests) == (702, 702)
        assert stats.hold_seconds.count == 700
        assert world.pool.stats().served == world.pool.stats().hold_seconds.count == 702

    in_world(story, max_size=2)


@pytest.mark.parametrize("then", ["nothing", "clear", "shrink", "close one"])
def test_the_peak_is_known_whatever_comes_after(then: str) -> None:
    """Three were out at once, in passing; afterwards they are all back, or gone."""

    async def story(world: World) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(5):
                await stack.enter_async_context(world.pool.acquire())
        await asyncio.sleep(0.1)
        world.pool._ledger._peak_busy = 0  # as if those five had never been
        for slot in world.pool._idle:
            slot.was_lent = False
        async with world.pool.acquire(), world.pool.acquire(), world.pool.acquire():
            pass
        if then == "clear":
            world.pool.clear()
        elif then == "shrink":
            world.pool.resize(max_size=1)
        elif then == "close one":
            lease = await world.pool.lease()
            lease.discard()
        await asyncio.sleep(0.1)
        async with world.pool.acquire():
            pass

        assert world.pool.stats().peak_busy == 3

    in_world(story, max_size=5, min_size=0)


def test_numbers_only_go_up_for_another_thread() -> None:
    """It may miss the lease that begins or ends just now; what it was told once is not taken back."""
    told: list[tuple[int, int]] = []

    async def main() -> None:
        settings = PoolSettings(max_size=3)
        async with ConnectionPool.from_factory(object, settings=settings) as pool:
            is_over = threading.Event()

            def ask() -> None:
                while not is_over.is_set():
                    stats = pool.stats()
                    told.append((stats.served, stats.requests))

            thread = threading.Thread(target=ask)
            thread.start()
            for turn in range(20_000):
                async with pool.acquire():
                    if turn % 100 == 0:
                        await asyncio.sleep(0)
            is_over.set()
            await asyncio.to_thread(thread.join, 10)
            assert pool.stats().served == 20_000

    asyncio.run(main())

    assert len(told) > 1
    assert told == sorted(told)


@pytest.mark.parametrize("spelling", ["await", "shield", "task", "gather", "not at all"])
def test_a_release_may_be_awaited_in_every_way(spelling: str) -> None:
    """It is done when release() returns; what it returns is as good as a coroutine."""

    async def story(world: World) -> None:
        for _ in range(3):
            first, second = await world.pool.acquire(), await world.pool.acquire()
            match spelling:
                case "await":
                    await world.pool.release(first)
                    await world.pool.release(second)
                case "shield":
                    await asyncio.shield(world.pool.release(first))
                    await asyncio.shield(world.pool.release(second))
                case "task":
                    await asyncio.create_task(world.pool.release(first))
                    await asyncio.create_task(world.pool.release(second))
                case "gather":
                    await asyncio.gather(world.pool.release(first), world.pool.release(second))
                case _:
                    world.pool.release(first)  # type: ignore[unused-coroutine]
                    world.pool.release(second)  # type: ignore[unused-coroutine]
            assert world.pool.status().idle == 2

    in_world(story, max_size=2)


def test_what_release_returns_ends_like_a_coroutine() -> None:
    """For those who drive one by hand."""

    async def story(world: World) -> None:
        done = world.pool.release(await world.pool.acquire())
        with pytest.raises(StopIteration):
            done.send(None)
        with pytest.raises(KeyError, match="thrown"):
            done.throw(KeyError("thrown"))
        done.close()

    in_world(story)


def test_a_lease_is_not_ended_from_a_second_loop_of_the_thread() -> None:
    """The first loop stands still while it waits for the second; its books are not the second's to change."""
    caught: list[BaseException] = []

    class Driver:
        """A driver whose connections are nothing."""

        name = "nothing"

        async def connect(self) -> object:
            return object()

        async def ping(self, conn: object) -> None: ...
        async def reset(self, conn: object) -> None: ...
        async def close(self, conn: object) -> None: ...
        def terminate(self, conn: object) -> None: ...

        def is_closed(self, conn: object) -> bool:
            return False

        def after_lease(self, conn: object, error: BaseException | None) -> Verdict:
            return Verdict.KEEP

        def is_permanent(self, error: BaseException) -> bool:
            return False

    pool: ConnectionPool[Any] = ConnectionPool(Driver(), settings=PoolSettings(max_size=1))
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()

    async def borrow(stack: contextlib.AsyncExitStack) -> None:
        for _ in range(2):  # a new connection takes the long way back, the second time the short one
            async with pool.acquire():
                pass
        await stack.enter_async_context(pool.acquire())

    async def give_back(stack: contextlib.AsyncExitStack) -> None:
        try:
            await stack.aclose()
        except WrongLoop as error:
            caught.append(error)

    try:
        stack = contextlib.AsyncExitStack()
        first.run_until_complete(borrow(stack))
        second.run_until_complete(give_back(stack))
        assert pool.status().busy == 1
        first.run_until_complete(pool.close(timeout=0))
    finally:
        first.close()
        second.close()

    assert len(caught) == 1


@pytest.mark.parametrize("spelling", ["async with", "await"])
def test_who_listens_from_now_on_hears_how_leases_end_that_are_out(spelling: str) -> None:
    """And of those who wait already, all: they went in passing until now."""
    heard: list[Event] = []

    async def story(world: World) -> None:
        pool = world.pool
        for _ in range(2):
            await world.borrow()

        async def borrow() -> None:
            if spelling == "async with":
                async with pool.acquire():
                    await asyncio.sleep(1)
            else:
                conn = await pool.acquire()
                await asyncio.sleep(1)
                await pool.release(conn)

        tasks = [asyncio.create_task(borrow()) for _ in range(3)]
        await asyncio.sleep(0.5)
        pool.add_listener(heard.append)
        await asyncio.gather(*tasks)
        await borrow()

    in_world(story, max_size=1)

    kinds = [event.kind for event in heard if event.kind in (EventKind.LENT, EventKind.RETURNED)]
    assert kinds == [EventKind.RETURNED, *[EventKind.LENT, EventKind.RETURNED] * 3]
    numbers = [event.lease for event in heard if event.kind in (EventKind.LENT, EventKind.RETURNED)]
    assert numbers[0] not in numbers[1:]
    assert numbers[1::2] == numbers[2::2]


def test_a_lease_in_passing_is_told_with_its_facts() -> None:
    """Pool, generation, connection, lease, and how long it was held; one number after the other."""
    heard: list[Event] = []

    async def story(world: World) -> None:
        for _ in range(2):
            await world.borrow()
        world.pool.add_listener(heard.append)
        for seconds in (1.0, 2.0):
            async with world.pool.acquire():
                await asyncio.sleep(seconds)

    in_world(story, max_size=1)

    told = [event for event in heard if event.kind in (EventKind.LENT, EventKind.RETURNED)]
    assert [event.seconds for event in told] == pytest.approx([0.0, 1.0, 0.0, 2.0])
    assert {(event.pool, event.generation, event.connection) for event in told} == {("world", 0, 1)}
    first, _, second, _ = (event.lease for event in told)
    assert [event.lease for event in told] == [first, first, second, second]
    assert second == first + 1
    assert [event.sequence for event in heard] == list(range(1, len(heard) + 1))


def test_a_listener_that_ends_the_program_in_passing_loses_no_connection() -> None:
    """The borrower never saw it: it is given back."""

    async def story(world: World) -> None:
        for _ in range(2):
            await world.borrow()

        def leave(event: Event) -> None:
            if event.kind is EventKind.LENT:
                raise SystemExit(3)

        silence = world.pool.add_listener(leave)
        try:
            async with world.pool.acquire():
                raise AssertionError("it was lent")
        except SystemExit:
            silence()

        assert world.pool.status().busy == 0
        await world.borrow()

    in_world(story, max_size=1)


def test_another_thread_cannot_release_while_the_borrower_waits_for_it() -> None:
    """The task that runs is the borrower's; the thread that asks is not the pool's."""
    caught: list[BaseException] = []

    async def main() -> None:
        async with ConnectionPool.from_factory(object, settings=PoolSettings(max_size=1)) as pool:
            for _ in range(3):
                async with pool.acquire():
                    pass
            conn = await pool.acquire()

            def elsewhere() -> None:
                try:
                    pool.release(conn)
                except WrongLoop as error:
                    caught.append(error)

            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join(10)
            assert pool.status().busy == 1
            await pool.release(conn)

    asyncio.run(main())

    assert len(caught) == 1


@pytest.mark.parametrize("leases", [1, 3], ids=["the long way", "the short way"])
def test_a_verdict_that_ends_the_program_leaves_no_connection_in_nobodys_hands(leases: int) -> None:
    """Nobody knows what became of it: it goes, and its place is free."""

    async def main() -> None:
        seen = 0

        def judge(_conn: object, _error: BaseException | None) -> Verdict:
            nonlocal seen
            seen += 1
            if seen == leases:
                raise SystemExit(3)
            return Verdict.KEEP

        settings = PoolSettings(max_size=1)
        async with ConnectionPool.from_factory(object, after_lease=judge, settings=settings) as pool:

            async def borrow() -> None:
                async with pool.acquire(timeout=1.0):
                    pass

            for _ in range(leases - 1):
                await borrow()
            with pytest.raises(SystemExit):
                await borrow()
            await borrow()
            status = pool.status()
            assert (status.busy, status.total, pool.stats().opened) == (0, 1, 2)

    asyncio.run(main())


def test_a_task_may_be_made_of_the_way_in() -> None:
    """`__aenter__` answers with a coroutine, as libraries expect that call it themselves."""

    async def main() -> None:
        async with ConnectionPool.from_factory(object, settings=PoolSettings(max_size=1)) as pool:
            for _ in range(2):  # the long way, and the short one
                leasing = pool.acquire()
                entering = leasing.__aenter__()
                assert asyncio.iscoroutine(entering)
                assert type(await asyncio.create_task(entering)) is object
                await leasing.__aexit__(None, None, None)  # another task than the one that entered

    asyncio.run(main())


@pytest.mark.parametrize("leases", [1, 2], ids=["exclusive", "shared"])
@pytest.mark.parametrize("verdict", [Verdict.KEEP, Verdict.RESET], ids=lambda verdict: verdict.name)
@pytest.mark.parametrize("is_heard", [False, True], ids=["", "heard"])
def test_a_lease_is_not_ended_from_another_thread(leases: int, verdict: Verdict, is_heard: bool) -> None:
    """Though the task that took it is the one that runs in the pool's loop, and waits for that thread."""
    settings = PoolSettings(max_size=1, max_leases_per_connection=leases)

    async def reset(_: object) -> None:
        """Nothing to do."""

    async def main() -> list[BaseException]:
        caught: list[BaseException] = []

        def give_back(end: Callable[[], object]) -> None:
            try:
                end()
            except WrongLoop as error:
                caught.append(error)

        async with ConnectionPool.from_factory(
            object, reset=reset, after_lease=lambda _conn, _error: verdict, settings=settings
        ) as pool:
            if is_heard:
                pool.add_listener(lambda _: None)
            for _ in range(2):
                async with pool.acquire():
                    pass
                await asyncio.sleep(0.01)
            lease = await pool.lease()
            for end in (lease.release, lambda: lease.__aexit__(None, None, None).send(None)):
                thread = threading.Thread(target=give_back, args=(end,))
                thread.start()
                thread.join()
            assert pool.status().leases == 1
            lease.release()
            await (await pool.lease(timeout=1)).__aexit__(None, None, None)
        return caught

    assert len(asyncio.run(main())) == 2


@pytest.mark.parametrize(
    ("leases", "verdict"),
    [(1, Verdict.KEEP), (1, Verdict.RESET), (2, Verdict.KEEP)],
    ids=["exclusive", "exclusive, reset", "shared"],
)
def test_a_lease_that_ends_is_counted_once_by_another_thread(leases: int, verdict: Verdict) -> None:
    """Also at the instant at which its hold time is noted."""

    async def story(world: World) -> None:
        pool = world.pool
        world.backend.clean_verdict = verdict
        for _ in range(2):
            await world.borrow()
            await asyncio.sleep(1)
        noted: list[float] = []
        pool._held = Asking(pool, noted)  # type: ignore[assignment]
        async with pool.acquire():
            pass
        assert noted
        assert pool._ledger._lent_before == 3 - len(noted)  # what is noted elsewhere is not in the books
        pool._held = pool._hold_times.fresh
        pool._held.extend(noted)

    in_world(story, max_size=1, max_leases_per_connection=leases)


class Asking:
    """A list whose owner is asked for numbers at each new entry, as another thread might ask."""

    def __init__(self, pool: ConnectionPool[Any], noted: list[float]) -> None:
        self.pool, self.noted = pool, noted

    def __len__(self) -> int:
        return len(self.noted)

    def append(self, seconds: float) -> None:
        """Ask, and note it."""
        self.pool.stats()
        self.noted.append(seconds)


def test_the_peak_after_a_reset_is_not_that_of_two_leases() -> None:
    """One after the other, the first of which a reset followed: never two at once."""

    async def story(world: World) -> None:
        pool = world.pool
        for verdict in (Verdict.KEEP, Verdict.KEEP, Verdict.RESET, Verdict.KEEP):
            world.backend.clean_verdict = verdict
            async with pool.acquire():
                await asyncio.sleep(0)
        await asyncio.sleep(1)
        async with pool.acquire():
            await asyncio.sleep(0.2)

        assert pool.stats().peak_busy == 1

    in_world(story, max_size=2, min_size=2, eager_init=True)


def test_a_shared_lease_outside_of_a_task_ends_the_long_way() -> None:
    """Who waits for its end hears of it, though another lease of its connection has ended since."""

    async def story(world: World) -> None:
        pool, loop = world.pool, asyncio.get_running_loop()
        got: asyncio.Future[Any] = loop.create_future()
        await world.borrow()
        other = await pool.lease()

        def take() -> None:
            try:
                pool.lease().send(None)
            except StopIteration as end:
                got.set_result(end.value)

        loop.call_soon(take)
        lease = await got
        other.release()
        loop.call_later(1.0, lease.release)
        began = loop.time()
        await pool.drain()

        assert loop.time() - began == pytest.approx(1.0)

    in_world(story, max_size=1, max_leases_per_connection=2)


def test_an_initialize_that_failed_leaves_no_timer() -> None:
    """Neither its own nor one for the driver call that has ended."""

    def refused() -> object:
        raise ConnectionRefusedError("nobody there")

    async def main() -> None:
        settings = PoolSettings(eager_init=True, min_size=1, connect_retries=0)
        pool = ConnectionPool.from_factory(refused, settings=settings)
        with pytest.raises(ConnectFailed):
            await pool.initialize()

    run(main, seed=None, check_timers=True)
