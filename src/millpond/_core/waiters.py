"""The queue: who waits, in which order, until when. No clock: callers pass now."""

from __future__ import annotations

import enum
import heapq
import math
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from millpond.errors import InvariantBroken

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


LEGAL: Final[Mapping[WaiterState, frozenset[WaiterState]]] = {
    WaiterState.WAITING: frozenset({WaiterState.SERVED, WaiterState.FAILED, WaiterState.LEFT}),
    WaiterState.SERVED: frozenset(),
    WaiterState.FAILED: frozenset(),
    WaiterState.LEFT: frozenset(),
}
# Who is served and finds the connection dead asks again as a new waiter, in the old place.


_WAITING: Final = WaiterState.WAITING
_SERVED: Final = WaiterState.SERVED


class Waiter:
    """One acquire that has to wait its turn.

    The future is resolved with None (the hold has a slot) or with the error to
    raise: an exception set on a future nobody awaits any more would be logged.
    `place` is its rank in the queue; who has to ask again brings the one it had.
    """

    __slots__ = ("deadline", "future", "hold", "place", "queued_at", "state")

    def __init__(
        self,
        hold: Hold[Any],
        future: asyncio.Future[BaseException | None],
        queued_at: float,
        deadline: float | None,
        place: int | None = None,
    ) -> None:
        self.hold = hold
        self.place = place
        self.future = future
        self.queued_at = queued_at
        self.deadline = deadline
        self.state = WaiterState.WAITING

    def __lt__(self, other: Waiter) -> bool:
        """Earlier deadline, then earlier place: for the heap of those who have one."""
        mine, theirs = self.deadline or 0.0, other.deadline or 0.0
        return mine < theirs or (mine == theirs and (self.place or 0) < (other.place or 0))

    @property
    def is_waiting(self) -> bool:
        """True while it can be served; a cancelled future tells before its task has run."""
        return self.state is WaiterState.WAITING and not self.future.done()


