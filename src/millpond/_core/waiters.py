"""The queue: who waits, in which order, until when. No clock: callers pass now."""

from __future__ import annotations

import enum
import heapq
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
    """Waiters in order of arrival, and their deadlines in a heap.

    Who leaves is only marked, in O(1); the mark is swept out when it reaches
    the front, when the dead outnumber the living, or when nobody waits any more.
    """

    __slots__ = ("_before", "_deadlines", "_order", "_ticket", "left", "live")

    def __init__(self) -> None:
        # Invariants: live == number of waiters in _order whose state is WAITING; their places go up.
        self._order: deque[Waiter] = deque()
        self._deadlines: list[Waiter] = []  # a heap, of those who have one
        self._ticket = count()
        self._before = count(-1, -1)
        self.live = 0
        self.left = 0  # how many were settled as LEFT, ever

    def __len__(self) -> int:
        return self.live

    def __iter__(self) -> Iterator[Waiter]:
        return (waiter for waiter in tuple(self._order) if waiter.state is WaiterState.WAITING)

    def join(self, waiter: Waiter, *, first: bool = False) -> None:
        """Add `waiter` at the back, in the place that it had before, or in front of everybody."""
        if first:
            waiter.place = next(self._before)
            self._order.appendleft(waiter)
        elif waiter.place is None:
            waiter.place = next(self._ticket)
            self._order.append(waiter)
        else:
            self._order.insert(self._rank(waiter.place), waiter)
        if waiter.deadline is not None:
            heapq.heappush(self._deadlines, waiter)
        self.live += 1

    def front(self) -> int:
        """A place in front of everybody, for who comes from another queue."""
        return next(self._before)

    def _rank(self, place: int) -> int:
        """How many stand before `place`; those who come back to theirs stand near the front."""
        for rank, other in enumerate(self._order):
            if other.place is not None and other.place > place:
                return rank
        return len(self._order)

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
        if len(self._order) - self.live > max(_COMPACT_ABOVE, self.live):
            self._order = deque(w for w in self._order if w.state is WaiterState.WAITING)
        if len(self._deadlines) - self.live > max(_COMPACT_ABOVE, self.live):
            self._forget_deadlines()

    def _forget_all(self) -> None:
        # Whoever has waited is known to hold a task, and what that holds may be a whole request.
        self._order.clear()
        self._deadlines.clear()

    def _forget_deadlines(self) -> None:
        self._deadlines = [each for each in self._deadlines if each.state is WaiterState.WAITING]
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

    def take(self) -> Waiter | None:
        """The one who is next, served: out of the queue. What `first` and `settle` do, at once."""
        waiter = self.first()
        if waiter is not None:
            self._order.popleft()
            waiter.state = WaiterState.SERVED
            self.live -= 1
            if not self.live:
                self._forget_all()
            if len(self._deadlines) > _COMPACT_ABOVE + 2 * self.live:
                self._forget_deadlines()
        return waiter

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
                return next((each.queued_at for each in self._order if each.is_waiting), None)
            except RuntimeError:  # another thread changed the queue meanwhile
                continue
        return None

    @property
    def next_deadline(self) -> float | None:
        """The earliest deadline of those who wait."""
        deadlines = self._deadlines
        while deadlines and deadlines[0].state is not WaiterState.WAITING:
            heapq.heappop(deadlines)
        return deadlines[0].deadline if deadlines else None

    def expired(self, now: float) -> list[Waiter]:
        """Those whose deadline has come, earliest first; they are still in the queue."""
        late: list[Waiter] = []
        while (due := self.next_deadline) is not None and due <= now:
            waiter = heapq.heappop(self._deadlines)
            if waiter.is_waiting:
                late.append(waiter)
        return late
