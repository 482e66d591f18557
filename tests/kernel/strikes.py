"""Every way in which an operation is torn away from its caller while it waits."""

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

import anyio

from tests.kernel.operations import Operation
from tests.kernel.stage import Stage


class Attempt:
    """One operation, watched from inside.

    Attributes:
        is_begun: its first line has run.
        is_over: its last line has run.
        error: what it ended in; None: it came to its end.
    """

    def __init__(self, operation: Operation, stage: Stage) -> None:
        self._operation = operation
        self._stage = stage
        self.is_begun = self.is_over = False
        self.error: BaseException | None = None
        self.begun = asyncio.get_running_loop().create_future()

    @property
    def is_suspended(self) -> bool:
        """It waits for something."""
        return self.is_begun and not self.is_over

    async def run(self) -> None:
        """Do it."""
        self.is_begun = True
        self.begun.set_result(None)
        try:
            await self._operation.run(self._stage)
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.is_over = True

    @property
    def was_cancelled(self) -> bool:
        """The cancellation came through to its caller."""
        return isinstance(self.error, asyncio.CancelledError)


class Strike:
    """One way. Made anew for each attempt.

    Attributes:
        name: in words.
        is_in_time: its point is an instant, chosen before the attempt begins, not a step of the loop.
    """

    name: ClassVar[str]
    is_in_time: ClassVar[bool] = False

    def __init__(self, attempt: Attempt, when: float | None) -> None:
        self.attempt = attempt
        self.when = when
        self.task: asyncio.Future[Any] = self.launch()

    def launch(self) -> asyncio.Future[Any]:
        """Begin the attempt; what is returned is done when it is."""
        return asyncio.create_task(self.attempt.run(), name="attacked")

    def strike(self) -> None:
        """Tear it away."""
        raise NotImplementedError

    def again(self) -> None:
        """Called before each later step, while the attempt is not over."""

    def judge(self) -> None:
        """After a strike: was it heard?"""
        raise NotImplementedError


class Cancel(Strike):
    """`task.cancel()`."""

    name = "cancelled"

    def strike(self) -> None:
        assert self.task.cancel()

    def judge(self) -> None:
        assert self.task.cancelled(), f"the cancellation was swallowed: {self.attempt.error!r}"


class CancelAgainAndAgain(Cancel):
    """`task.cancel()` twice, and once more before each further step until it is over."""

    name = "cancelled again and again"

    def strike(self) -> None:
        self.task.cancel()
        self.task.cancel()

    def again(self) -> None:
        self.task.cancel()


class Close(Strike):
    """The coroutine is closed, as when its owner is collected: it never was in a task."""

    name = "closed"

    def launch(self) -> asyncio.Future[Any]:
        self.coroutine = self.attempt.run()
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(self._step)
        return self.end

    def _step(self, _: object = None) -> None:
        if self.end.done():
            return
        try:
            awaited = self.coroutine.send(None)
        except (StopIteration, Exception) as error:
            self.end.set_result(None if isinstance(error, StopIteration) else error)
            return
        if awaited is None:
            asyncio.get_running_loop().call_soon(self._step)
        else:
            awaited._asyncio_future_blocking = False
            awaited.add_done_callback(self._step)

    def strike(self) -> None:
        self.coroutine.close()
        self.end.set_result(None)

    def judge(self) -> None:
        assert isinstance(self.attempt.error, GeneratorExit), f"it went on: {self.attempt.error!r}"


class TimeOut(Strike):
    """`asyncio.timeout_at()` around it."""

    name = "under asyncio.timeout"
    is_in_time = True

    def launch(self) -> asyncio.Future[Any]:
        return asyncio.create_task(self._run(), name="attacked")

    async def _run(self) -> None:
        self.scope = asyncio.timeout_at(self.when)
        async with self.scope:
            await self.attempt.run()

    def judge(self) -> None:
        if self.scope.expired():
            assert self.attempt.was_cancelled, f"the timeout was swallowed: {self.attempt.error!r}"
            assert isinstance(_error_of(self.task), TimeoutError)
        else:
            assert not self.attempt.was_cancelled


class _SiblingFailed(Exception):
    pass


class FailSibling(Strike):
    """Another task of its `TaskGroup` fails."""

    name = "in a task group whose other task fails"

    def launch(self) -> asyncio.Future[Any]:
        self.fate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        return asyncio.create_task(self._run(), name="group")

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sibling(), name="sibling")
            attacked = group.create_task(self.attempt.run(), name="attacked")
            attacked.add_done_callback(lambda _: self.fate.done() or self.fate.set_result(None))

    async def _sibling(self) -> None:
        await self.fate

    def strike(self) -> None:
        self.fate.set_exception(_SiblingFailed())

    def judge(self) -> None:
        # The sibling's failure takes some turns of the loop to become a cancellation: until then the
        # operation may come to its own end, and its own error may cancel the sibling instead.
        error = _error_of(self.task)
        assert isinstance(error, BaseExceptionGroup)
        own = None if self.attempt.was_cancelled else self.attempt.error
        assert all(each is own or isinstance(each, _SiblingFailed) for each in error.exceptions), error


class CancelScope(Strike):
    """An anyio scope, which cancels again at each await until it has been left."""

    name = "under an anyio scope"

    def launch(self) -> asyncio.Future[Any]:
        return asyncio.create_task(self._run(), name="attacked")

    async def _run(self) -> None:
        with anyio.CancelScope() as self.scope:
            await self.attempt.run()

    def strike(self) -> None:
        self.scope.cancel()

    def judge(self) -> None:
        # What was about to run may come to its own end first: anyio cancels who waits.
        assert self.scope.cancelled_caught is self.attempt.was_cancelled
        assert _error_of(self.task) is (None if self.attempt.was_cancelled else self.attempt.error)


def _error_of(task: asyncio.Future[Any]) -> BaseException | None:
    return None if task.cancelled() else task.exception()


STRIKES: tuple[Callable[[Attempt, float | None], Strike], ...] = (
    Cancel, CancelAgainAndAgain, Close, TimeOut, FailSibling, CancelScope,
)  # fmt: skip
