"""What a borrower holds: the object `acquire()` returns, and the lease with an identity."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from millpond._core.calls import FAULTS
from millpond._core.slot import Slot, SlotState
from millpond._core.whereabouts import here, task_of
from millpond.driver import Verdict
from millpond.errors import ReleaseError
from millpond.settings import Timeout

if TYPE_CHECKING:
    from millpond._core.pool import ConnectionPool

C = TypeVar("C")

NOTED: Final = 255  # so many hold times are noted before they are counted
_BUSY: Final = SlotState.BUSY
_IDLE: Final = SlotState.IDLE
_KEEP: Final = Verdict.KEEP
ASKING: Final = Slot(0, -1)  # stands in `slot` while a lease is asked for, and when that failed
_SPENT: Final = Slot(0, -1)  # stands in `slot` once a lease is over: a lease is used once


class Hold(Generic[C]):
    """One borrower's hold on one connection, from acquire to release.

    Attributes:
        pool: the pool it is (or will be) served by; waiters can move to another.
        timeout: seconds that acquiring may take.
        slot: the place held; None before, a stand-in while it is asked for and once the lease is over.
        explicit: True when `pool.release(conn)` may end it.
        since: when the lease began.
        task: the task that began it, or None outside of one.
        number: counts the pool's leases, from 1.

    The last three are set when the lease begins: an object is made for every
    lease, and what it does not set costs nothing.
    """

    __slots__ = ("explicit", "number", "pool", "since", "slot", "task", "timeout")

    pool: ConnectionPool[C]
    timeout: Timeout
    slot: Slot | None
    explicit: bool
    since: float
    task: asyncio.Task[Any] | None
    number: int

    def close_books(self) -> None:
        """The lease is over; this object gives nothing any more."""
        self.slot = _SPENT

    @property
    def is_out(self) -> bool:
        """True from the beginning of the lease to its end."""
        return self.slot is not None and self.slot is not ASKING and self.slot is not _SPENT


class Acquire(Hold[C]):
    """What `pool.acquire()` returns: used once, by `async with` or by `await`."""

    __slots__ = ()

    async def __aenter__(self) -> C:
        pool = self.pool
        idle = pool._idle
        # The way of a lease that nobody has to wait for. Whatever is unusual is left to the long way.
        if idle and self.slot is None:
            task = task_of(pool._loop)
            if task is not None and here() == pool._home:
                slot = idle[-1]
                now = pool._now()
                try:
                    usable = now < slot.fresh_until and not pool._is_closed(slot.conn)
                except FAULTS:
                    usable = (
                        False  # the long way asks again, says so in the log, and sends the connection off
                    )
                if usable:
                    del idle[-1]
                    slot.state = _BUSY
                    slot.uses += 1
                    self.slot = slot
                    self.since = now
                    self.task = task
                    if len(idle) < pool._fewest_idle:
                        pool._lender.note_peak()
                    ledger = pool._ledger
                    ledger.lent = self.number = ledger.lent + 1
                    slot.leases.append(self)  # last: from now on other threads see who holds it
                    return cast("C", slot.conn)
        return cast("C", await pool._lender.acquire(self))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pool = self.pool
        slot = self.slot
        verdict: Verdict | None = None
        if error is None and slot is not None and slot.state is _BUSY and here() == pool._home:
            try:
                verdict = pool._after_lease(slot.conn, None)
            except FAULTS as fault:
                verdict = pool._lender.no_verdict(fault)
            now = pool._now()
            if verdict is _KEEP and now < slot.retire_at and slot.uses < slot.plain_uses:
                self.slot = _SPENT
                slot.leases.clear()
                slot.proved_at = now
                held = pool._held
                held.append(now - self.since)
                if len(held) > NOTED:
                    pool._hold_times.fold()
                if pool._queue.live and (waiter := pool._queue.take()) is not None:
                    pool._lender.pass_on(slot, waiter, now)
                    return
                slot.state = _IDLE
                slot.idle_since = now
                fresh_until = now + pool._trusted_s
                slot.fresh_until = fresh_until if fresh_until < slot.retire_at else slot.retire_at
                pool._idle.append(slot)
                return
        pool._lender.end(self, error, verdict=verdict)

    def __await__(self) -> Generator[Any, None, C]:
        self.explicit = True
        return self.__aenter__().__await__()


class Lease(Hold[C]):
    """A lease with an identity, for every kind of pool: from `await pool.lease()`.

    Use it as a context manager, or end it with `release` or `discard`.
    """

    __slots__ = ()

    def __init__(self, pool: ConnectionPool[C], timeout: Timeout) -> None:
        self.pool = pool
        self.timeout = timeout
        self.slot = None
        self.explicit = False

    @property
    def connection(self) -> C:
        """The driver's own connection.

        Raises:
            ReleaseError: the lease is over.
        """
        if not self.is_out:
            raise ReleaseError(
                self.pool.name, why="this lease is over; its connection may be somebody else's"
            )
        assert self.slot is not None  # noqa: S101 - is_out
        return cast("C", self.slot.conn)

    def release(self, error: BaseException | None = None) -> None:
        """Give the connection back; `error` is what the driver judges it by.

        Raises:
            ReleaseError: the lease is over already.
        """
        self.pool._lender.end(self, error)

    def discard(self) -> None:
        """Give the connection back as broken: it is terminated.

        Raises:
            ReleaseError: the lease is over already.
        """
        self.pool._lender.end(self, None, discard=True)

    async def __aenter__(self) -> C:
        return self.connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_out:
            self.pool._lender.end(self, error)
