"""One driver call, in a task of its own, under a timeout, that ends exactly once.

Everything that may wait for the outside world runs through here, so that no
borrower's cancellation reaches a driver and no driver can hold up the pool.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Iterator
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from millpond._core.alarm import STALLED_S, Alarm
from millpond._core.whereabouts import clock_of
from millpond.status import PoolState

if TYPE_CHECKING:
    from millpond._core.pool import ConnectionPool
    from millpond._core.slot import Slot

T = TypeVar("T")
logger = logging.getLogger("millpond")

GRACE_S: Final = 1.0
"""How long (seconds) a cancelled call may take to end before it is abandoned."""

FAULTS: Final = (Exception, asyncio.CancelledError)
"""What a plain function of a driver or listener may raise by mistake.

Nobody cancels a plain function: its CancelledError comes from looking at a task that was cancelled.
"""


class CallTimeout(TimeoutError):
    """A driver call took longer than it may."""


class Call(Generic[T]):
    """A driver call under way; made by `Calls.start`. Due at `due`, by the loop's clock.

    `on_end(call, result, error)` is called exactly once: with the result, with
    the error, or with `CallTimeout`. A call that ignores its cancellation for
    `GRACE_S` is abandoned: `on_end` is called then.

    `in_passing`, where somebody has set it, is asked first about a call that
    ended well and in time: True when it has seen to everything, and `on_end`
    is not called.
    """

    __slots__ = ("_calls", "_loop", "_task", "_timeout", "_timer", "aborted", "due", "ended", "in_passing",
                 "on_end", "slot", "started_at", "timed_out", "verb")  # fmt: skip

    def __init__(
        self,
        calls: Calls,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, T],
        *,
        verb: str,
        slot: Slot,
        timeout: float,
        on_end: Callable[[Call[T], T | None, BaseException | None], None],
    ) -> None:
        self._calls = calls
        self._loop = loop
        self._timeout = timeout
        self.on_end = on_end
        self.verb = verb
        self.slot = slot
        self.ended = False
        self.timed_out = False
        self.aborted = False
        self.in_passing: Callable[[Call[T]], bool] | None = None
        self.started_at = clock_of(loop)()
        self.due = self.started_at + timeout
        self._timer: asyncio.TimerHandle | None = None
        name = f"millpond {calls.pool_name}: {verb} {slot.number}"
        empty = Context()
        # Not loop.create_task: an eager task factory would run driver code inside our bookkeeping.
        self._task = asyncio.Task(coroutine, loop=loop, name=name, context=empty)
        self._task.add_done_callback(self._finished, context=empty)

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
        if now < self.due:
            return self.due
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
        self.due = self._loop.time() + GRACE_S
        self._timer = self._loop.call_at(self.due, self._abandon, context=Context())

    def _overdue(self) -> None:
        if self._task.done():
            return  # it ended in this very turn; _finished is about to say so
        now = self._loop.time()
        if now - self.due > STALLED_S:
            # The loop stood still: the answer may lie in the socket's buffer. Ask again.
            self.due = now + self._timeout
            self._timer = self._loop.call_at(self.due, self._overdue, context=Context())
            return
        self.timed_out = True
        self._cancel_task()

    def _abandon(self) -> None:
        if self._task.done():
            return  # as above
        now = self._loop.time()
        if now - self.due > STALLED_S:
            self.due = now + GRACE_S
            self._timer = self._loop.call_at(self.due, self._abandon, context=Context())
            return
        self._timer = None
        self.ended = True
        self._calls.on_end(self, None, self._timeout_error())

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
            self._calls.on_late(self, result)
            return
        self.ended = True
        if error is None and not self.timed_out and self.in_passing is not None and self.in_passing(self):
            return
        self._calls.on_end(self, result, error)

    def _timeout_error(self) -> CallTimeout:
        return CallTimeout(f"{self.verb} took longer than {self._timeout:g} s")


class Calls:
    """Every driver call of one pool that is under way, abandoned ones too.

    Attributes:
        pool_name: whose they are.
        abandoned: how many were given up and still run.
    """

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self._pool = pool
        self.pool_name = pool.name
        self._under_way: dict[int, Call[Any]] = {}
        # One timer for all: one for each of many short calls would cost more than the rest of them.
        self._alarm: Alarm | None = None
        self.abandoned = 0

    def __iter__(self) -> Iterator[Call[Any]]:
        return iter(self._under_way.values())

    def __len__(self) -> int:
        return len(self._under_way)

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """This is the loop in which they run."""
        self._alarm = Alarm(loop, self._look)

    def start(
        self,
        coroutine: Coroutine[Any, Any, T],
        *,
        verb: str,
        slot: Slot,
        timeout: float,
        on_end: Callable[[Call[T], T | None, BaseException | None], None],
    ) -> Call[T]:
        """Begin a call, which may take `timeout` seconds."""
        loop = self._pool._loop
        assert loop is not None  # noqa: S101 - bound before anything is opened
        assert self._alarm is not None  # noqa: S101 - likewise
        call = Call(self, loop, coroutine, verb=verb, slot=slot, timeout=timeout, on_end=on_end)
        self._under_way[id(call)] = call
        self._alarm.set(call.due)
        return call

    def forget(self, call: Call[Any]) -> None:
        """It has ended."""
        del self._under_way[id(call)]

    def on_end(self, call: Call[T], result: T | None, error: BaseException | None) -> None:
        """A call has ended, or is given up."""
        if call.is_running:
            self.abandoned += 1
            logger.warning("%s: %s of connection %d abandoned", self.pool_name, call.verb, call.slot.number)
        else:
            self._under_way.pop(id(call), None)
        call.on_end(call, result, error)
        self.rest()
        self._pool._announcer.settle()

    def rest(self) -> None:
        """Leave no timer behind in a pool that is not at work."""
        if not self._under_way and self._pool.state is not PoolState.OPEN:
            self.stop()

    def on_late(self, call: Call[Any], result: Any) -> None:
        """One that was given up has ended at last, with what it brought (None after an error)."""
        pool = self._pool
        self.abandoned -= 1
        self._under_way.pop(id(call), None)
        if call.verb == "connect" and result is not None and id(result) not in pool._ledger.by_id:
            pool._keeper.terminate(result)
        pool._announcer.settle()

    def stop(self) -> None:
        """Leave no timer behind."""
        if self._alarm is not None:
            self._alarm.cancel()

    def drop(self) -> None:
        """The loop is gone, and they with it."""
        self._under_way.clear()

    def _look(self, _late: float) -> None:
        now = self._pool._now()
        due = min((call.look(now) for call in list(self)), default=math.inf)
        if due < math.inf and self._alarm is not None:
            self._alarm.set(due)
