"""Those who have to wait: they queue, are served, run out of time, leave, or move to another pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from millpond._core.alarm import STALLED_S
from millpond._core.opening import HEDGE_S
from millpond._core.waiters import Waiter, WaiterState
from millpond.errors import PoolExhausted
from millpond.events import EventKind
from millpond.status import PoolState

if TYPE_CHECKING:
    from millpond._core.lease import Hold
    from millpond._core.pool import ConnectionPool
    from millpond._core.reporting import Snapshot


class Waiting:
    """This looks after the queue of one pool."""

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self._pool = pool

    def join(
        self, hold: Hold[Any], began: float, deadline: float | None, *, place: int | None = None
    ) -> Waiter:
        """Queue, unless there is nothing to wait for; start whatever a waiter needs.

        The waiter's future brings None once `hold.slot` is set, or the error to raise.

        Args:
            hold: of the borrower.
            began: when it asked first.
            deadline: when it gives up.
            place: the one in the queue that it had before.
        """
        pool = self._pool
        ledger = pool._ledger
        now = pool._now()
        ledger.queued += 1
        if (refusal := self._refusal(now)) is not None:
            ledger.refused += 1
            if place is not None:
                pool._pump()  # the place of the connection that it was given, and that was lost, is free
            pool._announcer.settle()
            raise refusal
        waiter = Waiter(hold, pool._new_future(), began, deadline, place)
        ledger.queue(waiter)
        pool._pump()
        if not waiter.future.done():
            if deadline is not None and now >= deadline:
                self.time_out(waiter, now)
            elif place is None and self._is_queue_full():
                self._turn_away(waiter)
            else:
                pool._announcer.tell(EventKind.WAITING)
                if deadline is not None and pool._deadlines is not None:
                    pool._deadlines.set(deadline)
        pool._announcer.settle()
        return waiter

    def join_plainly(self, hold: Hold[Any], now: float, deadline: float | None) -> Waiter:
        """Queue, where nothing can come of that but to be served, to leave or to run out of time."""
        pool = self._pool
        pool._ledger.queued += 1
        waiter = Waiter(hold, pool._new_future(), now, deadline)
        pool._queue.join(waiter)
        if deadline is not None:
            if now >= deadline:
                self.time_out(waiter, now)
            elif pool._deadlines is not None and deadline < pool._deadlines.due:
                pool._deadlines.set(deadline)
        return waiter

    def _turn_away(self, waiter: Waiter) -> None:
        pool = self._pool
        pool._ledger.refused += 1
        pool._ledger.settle(waiter, WaiterState.FAILED)
        most = pool.settings.max_waiting or 0
        error = PoolExhausted(pool.name, max_waiting=most, status=pool.status(), retry_after=1.0)
        waiter.future.set_result(error)

    def _refusal(self, now: float) -> BaseException | None:
        pool = self._pool
        if pool.state in (PoolState.CLOSING, PoolState.CLOSED):
            return pool._closed_error(pool.state.value)
        if pool.state is PoolState.PAUSED and pool._pause_mode == "refuse":
            return pool._closed_error("paused")
        if pool.state is PoolState.OPEN and pool._opener.breaker.is_open and not pool._ledger.live:
            return pool._opener.circuit_error(now)
        return None

    def _is_queue_full(self) -> bool:
        pool = self._pool
        most = pool.settings.max_waiting
        coming = pool._ledger.opening * pool._ledger.leases_per_connection + pool._tender.pinging
        return most is not None and pool._ledger.waiters.live - coming > most

    def forsake(self, waiter: Waiter) -> None:
        """The borrower was cancelled, or its coroutine closed: whatever it got goes to the next."""
        pool = self._pool
        if pool._loop is not None and pool._loop.is_closed():
            return  # collected after the end: there is no next, and nothing to run it on
        if waiter.state is WaiterState.SERVED:
            pool._lender.take_back(waiter.hold)
            pool._ledger.left_early += 1
        elif waiter.state is WaiterState.WAITING:
            pool._ledger.settle(waiter, WaiterState.LEFT)
        pool._pump()
        pool._announcer.settle()

    def on_deadline(self, late: float) -> None:
        """The timer of the earliest deadline went off, `late` seconds after it was due."""
        pool = self._pool
        now = pool._now()
        ledger = pool._ledger
        due = ledger.waiters.next_deadline
        if late > STALLED_S and due is not None and pool._deadlines is not None:
            # The loop stood still: what they wait for may be a few turns away. Ask again.
            pool._deadlines.set(now + HEDGE_S)
            return
        expired = ledger.waiters.expired(now)
        snapshot = pool._snapshot() if expired else None
        for waiter in expired:
            self.time_out(waiter, now, snapshot)
        due = ledger.waiters.next_deadline
        if due is not None and pool._deadlines is not None:
            pool._deadlines.set(due)
        pool._pump()
        pool._announcer.settle()

    def time_out(self, waiter: Waiter, now: float, snapshot: Snapshot | None = None) -> None:
        """Its deadline has come; the error says why, and who holds what."""
        pool = self._pool
        waited = now - waiter.queued_at
        error = pool._timeout_error(waited, pool._why_waiting(), snapshot)
        pool._ledger.timed_out += 1
        pool._ledger.settle(waiter, WaiterState.FAILED)
        pool._wait_times.record(waited)
        pool._announcer.tell(EventKind.TIMED_OUT, seconds=waited)
        waiter.future.set_result(error)

    def fail_refused(self) -> None:
        """A pool that refuses newcomers refuses those who were handed to it."""
        now = self._pool._now()
        while self._pool._ledger.waiters.first() is not None and (refusal := self._refusal(now)) is not None:
            self._fail_first(refusal)

    def _fail_first(self, error: BaseException) -> None:
        ledger = self._pool._ledger
        if (waiter := ledger.waiters.first()) is not None:
            ledger.refused += 1
            ledger.settle(waiter, WaiterState.FAILED)
            waiter.future.set_result(error)

    def fail_all(self, error: Callable[[], BaseException]) -> None:
        """Nobody may wait any more."""
        while self._pool._ledger.waiters.first() is not None:
            self._fail_first(error())

    def hand_over(self, heir: ConnectionPool[Any]) -> None:
        """Move everybody who waits to `heir`, ahead of those who wait there; order and deadline kept.

        Raises:
            WrongLoop: `heir` belongs to another event loop; nobody has moved.
        """
        heir._enter()
        pool = self._pool
        moving = pool._ledger.waiters.let_go()
        pool._ledger.queued -= len(moving)
        for waiter in reversed(moving):
            waiter.hold.pool = heir
            heir._ledger.queued += 1
            heir._ledger.queue(waiter, first=True)
        heir._waiting.fail_refused()
        due = heir._ledger.waiters.next_deadline
        if due is not None and heir._deadlines is not None:
            heir._deadlines.set(due)
        heir._pump()
        heir._announcer.settle()
        pool._pump()
        pool._announcer.settle()
