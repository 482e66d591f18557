"""Cancel a coroutine at one particular await."""

import asyncio
import enum
from collections.abc import Coroutine, Generator
from functools import partial
from typing import Any


class Moment(enum.Enum):
    """When the cancellation comes."""

    WHILE_WAITING = "while waiting"  # what is awaited has not happened yet
    AS_IT_HAPPENS = "as it happens"  # what is awaited has just happened, the task does not know yet


class Awaits:
    """Runs a coroutine in a task, and cancels that task at the n-th time it has to wait.

    Attributes:
        seen: how many times it had to wait.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], *, cancel_at: int, moment: Moment) -> None:
        self._coroutine = coroutine
        self._cancel_at, self._moment = cancel_at, moment
        self.seen = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._coroutine.__await__()
        step = partial(inner.send, None)
        while True:
            try:
                awaited = step()
            except StopIteration as end:
                return end.value
            self.seen += 1
            if self.seen == self._cancel_at:
                self._arm(awaited)
            try:
                sent = yield awaited
            except BaseException as error:
                step = partial(inner.throw, error)
            else:
                step = partial(inner.send, sent)

    def _arm(self, awaited: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        if awaited is None or self._moment is Moment.WHILE_WAITING:
            asyncio.get_running_loop().call_soon(task.cancel)
        else:
            # Our callback is older than the task's own, so the task is cancelled before it is woken.
            awaited.add_done_callback(lambda _: task.cancel())


async def cancelled_at_every_await(start: Any, *, moment: Moment, finished: Any) -> int:
    """Cancel `start()` at its first await, then its second, until it gets through; says how many there were.

    Args:
        start: makes the coroutine.
        moment: when the cancellation comes.
        finished: called with the result of a run that was not cancelled in time.
    """
    for at in range(1, 200):
        awaits = Awaits(start(), cancel_at=at, moment=moment)

        async def run(awaits: Awaits = awaits) -> Any:
            return await awaits

        try:
            result = await asyncio.create_task(run())
        except asyncio.CancelledError:
            continue
        finished(result)
        if awaits.seen < at:
            return at - 1
    raise AssertionError("it never got through")
