"""A driver made of functions: for anything that can be opened and closed."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Final

from millpond.driver import Verdict

LONGEST_END_S: Final = 2.0
"""Most seconds that an async `close` may take when it has to stand in for `terminate`."""


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
        if not self._blocking or inspect.iscoroutinefunction(self._connect):
            return await self._run(self._connect)
        work = asyncio.get_running_loop().run_in_executor(None, self._connect)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(self._undo)
            raise

    def _undo(self, work: asyncio.Future[Any]) -> None:
        if not work.cancelled() and work.exception() is None:
            self.terminate(work.result())

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
        outcome = function(conn)
        if inspect.iscoroutine(outcome):
            self._finish(outcome)

    def _finish(self, ending: Coroutine[Any, Any, object]) -> None:
        """There is only an async way to end it: it goes on in a task that is kept until it is done."""
        try:
            task = asyncio.get_running_loop().create_task(_bounded(ending), name=f"millpond {self.name}: end")
        except RuntimeError:  # no loop runs any more
            ending.close()
            return
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

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
        """Nobody knows; False."""
        return False
