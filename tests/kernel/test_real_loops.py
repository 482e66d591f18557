"""The pool over real sockets, on asyncio's own loop and on uvloop: nothing is mixed up, nothing is left."""

import asyncio
import gc
import random
import socket
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

from millpond import ConnectionPool, PoolClosed, PoolSettings, PoolTimeout
from millpond._core.alarm import Alarm
from tests.kernel.echo import Connection, EchoServer, ask, close, echo_server

Story = Callable[[EchoServer, ConnectionPool[Connection]], Awaitable[object]]

pytestmark = pytest.mark.parametrize(
    "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


def pool_over(echo: EchoServer, **settings: Any) -> ConnectionPool[Connection]:
    """A pool of connections to the server, made of functions: the only way to end one is async."""

    async def validate(conn: Connection) -> bool:
        return await ask(conn, "ping") == "ping"

    return ConnectionPool.from_factory(
        echo.connect,
        close=close,
        validate=validate,
        name="echo",
        settings=PoolSettings(**{"min_size": 0, "max_size": 5, **settings}),
    )


def over_sockets(story: Story, new_loop: Callable[[], asyncio.AbstractEventLoop], **settings: Any) -> None:
    """Tell `story` on a real loop; afterwards no task, socket or timer of the pool is left."""

    async def main() -> None:
        async with echo_server() as echo:
            pool = pool_over(echo, **settings)
            left = weakref.ref(pool)
            await story(echo, pool)
            await pool.close()
            # What the pool has closed is closed; the server hears of it a moment later, of each in turn.
            async with asyncio.timeout(10):
                await echo.has_nobody()
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert pool.status().total == pool.status().abandoned == 0
            del pool
            await asyncio.sleep(0)  # the step until here is run by what woke it, which may know the pool
            gc.collect()
            # A timer that was still set would hold it.
            assert left() is None

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
    gc.collect()  # what was not closed complains now, and every warning is an error


def test_many_borrowers_hear_the_answers_to_their_own_questions(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """Sixty tasks with ten questions each on five connections."""

    async def story(echo: EchoServer, pool: ConnectionPool[Connection]) -> None:
        async def work(number: int) -> None:
            for turn in range(10):
                async with pool.acquire() as conn:
                    question = f"{number}.{turn}"
                    assert await ask(conn, question) == question

        await asyncio.gather(*(work(number) for number in range(60)))
        assert echo.accepted == 5
        assert pool.stats().served == 600

    over_sockets(story, new_loop)


@pytest.mark.timeout(60)
def test_a_storm_of_two_thousand_cancellations_mixes_up_no_answers(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """Wherever they strike: in the queue, in a connect, in the middle of a request."""
    cancelled = answered = 0

    async def story(_echo: EchoServer, pool: ConnectionPool[Connection]) -> None:
        nonlocal cancelled, answered
        rng = random.Random(2000)

        async def work(number: int) -> None:
            async with pool.acquire(timeout=None) as conn:
                for turn in range(3):
                    question = f"{number}.{turn}"
                    assert await ask(conn, question) == question

        while cancelled < 2000:
            tasks = [asyncio.create_task(work(number)) for number in range(100)]
            for task in rng.sample(tasks, 80):
                for _ in range(rng.randrange(4)):
                    await asyncio.sleep(0)
                task.cancel()
            await asyncio.wait(tasks)
            for task in tasks:
                cancelled += task.cancelled()
                if not task.cancelled():
                    await task
                    answered += 1
        stats = pool.stats()
        assert stats.served + stats.cancelled == stats.requests

    over_sockets(story, new_loop)

    assert answered > 400


def test_a_server_that_hangs_up_is_noticed_and_forgotten(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """Every connection is gone at once; checked before they are lent, none of them meets a borrower."""

    async def story(echo: EchoServer, pool: ConnectionPool[Connection]) -> None:
        async def work(number: int) -> None:
            async with pool.acquire() as conn:
                assert await ask(conn, str(number)) == str(number)

        for _ in range(5):
            await asyncio.gather(*(work(number) for number in range(20)))
            echo.hang_up()
            await echo.has_nobody()

    over_sockets(story, new_loop, validate_after_idle=0.0)


def test_a_close_waits_for_the_connections_that_it_cuts(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """With an async close only, what was thrown away a moment before has ended when close() returns."""
    ended: list[Connection] = []

    async def story(echo: EchoServer, _pool: ConnectionPool[Connection]) -> None:
        async def slow_close(conn: Connection) -> None:
            for _ in range(20):
                await asyncio.sleep(0)
            await close(conn)
            ended.append(conn)

        pool = ConnectionPool.from_factory(echo.connect, close=slow_close, settings=PoolSettings(min_size=0))
        leases = [await pool.lease() for _ in range(3)]
        leases[0].discard()
        leases[1].release(ValueError("in doubt"))
        closing = asyncio.create_task(pool.close(timeout=0))
        await closing
        assert len(ended) == 3
        leases[2].release()

    over_sockets(story, new_loop)


def test_a_close_in_the_middle_of_everything_leaves_nothing(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """Borrowers in requests, waiters in the queue, connects under way: all end, none hangs."""

    async def story(_echo: EchoServer, pool: ConnectionPool[Connection]) -> None:
        async def work(number: int) -> None:
            while True:
                async with pool.acquire() as conn:
                    assert await ask(conn, str(number)) == str(number)

        tasks = [asyncio.create_task(work(number)) for number in range(50)]
        for _ in range(30):
            await asyncio.sleep(0)
        await pool.close()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {PoolClosed}

    over_sockets(story, new_loop)


def test_a_timeout_of_zero_and_a_full_pool_fail_at_once(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """No timer has to go off for that."""

    async def story(_echo: EchoServer, pool: ConnectionPool[Connection]) -> None:
        async with pool.acquire():
            with pytest.raises(PoolTimeout):
                await pool.acquire(timeout=0)

    over_sockets(story, new_loop, max_size=1)


def test_blocking_functions_run_in_threads_and_lose_no_socket(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """Cancelled while a thread connects: what the thread brings is closed, not forgotten."""

    async def story(echo: EchoServer, _pool: ConnectionPool[Connection]) -> None:
        def connect() -> socket.socket:
            return socket.create_connection(("127.0.0.1", echo.port), timeout=5)

        def answers(conn: socket.socket) -> bool:
            conn.sendall(b"ping\n")
            return conn.recv(5) == b"ping\n"

        pool = ConnectionPool.from_factory(
            connect,
            close=socket.socket.close,
            validate=answers,
            blocking=True,
            settings=PoolSettings(min_size=0, max_size=3, validate_after_idle=0.0),
        )

        async def work() -> None:
            async with pool.acquire() as conn:
                assert await asyncio.to_thread(answers, conn)

        tasks = [asyncio.create_task(work()) for _ in range(40)]
        for task in tasks[::3]:
            await asyncio.sleep(0)
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {type(None), asyncio.CancelledError}
        pool.clear()
        await pool.close()

    over_sockets(story, new_loop)


def test_a_time_out_takes_one_timer(
    new_loop: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of any fraction of a millisecond: one that rings too early rings again and again until it is due."""
    rung = 0
    ring = Alarm._ring

    def counted(alarm: Alarm) -> None:
        nonlocal rung
        rung += 1
        ring(alarm)

    monkeypatch.setattr(Alarm, "_ring", counted)

    async def main() -> None:
        settings = PoolSettings(max_size=1)
        async with ConnectionPool.from_factory(object, settings=settings) as pool, pool.acquire():
            for tenths in range(100, 120):
                began = time.monotonic()
                with pytest.raises(PoolTimeout):
                    await pool.acquire(timeout=tenths / 10_000)
                assert time.monotonic() - began >= tenths / 10_000

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())

    assert rung <= 21  # one more for what the pool looks after itself


def test_times_are_finer_than_a_millisecond(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Most connections are held for less; a clock that counts milliseconds would call that none, or one."""

    async def main() -> None:
        async with ConnectionPool.from_factory(object) as pool:
            for _ in range(3):
                async with pool.acquire():
                    await asyncio.sleep(0.001)
            milliseconds = pool.stats().hold_seconds.total * 1000
        assert abs(milliseconds - round(milliseconds)) > 1e-6

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
