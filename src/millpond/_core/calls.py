"""One driver call, in a task of its own, under a timeout, that ends exactly once.

Everything that may wait for the outside world runs through here, so that no
borrower's cancellation reaches a driver and no driver can hold up the pool.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Final, Generic, TypeVar

from millpond._core.alarm import STALLED_S, Alarm
from millpond._core.whereabouts import clock_of

T = TypeVar("T")

GRACE_S: Final = 1.0
"""How long (seconds) a cancelled call may take to end before it is abandoned."""

FAULTS: Final = (Exception, asyncio.CancelledError)
"""What a plain function of a driver or listener may raise by mistake.

Nobody cancels a plain function: its CancelledError comes from looking at a task that was cancelled.
"""


class CallTimeout(TimeoutError):
    """A driver call took longer than it may."""


class Call(Generic[T]):
    """A driver call under way.

    `on_end(call, result, error)` is called exactly once: with the result, with
    the error, or with `CallTimeout`. A call that ignores its cancellation for
    `GRACE_S` is abandoned: `on_end` is called then, and `on_late(call, result)`
    whenever the task does end, with what it brought (None after an error).

    `alarm` is set to when it is due, and must call `look` then: a timer for
    each of many short calls would cost more than the rest of them.

    `in_passing`, where somebody has set it, is asked first about a call that
    ended well and in time: True when it has seen to everything, and `on_end`
    is not called.
    """

    __slots__ = ("_due", "_loop", "_on_end", "_on_late", "_task", "_timeout", "_timer", "aborted", "ended",
                 "in_passing", "started_at", "timed_out", "verb")  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, T],
        *,
        verb: str,
        name: str,
        timeout: float,
        alarm: Alarm,
        on_end: Callable[[Call[T], T | None, BaseException | None], None],
        on_late: Callable[[Call[T], T | None], None],
    ) -> None:
        self._loop = loop
        self._timeout = timeout
        self._on_end = on_end
        self._on_late = on_late
        self.verb = verb
        self.ended = False
        self.timed_out = False
        self.aborted = False
        self.in_passing: Callable[[Call[T]], bool] | None = None
        self.started_at = clock_of(loop)()
        self._due = self.started_at + timeout
        empty = Context()
        # Not loop.create_task: an eager task factory would run driver code inside our bookkeeping.
        self._task = asyncio.Task(coroutine, loop=loop, name=name, context=empty)
        self._task.add_done_callback(self._finished, context=empty)
        self._timer: asyncio.TimerHandle | None = None
        alarm.set(self._due)

    @property
    def was_cancelled_from_outside(self) -> bool:
        """True when its task was cancelled by neither `abort` nor a timeout: as the end of a loop does.

        A driver that raises CancelledError although nobody asked it to has failed, no more.
        """
        was_asked = self._task.cancelling() > 0
        return was_asked and self._task.cancelled() and not self.aborted and not self.timed_out

    @property
    def is_running(self) -> bool:
        """True while the driver has not let go; after `on_end`, that is an abandoned call."""
        return not self._task.done()

    def look(self, now: float) -> float:
        """The alarm went off: time out what is due. Answers when to look again; infinity: never."""
        if self._timer is not None or self.ended or self.aborted:
            return math.inf  # it has a timer of its own by now, or needs none
        if now < self._due:
            return self._due
        self._overdue()
        return math.inf

    def abort(self) -> None:
        """Cancel it: nobody wants the result any more. `on_end` follows as ever."""
        if self.ended or self.aborted:
            return
        self.aborted = True
        if not self.timed_out:  # or it would get its time to end twice
            self._cancel_task()

    def _cancel_task(self) -> None:
        self._task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._due = self._loop.time() + GRACE_S
        self._timer = self._loop.call_at(self._due, self._abandon, context=Context())

    def _overdue(self) -> None:
        if self._task.done():
            return  # it ended in this very turn; _finished is about to say so
        now = self._loop.time()
        if now - self._due > STALLED_S:
            # The loop stood still: the answer may lie in the socket's buffer. Ask again.
            self._due = now + self._timeout
            self._timer = self._loop.call_at(self._due, self._overdue, context=Context())
            return
        self.timed_out = True
        self._cancel_task()

    def _abandon(self) -> None:
        if self._task.done():
            return  # as above
        now = self._loop.time()
        if now - self._due > STALLED_S:
            self._due = now + GRACE_S
            self._timer = self._loop.call_at(self._due, self._abandon, context=Context())
            return
        self._timer = None
        self.ended = True
        self._on_end(self, None, self._timeout_error())

    def _finished(self, task: asyncio.Task[T]) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        result: T | None = None
        error: BaseException | None = None
        if task.cancelled():
            error = self._timeout_error() if self.timed_out else asyncio.CancelledError()
        else:
            error = task.exception()
            if error is None:
                result = task.result()
        if self.ended:
            self._on_late(self, result)
            return
        self.ended = True
        if error is None and not self.timed_out and self.in_passing is not None and self.in_passing(self):
            return
        self._on_end(self, result, error)

    def _timeout_error(self) -> CallTimeout:
        return CallTimeout(f"{self.verb} took longer than {self._timeout:g} s")
