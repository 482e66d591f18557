"""A pool belongs to one loop, one thread and one process."""

import asyncio
import inspect
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from millpond import Allowance, ConnectionPool, PoolSettings, PoolStatus, WrongLoop
from millpond.driver import Verdict


class SocketDriver:
    """A backend that is the other end of a socket pair: real descriptors, no server."""

    name = "socket"

    def __init__(self) -> None:
        self.peers: list[socket.socket] = []

    async def connect(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self.peers.append(theirs)
        return ours

    async def ping(self, conn: socket.socket) -> None: ...

    async def reset(self, conn: socket.socket) -> None: ...

    async def close(self, conn: socket.socket) -> None:
        self.terminate(conn)

    def terminate(self, conn: socket.socket) -> None:
        if conn.fileno() >= 0:
            conn.send(b"bye")
            conn.close()

    def is_closed(self, conn: socket.socket) -> bool:
        return conn.fileno() < 0

    def after_lease(self, conn: socket.socket, error: BaseException | None) -> Verdict:
        return Verdict.KEEP

    def is_permanent(self, error: BaseException) -> bool:
        return False

    def filenos(self, conn: socket.socket) -> tuple[int, ...]:
        return (conn.fileno(),)

    def hang_up(self) -> None:
        """Close the other ends."""
        for peer in self.peers:
            peer.close()


@pytest.fixture
def driver() -> Any:
    driver = SocketDriver()
    yield driver
    driver.hang_up()


def test_a_pool_may_be_built_before_any_loop_runs(driver: SocketDriver) -> None:
    """The first use binds it."""
    pool = ConnectionPool(driver, settings=PoolSettings(max_size=1))

    async def main() -> None:
        async with pool, pool.acquire():
            pass

    asyncio.run(main())

    assert pool.stats().served == 1


def test_another_loop_is_refused_while_the_first_lives(driver: SocketDriver) -> None:
    """From another thread, by name, at once."""
    caught: list[WrongLoop] = []
    seen: list[PoolStatus] = []

    async def main() -> None:
        async with ConnectionPool(driver, settings=PoolSettings(max_size=1)) as pool:
            async with pool.acquire():
                pass

            def elsewhere() -> None:
                async def use() -> None:
                    await pool.acquire()

                try:
                    asyncio.run(use())
                except WrongLoop as error:
                    caught.append(error)
                seen.append(pool.status())

            thread = threading.Thread(target=elsewhere)
            thread.start()
            await asyncio.to_thread(thread.join, 10)
            async with pool.acquire():
                pass

    asyncio.run(main())

    assert "another event loop" in str(caught[0])
    assert seen[0].idle == 1


def test_a_thread_without_a_loop_is_refused_too_and_may_only_ask(driver: SocketDriver) -> None:
    """Whatever would change the books raises; status, numbers and holders answer from any thread."""
    refused: dict[str, type[BaseException] | None] = {}

    async def main() -> None:
        async with ConnectionPool(driver, settings=PoolSettings(max_size=1)) as pool, pool.acquire() as conn:

            def attempt(name: str, call: Callable[[], object]) -> None:
                try:
                    outcome = call()
                    if inspect.isawaitable(outcome):
                        next(outcome.__await__() if inspect.iscoroutine(outcome) else outcome)
                except BaseException as error:
                    refused[name] = type(error)
                else:
                    refused[name] = None

            def elsewhere() -> None:
                attempt("acquire", lambda: pool.acquire().__aenter__())
                attempt("lease", pool.lease)
                attempt("release", lambda: pool.release(conn))
                attempt("report", lambda: pool.report(conn, ValueError()))
                attempt("detach", lambda: pool.detach(conn))
                attempt("clear", pool.clear)
                attempt("pause", pool.pause)
                attempt("resume", pool.resume)
                attempt("resize", lambda: pool.resize(max_size=2))
                attempt("drain", pool.drain)
                attempt("close", pool.close)
                attempt("check", pool.check)
                assert pool.status().busy == 1
                assert pool.stats().served == 1
                assert len(pool.holders()) == 1
                repr(pool)

            await asyncio.to_thread(elsewhere)
            assert pool.status().state == "open"
            assert pool.settings.max_size == 1

    asyncio.run(main())

    assert set(refused.values()) == {WrongLoop}, refused


def test_a_pool_whose_loop_was_closed_says_so_and_drops_its_connections(driver: SocketDriver) -> None:
    """It can still be closed, which does nothing more."""
    pool = ConnectionPool(driver, settings=PoolSettings(max_size=1))

    async def use() -> None:
        async with pool.acquire():
            pass

    asyncio.run(use())
    with pytest.raises(WrongLoop, match="has been closed"):
        asyncio.run(use())
    asyncio.run(pool.close())

    assert pool.status().total == 0
    assert pool.stats().opened == pool.stats().closed


def test_a_forked_child_starts_empty_and_leaves_the_parents_sessions_alone(driver: SocketDriver) -> None:
    """Not a byte reaches the parent's server, and both go on with connections of their own."""

    async def parent() -> bytes:
        pool = ConnectionPool(driver, settings=PoolSettings(max_size=2), allowance=Allowance(1))
        async with pool.acquire() as conn:
            pass
        child = os.fork()
        if child == 0:
            os._exit(_in_child(pool, conn))
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        async with pool.acquire() as again:
            assert again is conn
            again.send(b"still here")
        said = driver.peers[0].recv(100)
        await pool.close()
        return said

    assert asyncio.run(parent()) == b"still here"


def _in_child(pool: ConnectionPool[Any], inherited: socket.socket) -> int:
    """0 when all is as it should be; the child must not run pytest's own endings."""
    if pool.status().total:
        return 2

    async def use() -> int:
        async with pool.acquire() as own:
            if own is inherited:
                return 3
        await pool.close()
        return 0

    asyncio.set_event_loop(None)
    asyncio.events._set_running_loop(None)
    try:
        return asyncio.run(use())
    except BaseException:
        return 4
