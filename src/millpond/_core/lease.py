"""What a borrower holds: the object `acquire()` returns, and the lease with an identity."""

from __future__ import annotations

import asyncio
from asyncio import _get_running_loop as running_loop
from asyncio import current_task
from bisect import bisect_left
from collections.abc import Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from millpond._core.slot import Slot, SlotState
from millpond.driver import Verdict
from millpond.errors import ReleaseError
from millpond.settings import Timeout
from millpond.status import BUCKETS

if TYPE_CHECKING:
    from millpond._core.pool import ConnectionPool

C = TypeVar("C")

_BUSY: Final = SlotState.BUSY
_IDLE: Final = SlotState.IDLE
_KEEP: Final = Verdict.KEEP
_SPENT: Final = Slot(0, -1)  # stands in `slot` once a lease is over: a lease is used once


class Hold(Generic[C]):
    """One borrower's hold on one connection, from acquire to release.

    Attributes:
        pool: the pool it is (or will be) served by; waiters can move to another.
        slot: the place held; None before.
        since: when the lease began.
        task: the task that began it, or None outside of one.
        number: counts the pool's leases, from 1.
        explicit: True when `pool.release(conn)` may end it.
        stack: where it was taken, when the pool looks for leaks.
    """

    __slots__ = ("explicit", "number", "pool", "reported", "since", "slot", "stack", "task", "timeout")

    def __init__(self, pool: ConnectionPool[C], timeout: Timeout) -> None:
        self.pool = pool
        self.timeout = timeout
        self.slot: Slot | None = None
        self.since = 0.0
        self.number = 0
        self.task: asyncio.Task[Any] | None = None
        self.explicit = False
        self.reported = False
        self.stack: tuple[str, ...] = ()

    def close_books(self) -> None:
        """The lease is over; this object gives nothing any more."""
        self.slot = _SPENT

    @property
    def is_spent(self) -> bool:
        """True once the lease is over."""
        return self.slot is _SPENT


class Acquire(Hold[C]):
    """What `pool.acquire()` returns: used once, by `async with` or by `await`."""

    __slots__ = ()

    async def __aenter__(self) -> C:
        pool = self.pool
        idle = pool._idle
        # The way of a lease that nobody has to wait for. Whatever is unusual is left to the slow way.
        if pool._plain and idle and self.slot is None and running_loop() is pool._loop:
            slot = idle[-1]
            now = pool._now()
            if now < slot.fresh_until and not pool._is_closed(slot.conn):
                idle.pop()
                slot.state = _BUSY
                slot.leases.append(self)
                slot.uses += 1
                self.slot = slot
                self.since = now
                self.task = current_task()
                if len(idle) < pool._fewest_idle:
                    pool._note_peak()
                ledger = pool._ledger
                ledger.lent = self.number = ledger.lent + 1
                return cast("C", slot.conn)
        return await pool._acquire(self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pool = self.pool
        slot = self.slot
        verdict: Verdict | None = None
        if error is None and pool._plain and running_loop() is pool._loop:  # noqa: SIM102
            if slot is not None and slot.leases == [self]:
                try:
                    verdict = pool._after_lease(slot.conn, None)
                except Exception as fault:
                    verdict = pool._no_verdict(fault)
                now = pool._now()
                if (
                    verdict is _KEEP
                    and now < slot.retire_at
                    and slot.uses < pool._most_uses
                    and len(pool._idle) < pool._most_idle
                    and not slot.needs_reset
                    and not pool._ledger.waiters.live
                ):
                    self.slot = _SPENT
                    slot.leases.clear()
                    slot.state = _IDLE
                    slot.idle_since = slot.proved_at = now
                    fresh = now + pool._trusted_s
                    slot.fresh_until = fresh if fresh < slot.retire_at else slot.retire_at
                    pool._idle.append(slot)
                    held = now - self.since
                    histogram = pool._hold_times
                    histogram.counts[bisect_left(BUCKETS, held)] += 1
                    histogram.total += held
                    return
        pool._end_lease(self, error, verdict=verdict)

    def __await__(self) -> Generator[Any, None, C]:
        self.explicit = True
        return self.__aenter__().__await__()


class Lease(Hold[C]):
    """A lease with an identity, for every kind of pool: from `await pool.lease()`.

    Use it as a context manager, or end it with `release` or `discard`.
    """

    __slots__ = ()

    @property
    def connection(self) -> C:
        """The driver's own connection.

        Raises:
            ReleaseError: the lease is over.
        """
        if self.slot is None or self.slot is _SPENT:
            raise ReleaseError(
                self.pool.name, why="this lease is over; its connection may be somebody else's"
            )
        return cast("C", self.slot.conn)

    def release(self, error: BaseException | None = None) -> None:
        """Give the connection back; `error` is what the driver judges it by.

        Raises:
            ReleaseError: the lease is over already.
        """
        self.pool._end_lease(self, error)

    def discard(self) -> None:
        """Give the connection back as broken: it is terminated.

        Raises:
            ReleaseError: the lease is over already.
        """
        self.pool._end_lease(self, None, discard=True)

    async def __aenter__(self) -> C:
        return self.connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.is_spent:
            self.pool._end_lease(self, error)
