"""What all contracts share: the backend under test, its connections, and calls that must end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from millpond._core.pool import ConnectionPool
from millpond.driver import Lingering, Verdict
from millpond.errors import describe
from millpond.settings import PoolSettings
from millpond.testing.contract.backend import DEADLINE_S, Backend
from millpond.testing.contract.promises import Promise
from millpond.testing.contract.running import run

T = TypeVar("T")
_TIME_TO_END_S = 0.5
_BEFORE_COLLECTING_S = 0.5


class Contract:
    """The base of every contract: a class of tests without fixtures, for pytest, unittest, or a plain call.

    Whoever derives from it says what `backend` is: in `setup_method`, `setUp`, an autouse fixture, or a
    property. A test is a plain method which runs an event loop of its own, so no plugin for asyncio is
    needed and none interferes. It fails with `ContractBroken`.
    """

    backend: Backend
    """The backend under test, made anew for each test."""
    patience: float = DEADLINE_S
    """Seconds that anything may take which ought to end by itself."""

    _opened: list[tuple[Any, Any]]

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of the next test: asyncio's own, unless a subclass has another."""
        return asyncio.new_event_loop()

    async def open(self, driver: Any) -> Any:
        """A connection that is terminated at the end of the test, whatever happens."""
        conn = await self.ends(driver.connect(), Promise.CONNECT, "connect()")
        self._opened.append((driver, conn))
        return conn

    async def ends(self, call: Awaitable[T], promise: Promise, what: str) -> T:
        """The result of a call that must end, and end well.

        Raises:
            ContractBroken: it fails, or has not ended in time; `promise` is broken then.
        """
        (task,) = await self.settled(call, promise, what)
        error = task.exception()
        if error is not None:
            raise promise.broken(f"{what} raised {describe(error)}") from error
        return task.result()

    async def settled(self, call: Awaitable[T], promise: Promise, what: str) -> tuple[asyncio.Future[T]]:
        """The future of a call that must end, well or not.

        Raises:
            ContractBroken: it has not ended in time, or was cancelled by nobody; `promise` is broken then.
        """
        task = asyncio.ensure_future(call)
        await asyncio.wait({task}, timeout=self.patience)
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=_TIME_TO_END_S)
            raise promise.broken(f"{what} had not ended after {self.patience:g} s")
        if task.cancelled():
            raise promise.broken(f"{what} ended with a cancellation that nobody had asked for")
        return (task,)

    async def fails(self, call: Awaitable[object], promise: Promise, what: str) -> Exception:
        """The error of a call that must fail, and in time.

        Raises:
            ContractBroken: it does not fail; `promise` is broken then.
        """
        (task,) = await self.settled(call, promise, what)
        error = task.exception()
        if error is None:
            raise promise.broken(f"{what} returned as if all were well")
        if not isinstance(error, Exception):
            raise promise.broken(f"{what} raised {describe(error)}, which is no Exception") from error
        return error

    async def answers(self, conn: Any, number: int, when: str) -> None:
        """See that a question gets its own answer.

        Raises:
            ContractBroken: it gets another, or none.
        """
        answer = await self.ends(self.backend.ask(conn, number), Promise.ANSWERS, f"a question {when}")
        if answer != number:
            raise Promise.ANSWERS.broken(f"a question {when} expected {number!r} and got {answer!r}")

    async def none_left(self, promise: Promise, when: str, *, left: int = 0) -> None:
        """See that the backend has as many sessions as `left`.

        Raises:
            ContractBroken: it has not, in time; `promise` is broken then.
        """
        try:
            try:
                await self.backend.gone(left=left, within=min(_BEFORE_COLLECTING_S, self.patience))
            except TimeoutError:
                # The error of a cancelled call and its task refer to each other, and to what the call used.
                gc.collect()
                await self.backend.gone(left=left, within=self.patience)
        except TimeoutError:
            seen = await self.backend.sessions()
            raise promise.broken(f"the backend sees {seen} sessions {when}, not {left}") from None

    async def back(self, driver: Any, conn: Any, error: BaseException | None) -> Any:
        """The connection of the next borrower after a lease of `conn` that ended with `error`.

        Raises:
            ContractBroken: what after_lease() asked for could not be done.
        """
        after = "a good lease" if error is None else f"a lease that ended with {type(error).__name__}"
        following = await self.ends(
            self.backend.given_back(driver, conn, error),
            Promise.RESET,
            f"what after_lease() asked for after {after}",
        )
        if following is not conn:
            self._opened.append((driver, following))
        return following

    def is_expected(self, verdict: Any, expected: Any, level: str, after: str) -> None:
        """See that a verdict is the one that the backend's description names.

        Raises:
            ContractBroken: it is another, or none.
        """
        if not isinstance(verdict, Verdict):
            raise Promise.VERDICT.broken(f"after {after} at level {level} it said {verdict!r}")
        if verdict is not expected.get(level, verdict):
            raise Promise.VERDICT.broken(
                f"after {after} at level {level} it said {verdict}, not {expected[level]}"
            )

    def terminated(self, driver: Any, conn: Any, when: str) -> None:
        """Terminate a connection.

        Raises:
            ContractBroken: that raised.
        """
        try:
            driver.terminate(conn)
        except Exception as error:
            raise Promise.TERMINATE_QUIETLY.broken(f"{when} it raised {describe(error)}") from error

    async def cut(self, driver: Any, conn: Any) -> None:
        """Terminate a connection, and wait for what the driver does of that in tasks of its own."""
        self.terminated(driver, conn, "on an open connection")
        if isinstance(driver, Lingering):
            endings = asyncio.gather(*driver.endings(), return_exceptions=True)
            await self.ends(endings, Promise.TERMINATE_ENDS, "what terminate() began")

    @contextlib.asynccontextmanager
    async def pool(self, driver: Any, **settings: Any) -> AsyncIterator[ConnectionPool[Any]]:
        """A pool of `driver` that recovers quickly; closed at the end."""
        chosen = {
            "min_size": 0, "max_size": 4, "acquire_timeout": self.patience, "connect_timeout": self.patience,
            "reset_timeout": self.patience, "retry_delay": 0.02, "recovery_timeout": 0.1, **settings,
        }  # fmt: skip
        pool = ConnectionPool[Any](driver, settings=PoolSettings(**chosen), name="contract")
        try:
            yield pool
        finally:
            await pool.close(timeout=1.0)

    def in_a_loop(
        self, test: Callable[[], Coroutine[Any, Any, None]], left_behind: Promise = Promise.RESIDUE
    ) -> None:
        """Run one test in a loop of its own, with nothing left of it at the end."""
        self._opened = []
        try:
            run(
                partial(self._from_start_to_end, test),
                patience=self.patience,
                noise=self.backend.noise,
                left_behind=left_behind,
                new_loop=self.new_loop,
            )
        finally:
            self._opened.clear()

    async def _from_start_to_end(self, test: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await test()
        finally:
            await self._terminate_all()
        await self.none_left(Promise.RESIDUE, "after the test")

    async def _terminate_all(self) -> None:
        while self._opened:
            driver, conn = self._opened.pop()
            with contextlib.suppress(Exception):
                driver.terminate(conn)
            if isinstance(driver, Lingering) and driver.endings():
                await asyncio.wait(driver.endings(), timeout=_TIME_TO_END_S)


def in_a_loop(test: Callable[[Any], Coroutine[Any, Any, None]]) -> Callable[[Any], None]:
    """Make a plain method of an async one.

    Not a wrapper that shows what it wraps, or plugins for asyncio would run that.
    """
    return _plain(test, Promise.RESIDUE)


def about_connects(test: Callable[[Any], Coroutine[Any, Any, None]]) -> Callable[[Any], None]:
    """The same for a test in which only a connect can have left what is left."""
    return _plain(test, Promise.HALF_MADE)


def _plain(test: Callable[[Any], Coroutine[Any, Any, None]], left_behind: Promise) -> Callable[[Any], None]:
    def method(self: Contract) -> None:
        self.in_a_loop(partial(test, self), left_behind)

    method.__name__, method.__qualname__ = test.__name__, test.__qualname__
    method.__doc__, method.__module__ = test.__doc__, test.__module__
    return method
