"""Cancel a coroutine at one particular await, then at the next, until it gets through."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Final

from millpond.testing.contract.promises import Promise

_MOST_AWAITS: Final = 300


class Moment(enum.Enum):
    """When the cancellation comes."""

    WHILE_WAITING = "while waiting"  # what is awaited has not happened yet
    AS_IT_HAPPENS = "as it happens"  # what is awaited has just happened, the task does not know yet


class Awaits:
    """Runs a coroutine in a task, and cancels that task at the n-th time it has to wait.

    Attributes:
        seen: how many times it had to wait.
        was_cancelled: whether the coroutine was told of the cancellation.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], *, cancel_at: int, moment: Moment) -> None:
        self._coroutine = coroutine
        self._cancel_at, self._moment = cancel_at, moment
        self.seen = 0
        self.was_cancelled = False

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._coroutine.__await__()
        sent: Any = None
        thrown: BaseException | None = None
        while True:
            try:
                awaited = inner.send(sent) if thrown is None else inner.throw(thrown)
            except StopIteration as end:
                return end.value
            finally:
                thrown = None  # or the error, its traceback and this frame would keep each other alive
            self.seen += 1
            if self.seen == self._cancel_at:
                self._arm(awaited)
            try:
                sent = yield awaited
            except BaseException as error:
                self.was_cancelled |= isinstance(error, asyncio.CancelledError)
                thrown = error

    def _arm(self, awaited: Any) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("awaits are counted inside a task")
        if awaited is None or self._moment is Moment.WHILE_WAITING:
            asyncio.get_running_loop().call_soon(task.cancel)
        else:
            # Our callback is older than the task's own, so the task is cancelled before it is woken.
            awaited.add_done_callback(lambda _: task.cancel())


async def cancelled_at_every_await(
    prepare: Callable[[], Awaitable[Coroutine[Any, Any, Any]]],
    *,
    what: str,
    moment: Moment,
    ended: Callable[[asyncio.Task[Any]], Awaitable[None]],
    patience: float,
) -> int:
    """Cancel a call at its first await, then its second, until it gets through; says how many there were.

    Args:
        prepare: makes the coroutine of the next call.
        what: the call's name, for the error.
        moment: when the cancellation comes.
        ended: called after each run with its task, which is done.
        patience: seconds that a cancelled call may take to end.

    Raises:
        ContractBroken: a cancelled call went on, or ended with anything but the cancellation.
    """
    for at in range(1, _MOST_AWAITS):
        awaits = Awaits(await prepare(), cancel_at=at, moment=moment)

        async def run(awaits: Awaits = awaits) -> Any:
            return await awaits

        task = asyncio.create_task(run())
        _, late = await asyncio.wait({task}, timeout=patience)
        where = f"{what}, cancelled {moment.value} at its await {at},"
        if late:
            task.cancel()
            raise Promise.CANCELLED.broken(f"{where} had not ended after {patience:g} s")
        await ended(task)
        if task.cancelled():
            continue
        if awaits.was_cancelled:
            raise Promise.CANCELLED.broken(f"{where} {_outcome(task)}")
        task.result()
        if awaits.seen < at:
            return at - 1
    raise Promise.CANCELLED.broken(f"{what} never got through {_MOST_AWAITS} awaits")


def _outcome(task: asyncio.Task[Any]) -> str:
    error = task.exception()
    return "returned as if nothing had happened" if error is None else f"raised {type(error).__name__}"
