"""A driver made of functions: for anything that can be opened and closed."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import types
from asyncio import _get_running_loop as running_loop
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator
from contextvars import Context
from typing import Any, Final

from millpond.driver import Verdict

LONGEST_END_S: Final = 2.0
"""Most seconds that an async `close` may take when it has to stand in for `terminate`."""


@contextlib.asynccontextmanager
async def _entered() -> AsyncIterator[None]:
    yield


@contextlib.contextmanager
def _entered_plainly() -> Iterator[None]:
    yield


# Real connections may well be context managers too; what the decorators make is none.
_NO_CONNECTIONS: Final = (
    types.GeneratorType, types.AsyncGeneratorType, type(_entered()), type(_entered_plainly())
)  # fmt: skip


class NotAConnection(TypeError):
    """A factory gave a generator or a context manager, which would have to be entered first."""


def _loop_runs() -> bool:
    return running_loop() is not None


async def _bounded(ending: Coroutine[Any, Any, object]) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(LONGEST_END_S):
            await ending


class FunctionDriver:
    """This drives a backend by the functions that `ConnectionPool.from_factory` was given."""

    def __init__(
        self,
        connect: Callable[[], Any],
        *,
        close: Callable[[Any], object] | None,
        terminate: Callable[[Any], object] | None,
        validate: Callable[[Any], object] | None,
        reset: Callable[[Any], object] | None,
        after_lease: Callable[[Any, BaseException | None], Verdict] | None,
        blocking: bool,
        name: str,
    ) -> None:
        functions: dict[str, object] = {
            "connect": connect, "close": close, "terminate": terminate, "validate": validate,
            "reset": reset, "after_lease": after_lease,
        }  # fmt: skip
        for what, function in functions.items():
            if not callable(function) and (function is not None or what == "connect"):
                raise TypeError(f"{what} must be a function, got {type(function).__name__}")
        if blocking not in (True, False):
            raise TypeError(f"blocking must be True or False, got {type(blocking).__name__}")
        self.name = name
        self._connect = connect
        self._close = close
        self._terminate = terminate
        self._validate = validate
        self._reset = reset
        self._judge = after_lease
        self._blocking = blocking
        self._endings: set[asyncio.Task[None]] = set()

    async def _run(self, function: Callable[..., object], *args: object) -> Any:
        if self._blocking and not inspect.iscoroutinefunction(function):
            outcome: Any = await asyncio.to_thread(function, *args)
        else:
            outcome = function(*args)
        return await outcome if inspect.isawaitable(outcome) else outcome

    async def connect(self) -> Any:
        """Call the factory; a thread that outlives its cancellation has its connection terminated."""
        conn = await self._connected()
        if isinstance(conn, _NO_CONNECTIONS):
            raise NotAConnection(
                f"{self.name}: connect() gave {type(conn).__name__}: "
                "a connection is wanted, not something that would yield one"
            )
        return conn

    async def _connected(self) -> Any:
        if not self._blocking or inspect.iscoroutinefunction(self._connect):
            return await self._run(self._connect)
        work = asyncio.get_running_loop().run_in_executor(None, self._connect)
        try:
            made = await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(self._undo)
            raise
        # A lambda around an async function is none itself; its thread has only made the coroutine.
        return await made if inspect.isawaitable(made) else made

    def _undo(self, work: asyncio.Future[Any]) -> None:
        if work.cancelled() or work.exception() is not None:
            return
        made = work.result()
        if inspect.iscoroutine(made):
            made.close()
        else:
            self.terminate(made)

    async def ping(self, conn: Any) -> None:
        """Call `validate`; what is false (but not None) is dead."""
        if self._validate is not None and await self._run(self._validate, conn) is False:
            raise ConnectionError(f"{self.name}: validate() returned False")

    async def reset(self, conn: Any) -> None:
        """Call `reset`."""
        if self._reset is not None:
            await self._run(self._reset, conn)

    async def close(self, conn: Any) -> None:
        """Call `close`, or else `terminate`."""
        if self._close is not None:
            await self._run(self._close, conn)
        else:
            self.terminate(conn)

    def terminate(self, conn: Any) -> None:
        """Call `terminate`, or else `close`."""
        function = self._terminate
        if function is None:
            function = self._close
        if function is None:
            return
        if self._blocking and not inspect.iscoroutinefunction(function) and _loop_runs():
            # It may wait for a dead peer for minutes: the loop must not.
            self._finish(asyncio.to_thread(function, conn))
            return
        outcome = function(conn)
        if inspect.iscoroutine(outcome):
            self._finish(outcome)

    def _finish(self, ending: Coroutine[Any, Any, object]) -> None:
        """There is only an async way to end it: it goes on in a task that is kept until it is done."""
        loop = running_loop()
        if loop is None:
            ending.close()
            return
        # Not in the borrower's context; nor, under an eager task factory, inside of the bookkeeping.
        task = asyncio.Task(_bounded(ending), loop=loop, name=f"millpond {self.name}: end", context=Context())
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    def endings(self) -> Collection[asyncio.Task[None]]:
        """The connections that are being ended by an async or blocking `close`."""
        return tuple(self._endings)

    def is_closed(self, conn: Any) -> bool:
        """Nobody knows; False."""
        return False

    def after_lease(self, conn: Any, error: BaseException | None) -> Verdict:
        """Ask `after_lease`; without it, an error means that nobody knows."""
        if self._judge is not None:
            return self._judge(conn, error)
        if error is not None:
            return Verdict.DISCARD
        return Verdict.KEEP if self._reset is None else Verdict.RESET

    def is_permanent(self, error: BaseException) -> bool:
        """A factory that makes no connections never will; of all else nobody knows."""
        return isinstance(error, NotAConnection)