class WaitQueue:
    """Waiters in order of arrival, and their deadlines: those that came in order in a line, others in a heap.

    Who leaves is only marked, in O(1); the mark is swept out when it reaches
    the front, when the dead outnumber the living, or when nobody waits any more.

    Attributes:
        order: the waiters; some may have been settled.
        live: how many wait.
        left: how many were settled as LEFT, ever.
    """

    __slots__ = ("_before", "_heap", "_last_due", "_line", "_ticket", "left", "live", "order")

    def __init__(self) -> None:
        # Invariants: live == number of waiters in order whose state is WAITING; their places go up.
        self.order: deque[Waiter] = deque()
        # Of those who have a deadline. Most borrowers wait equally long, so that they run out of time
        # in the order in which they came; only who does not costs comparisons.
        self._line: deque[Waiter] = deque()
        self._heap: list[Waiter] = []
        self._last_due = -math.inf  # of those in the line
        self._ticket = count()
        self._before = count(-1, -1)
        self.live = 0
        self.left = 0

    def __len__(self) -> int:
        return self.live

    def __iter__(self) -> Iterator[Waiter]:
        return (waiter for waiter in tuple(self.order) if waiter.state is WaiterState.WAITING)

    def join(self, waiter: Waiter, *, first: bool = False) -> None:
        """Add `waiter` at the back, in the place that it had before, or in front of everybody."""
        if first:
            waiter.place = next(self._before)
            self.order.appendleft(waiter)
        elif waiter.place is None:
            waiter.place = next(self._ticket)
            self.order.append(waiter)
        else:
            self.order.insert(self._rank(waiter.place), waiter)
        deadline = waiter.deadline
        if deadline is not None:
            if deadline >= self._last_due:
                self._last_due = deadline
                self._line.append(waiter)
            else:
                heapq.heappush(self._heap, waiter)
        self.live += 1

    def front(self) -> int:
        """A place in front of everybody, for who comes from another queue."""
        return next(self._before)

    def _rank(self, place: int) -> int:
        """How many stand before `place`; those who come back to theirs stand near the front."""
        for rank, other in enumerate(self.order):
            if other.place is not None and other.place > place:
                return rank
        return len(self.order)

    def settle(self, waiter: Waiter, state: WaiterState) -> None:
        """Take `waiter` out of the queue, with what became of it."""
        if waiter.state is not WaiterState.WAITING:
            raise InvariantBroken(f"waiter {waiter.state.value} -> {state.value}")
        waiter.state = state
        self.live -= 1
        if state is WaiterState.LEFT:
            self.left += 1
        if not self.live:
            self._forget_all()
        if len(self.order) - self.live > max(_COMPACT_ABOVE, self.live):
            waiting = [each for each in self.order if each.state is WaiterState.WAITING]
            self.order.clear()  # in place: the hot path looks at this very object
            self.order.extend(waiting)
        if self.deadlines_kept - self.live > max(_COMPACT_ABOVE, self.live):
            self._forget_deadlines()

    @property
    def deadlines_kept(self) -> int:
        """How many deadlines it remembers, those of the settled included."""
        return len(self._line) + len(self._heap)

    def _forget_all(self) -> None:
        # Whoever has waited is known to hold a task, and what that holds may be a whole request.
        self.order.clear()
        self._line.clear()
        self._heap.clear()
        self._last_due = -math.inf

    def _forget_deadlines(self) -> None:
        self._line = deque(each for each in self._line if each.state is WaiterState.WAITING)
        self._heap = [each for each in self._heap if each.state is WaiterState.WAITING]
        heapq.heapify(self._heap)

    def first(self) -> Waiter | None:
        """The one who is next; the only place that chooses.

        A task that was cancelled a moment ago and has not run since is no
        longer waiting: it is settled here, so that it cannot swallow a turn.
        """
        order = self.order
        while order:
            waiter = order[0]
            if waiter.is_waiting:
                return waiter
            order.popleft()
            if waiter.state is WaiterState.WAITING:
                self.settle(waiter, WaiterState.LEFT)
        return None

    def take(self) -> Waiter | None:
        """The one who is next, served: out of the queue. What `first` and `settle` do, at once."""
        order = self.order
        while order:
            waiter = order.popleft()
            if waiter.state is not _WAITING:
                continue
            if waiter.future.done():  # cancelled; see first()
                self.settle(waiter, WaiterState.LEFT)
                continue
            waiter.state = _SERVED
            self.live -= 1
            if not self.live:
                self._forget_all()
            elif (line := self._line) and line[0] is waiter:
                line.popleft()
            elif self.deadlines_kept > _COMPACT_ABOVE + 2 * self.live:
                self._forget_deadlines()
            return waiter
        return None

    def let_go(self) -> list[Waiter]:
        """Those who wait, in their order: from now on they and their deadlines are another queue's."""
        for waiter in self:
            if not waiter.is_waiting:
                self.settle(waiter, WaiterState.LEFT)
        moving = list(self)
        self._forget_all()
        self.live = 0
        return moving

    @property
    def oldest_at(self) -> float | None:
        """When the one who is next joined."""
        waiter = self.first()
        return None if waiter is None else waiter.queued_at

    def waiting_since(self) -> float | None:
        """Like `oldest_at`, but only looks: for status, from any thread."""
        for _ in range(3):
            try:
                return next((each.queued_at for each in self.order if each.is_waiting), None)
            except RuntimeError:  # another thread changed the queue meanwhile
                continue
        return None

    @property
    def next_deadline(self) -> float | None:
        """The earliest deadline of those who wait."""
        waiter = self._next_due()
        return None if waiter is None else waiter.deadline

    def _next_due(self) -> Waiter | None:
        line, heap = self._line, self._heap
        while line and line[0].state is not _WAITING:
            line.popleft()
        while heap and heap[0].state is not _WAITING:
            heapq.heappop(heap)
        if line and heap:
            return min(line[0], heap[0])
        return line[0] if line else heap[0] if heap else None

    def expired(self, now: float) -> list[Waiter]:
        """Those whose deadline has come, earliest first; they are still in the queue."""
        late: list[Waiter] = []
        while (waiter := self._next_due()) is not None and (waiter.deadline or 0.0) <= now:
            if self._line and waiter is self._line[0]:
                self._line.popleft()
            else:
                heapq.heappop(self._heap)
            if waiter.is_waiting:
                late.append(waiter)
        return late
