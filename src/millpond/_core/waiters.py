"""The queue: who waits, in which order, until when. No clock: callers pass now."""

from __future__ import annotations

import enum
import heapq
from collections import deque
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncio

    from millpond._core.lease import Hold

_COMPACT_ABOVE: Final = 64
"""Dead entries are swept out when they outnumber both the live ones and this."""


class WaiterState(enum.Enum):
    """How far a waiter has come."""

    WAITING = "waiting"  # in the queue
    SERVED = "served"  # its hold has a slot; the borrower has not run yet
    FAILED = "failed"  # its future carries the error
    LEFT = "left"  # cancelled, or its coroutine was closed


class Waiter:
    """One acquire that has to wait its turn.

    The future is resolved with None (the hold has a slot) or with the error to
    raise: an exception set on a future nobody awaits any more would be logged.
    """

    __slots__ = ("deadline", "future", "hold", "queued_at", "state")

    def __init__(
        self,
        hold: Hold[Any],
        future: asyncio.Future[BaseException | None],
        queued_at: float,
        deadline: float | None,
    ) -> None:
        self.hold = hold
        self.future = future
        self.queued_at = queued_at
        self.deadline = deadline
        self.state = WaiterState.WAITING

    @property
    def is_waiting(self) -> bool:
        """True while it can be served; a cancelled future tells before its task has run."""
        return self.state is WaiterState.WAITING and not self.future.done()


class WaitQueue:
    """Waiters in order of arrival, and their deadlines in a heap.

    Who leaves is only marked, in O(1); the mark is swept out when it reaches
    the front, or when the dead outnumber the living.
    """

    __slots__ = ("_deadlines", "_order", "_ticket", "left", "live")

    def __init__(self) -> None:
        # Invariant: live == number of waiters in _order whose state is WAITING.
        self._order: deque[Waiter] = deque()
        self._deadlines: list[tuple[float, int, Waiter]] = []
        self._ticket = count()
        self.live = 0
        self.left = 0  # how many were settled as LEFT, ever

    def __len__(self) -> int:
        return self.live

    def __iter__(self) -> Iterator[Waiter]:
        return (waiter for waiter in tuple(self._order) if waiter.state is WaiterState.WAITING)

    def join(self, waiter: Waiter, *, first: bool = False) -> None:
        """Add `waiter` at the back, or at the front when it held that place before."""
        if first:
            self._order.appendleft(waiter)
        else:
            self._order.append(waiter)
        if waiter.deadline is not None:
            heapq.heappush(self._deadlines, (waiter.deadline, next(self._ticket), waiter))
        self.live += 1

    def settle(self, waiter: Waiter, state: WaiterState) -> None:
        """Take `waiter` out of the queue, with what became of it."""
        waiter.state = state
        self.live -= 1
        if state is WaiterState.LEFT:
            self.left += 1
        if len(self._order) - self.live > max(_COMPACT_ABOVE, self.live):
            self._order = deque(w for w in self._order if w.state is WaiterState.WAITING)
        if len(self._deadlines) - self.live > max(_COMPACT_ABOVE, self.live):
            self._deadlines = [entry for entry in self._deadlines if entry[2].state is WaiterState.WAITING]
            heapq.heapify(self._deadlines)

    def first(self) -> Waiter | None:
        """The one who is next; the only place that chooses.

        A task that was cancelled a moment ago and has not run since is no
        longer waiting: it is settled here, so that it cannot swallow a turn.
        """
        order = self._order
        while order:
            waiter = order[0]
            if waiter.is_waiting:
                return waiter
            order.popleft()
            if waiter.state is WaiterState.WAITING:
                self.settle(waiter, WaiterState.LEFT)
        return None

    @property
    def oldest_at(self) -> float | None:
        """When the one who is next joined."""
        waiter = self.first()
        return None if waiter is None else waiter.queued_at

    def waiting_since(self) -> float | None:
        """Like `oldest_at`, but only looks: for status, from any thread."""
        for _ in range(3):
            try:
                return next((each.queued_at for each in self._order if each.is_waiting), None)
            except RuntimeError:  # another thread changed the queue meanwhile
                continue
        return None

    @property
    def next_deadline(self) -> float | None:
        """The earliest deadline of those who wait."""
        deadlines = self._deadlines
        while deadlines and deadlines[0][2].state is not WaiterState.WAITING:
            heapq.heappop(deadlines)
        return deadlines[0][0] if deadlines else None

    def expired(self, now: float) -> list[Waiter]:
        """Those whose deadline has come, earliest first; they are still in the queue."""
        late: list[Waiter] = []
        while (due := self.next_deadline) is not None and due <= now:
            waiter = heapq.heappop(self._deadlines)[2]
            if waiter.is_waiting:
                late.append(waiter)
        return late
