"""The pool: the async shell around the ledger. It runs what the books say has to be done.

Every change of the books happens between two awaits; every entry point ends
with `_settle`, which tells watchers and listeners once the books are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random as random_module
import sys
import traceback
from asyncio import _get_running_loop as running_loop
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Self, TypeVar

from millpond._core import forks
from millpond._core.alarm import STALLED_S, Alarm
from millpond._core.calls import GRACE_S, Call
from millpond._core.lease import Acquire, Hold, Lease
from millpond._core.ledger import Ledger
from millpond._core.opening import HEDGE_S, Opener
from millpond._core.reporting import Reporting, Snapshot
from millpond._core.retirement import fresh_until, reason_to_retire
from millpond._core.slot import Slot, SlotState
from millpond._core.tending import Tender
from millpond._core.upkeep import Upkeep
from millpond._core.waiters import Waiter, WaiterState
from millpond.driver import Configurable, Driver, Redacting, Verdict
from millpond.errors import (
    PoolClosed,
    PoolExhausted,
    ReleaseError,
    TimeoutCause,
    WrongLoop,
    describe,
)
from millpond.events import CloseReason, Event, EventKind, Listener
from millpond.settings import UNSET, Change, PoolSettings, Reload, Timeout, Unset, difference, setting_fields
from millpond.status import BreakerState, Histogram, PoolCheck, PoolState

if TYPE_CHECKING:
    from millpond._core.allowance import Allowance

C = TypeVar("C")
logger = logging.getLogger("millpond")

_CUT_RATHER_THAN_CLOSE: Final = frozenset({
    CloseReason.BROKEN, CloseReason.SPOILED, CloseReason.DISCARDED, CloseReason.REPORTED,
    CloseReason.PING_FAILED, CloseReason.RESET_FAILED, CloseReason.FAILOVER,
})  # fmt: skip
_RECENT_S: Final = 1.0  # how old (seconds) a proof of life may be for check() to believe it


class ConnectionPool(Reporting, Generic[C]):
    """This lends the connections of one driver to one borrower at a time, or to several if shared.

    A pool may be built before any event loop runs; the first use binds it to
    the running loop, and it serves no other.

    Args:
        driver: knows the backend.
        settings: how the pool behaves.
        name: stands in every error, event and metric.
        allowance: a limit shared with other pools; None: only `max_size` counts.
        on_connect: called with every fresh connection, within `connect_timeout`; may be async.
        random: source of jitter, for tests that want to choose it.
    """

    def __init__(
        self,
        driver: Driver[C],
        *,
        settings: PoolSettings | None = None,
        name: str | None = None,
        allowance: Allowance | None = None,
        on_connect: Callable[[C], Awaitable[object] | object] | None = None,
        random: random_module.Random | None = None,
    ) -> None:
        self.settings = settings if settings is not None else PoolSettings()
        self.driver: Driver[C] = (
            driver.configured(self.settings) if isinstance(driver, Configurable) else driver
        )
        self.name = name if name is not None else driver.name
        self.state = PoolState.NEW
        self._on_connect: Callable[[Any], Any] | None = on_connect
        self._random = random if random is not None else random_module.Random()
        self._redact = self.driver.redact if isinstance(self.driver, Redacting) else None
        self._is_closed = self.driver.is_closed
        self._after_lease = self.driver.after_lease
        self._loop: asyncio.AbstractEventLoop | None = None
        self._now: Callable[[], float] = lambda: 0.0
        self._allowance = allowance
        self._plain = False  # may leases take the short way? see _refresh_plain
        self._pause_mode: Literal["queue", "refuse"] = "queue"
        self._listeners: tuple[Listener, ...] = ()
        self._outbox: deque[Event] = deque()
        self._sequence = 0
        self._telling = False
        self._listener_errors = 0
        self._start_books()
        forks.watch(self)

    def _start_books(self) -> None:
        """Empty books: a new pool, or what a forked child begins with."""
        settings = self.settings
        self._ledger = Ledger(settings.max_size, settings.max_leases_per_connection, self._allowance, self)
        self._idle = self._ledger.idle
        self._hold_times = Histogram()
        self._wait_times = Histogram()
        self._peak_busy = 0
        self._fewest_idle = sys.maxsize  # since the last change of anything else; the short way compares
        self._discarded = 0
        self._abandoned = 0
        self._openings: dict[int, Call[Any]] = {}
        self._calls: dict[int, Call[Any]] = {}  # every driver call under way, abandoned ones too
        self._watchers: dict[int, asyncio.Future[None]] = {}
        self._deadlines: Alarm | None = None
        self._hedge: Alarm | None = None
        self._opener = Opener(self)
        self._tender = Tender(self)
        self._upkeep = Upkeep(self)
        self._retune()

    @classmethod
    def from_factory(
        cls,
        connect: Callable[[], Awaitable[C] | C],
        *,
        close: Callable[[C], object] | None = None,
        terminate: Callable[[C], object] | None = None,
        validate: Callable[[C], object] | None = None,
        reset: Callable[[C], object] | None = None,
        after_lease: Callable[[C, BaseException | None], Verdict] | None = None,
        blocking: bool = False,
        name: str = "factory",
        settings: PoolSettings | None = None,
        allowance: Allowance | None = None,
    ) -> ConnectionPool[C]:
        """A pool over anything that can be opened and closed.

        Args:
            connect: makes a connection.
            close: ends one; without it, `terminate` or nothing is called.
            terminate: ends one at once, without waiting; without it, `close` if that is not async.
            validate: False or an error means dead; without it there are no pings.
            reset: cleans a connection after each lease.
            after_lease: judges a connection after its lease; without it, a lease that
                ended in an error or a cancellation discards its connection.
            blocking: run those of the functions that are not async in threads.
            name: of the pool.
            settings: of the pool.
            allowance: of the pool.
        """
        from millpond._core.factory import FunctionDriver

        driver = FunctionDriver(
            connect, close=close, terminate=terminate, validate=validate, reset=reset,
            after_lease=after_lease, blocking=blocking, name=name,
        )  # fmt: skip
        return ConnectionPool(driver, settings=settings, name=name, allowance=allowance)

    # -- life -----------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.initialize()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def initialize(self, timeout: float | None = None) -> None:
        """Open the pool; with `eager_init`, wait until `min_size` connections are open.

        Args:
            timeout: most seconds to wait; None: as long as attempts and their pauses take.

        Raises:
            ConnectFailed: `eager_init`, and the backend cannot be reached; nothing is left open.
            PoolTimeout: `eager_init`, and it took longer than `timeout`; nothing is left open.
            PoolClosed: the pool is closed.
        """
        self._enter()
        self._refuse_if_closed()
        if not self.settings.eager_init:
            self._settle()
            return
        opener = self._opener
        began = self._now()
        deadline = None if timeout is None else began + timeout
        failures_before = opener.failures

        def decided() -> bool:
            failed = opener.failures - failures_before
            enough = self._ledger.live >= self.settings.min_size
            given_up = failed > self.settings.connect_retries or (failed > 0 and opener.breaker.is_open)
            return enough or given_up or self.state is not PoolState.OPEN

        self._settle()
        try:
            in_time = await self._until(decided, deadline)
        except BaseException:
            self._undo_initialize()
            raise
        if self._ledger.live >= self.settings.min_size:
            return
        self._refuse_if_closed()
        now = self._now()
        error = (
            opener.connect_error(now, permanent=opener.last_permanent)
            if in_time
            else self._timeout_error(now - began, TimeoutCause.CONNECTING)
        )
        self._undo_initialize()
        await self._until(lambda: not self._ledger.total and not self._calls, self._now() + 2 * GRACE_S)
        raise error

    def _undo_initialize(self) -> None:
        """Leave nothing behind: what is idle or being opened goes; what is on loan stays."""
        for call in list(self._openings.values()):
            call.abort()
        for slot in list(self._idle):
            self._cut(slot, CloseReason.POOL_CLOSED)
        if not self._ledger.live and not self._ledger.waiters.live:
            self._upkeep.stop()
            self._opener.forgive()
            self._enter_state(PoolState.NEW)
        self._settle()

    def pause(self, mode: Literal["queue", "refuse"] = "queue") -> None:
        """Lend nothing until `resume()`: borrowers queue, or get `PoolClosed` at once."""
        if mode not in ("queue", "refuse"):
            raise ValueError(f'mode must be "queue" or "refuse", got {mode!r}')
        self._enter()
        self._refuse_if_closed()
        self._pause_mode = mode
        self._enter_state(PoolState.PAUSED)
        if mode == "refuse":
            self._fail_waiters(lambda: self._closed_error("paused"))
        self._settle()

    def resume(self) -> None:
        """Lend again, after `pause()` or `drain()`."""
        self._enter()
        self._refuse_if_closed()
        self._enter_state(PoolState.OPEN)
        self._pump()
        self._settle()

    async def drain(self, timeout: float | None = 30.0) -> None:
        """Give no new leases and wait until the last one is back; newcomers queue until `resume()`.

        Raises:
            PoolTimeout: leases are still out after `timeout` seconds; the pool goes on draining.
        """
        self._enter()
        self._refuse_if_closed()
        self._enter_state(PoolState.DRAINING)
        self._settle()
        began = self._now()
        deadline = None if timeout is None else began + timeout
        if not await self._until(lambda: not self._ledger.leases, deadline):
            raise self._timeout_error(self._now() - began, TimeoutCause.DRAINING)

    async def close(self, timeout: Timeout = UNSET) -> None:
        """Refuse newcomers, fail waiters, wait for borrowers, then cut what is left.

        May be cancelled and called again. Leases of the calling task itself are
        not waited for: nobody else could give them back.

        Args:
            timeout: seconds to wait for borrowers; left out: `close_timeout`.
        """
        if self.state is PoolState.CLOSED:
            return
        if self._loop is None or self._loop.is_closed():
            self._drop_everything()
            self._enter_state(PoolState.CLOSED)
            forks.forget(self)
            return
        self._check_loop()
        timeout = self.settings.close_timeout if isinstance(timeout, Unset) else timeout
        deadline = None if timeout is None else self._now() + timeout
        self._begin_closing()
        this_task = asyncio.current_task()

        def only_mine() -> bool:
            return all(hold.task is this_task for slot in self._slots() for hold in slot.leases)

        await self._until(only_mine, deadline)
        for slot in self._slots():
            if slot.state is SlotState.BUSY:
                self._cut(slot, CloseReason.POOL_CLOSED)
        self._tender.abort_tending()
        self._settle()
        polite = self._now() + self.settings.disconnect_timeout
        polite = polite if deadline is None else min(polite, max(deadline, self._now()))
        if not await self._until(self._is_quiet, polite):
            self._tender.hurry_closings()
            await self._until(self._is_quiet, self._now() + 2 * GRACE_S)
        self._finish_closing()

    def _begin_closing(self) -> None:
        if self.state is PoolState.CLOSING:
            return
        self._enter_state(PoolState.CLOSING)
        self._upkeep.stop()
        self._opener.unbind()
        self._fail_waiters(lambda: self._closed_error("closing"))
        for call in list(self._openings.values()):
            call.abort()
        for slot in [*self._idle, *self._ledger.doomed_idle]:
            self._retire(slot, CloseReason.POOL_CLOSED)
        if self._ledger.allowance is not None:
            self._ledger.allowance.no_longer_wants(self)
        self._settle()

    def _is_quiet(self) -> bool:
        return not self._ledger.total and len(self._calls) <= self._abandoned

    def _finish_closing(self) -> None:
        if self.state is not PoolState.CLOSING or not self._is_quiet():
            return
        for alarm in (self._deadlines, self._hedge):
            if alarm is not None:
                alarm.cancel()
        if self._ledger.allowance is not None:
            self._ledger.allowance.leave(self)
        self._enter_state(PoolState.CLOSED)
        forks.forget(self)
        self._settle()

    # -- which loop -----------------------------------------------------------------------------

    def _enter(self) -> None:
        """Bind to the running loop on first use; open a new pool."""
        self._check_loop()
        if self.state is PoolState.NEW:
            self._enter_state(PoolState.OPEN)
            assert self._loop is not None  # noqa: S101 - _check_loop bound it
            self._opener.bind(self._loop)
            self._upkeep.start(self._loop)
            self._pump()

    def _check_loop(self) -> None:
        loop = running_loop()
        if loop is None:
            raise WrongLoop(self.name, why="used outside of a running event loop")
        if self._loop is loop:
            return
        if self._loop is None:
            self._loop = loop
            self._now = loop.time
            self._deadlines = Alarm(loop, self._on_deadline)
            self._hedge = Alarm(loop, lambda _late: self._wake())
            if self._allowance is not None:
                self._allowance.join(self)
            return
        if self._loop.is_closed():
            self._drop_everything()
            raise WrongLoop(
                self.name,
                why="the event loop this pool was bound to has been closed and its connections were dropped; "
                "make a new pool in the new loop",
            )
        raise WrongLoop(self.name, why="bound to another event loop; make one pool for each loop")

    def _drop_everything(self) -> None:
        """The loop is gone: nothing can be awaited any more, so connections are cut."""
        for slot in self._slots():
            if slot.conn is not None:
                self._terminate(slot.conn)
            self._ledger.dismiss(slot, CloseReason.LOOP_CLOSED)
        self._calls.clear()
        self._openings.clear()
        self._refresh_plain()

    def _after_fork(self) -> None:
        """In the child of a fork: begin empty; the parent's connections are not ours to speak on."""
        forks.close_descriptors(self.driver, [slot.conn for slot in self._slots() if slot.conn is not None])
        forks.bury(self._ledger, self._loop, self._calls, self._openings, self._watchers)
        if self.state is not PoolState.CLOSED:
            self.state = PoolState.NEW
        self._loop = None
        self._outbox.clear()
        self._start_books()

    # -- leases ---------------------------------------------------------------------------------

    def acquire(self, timeout: Timeout = UNSET) -> Acquire[C]:
        """Borrow a connection: `async with pool.acquire() as conn`, or `conn = await pool.acquire()`.

        Args:
            timeout: seconds for everything it takes; left out: `acquire_timeout`; None: no limit;
                0: only what is idle now.

        Raises:
            PoolTimeout: nothing came free in time.
            PoolExhausted: `max_waiting` borrowers wait already.
            PoolClosed: the pool is closed, or paused to refuse.
            ConnectFailed: the backend cannot be reached.
            CircuitOpen: the backend is known to be down.
            WrongLoop: the pool belongs to another event loop.
        """
        return Acquire(self, timeout)

    async def lease(self, timeout: Timeout = UNSET) -> Lease[C]:
        """Borrow with an identity: a lease that knows how to end itself; raises as `acquire`."""
        hold = Lease(self, timeout)
        await self._acquire(hold)
        return hold

    async def release(
        self, conn: C, *, error: BaseException | Unset | None = UNSET, discard: bool = False
    ) -> None:
        """Give back what `await pool.acquire()` gave; never suspends.

        Args:
            conn: the connection.
            error: what the lease ended with; left out: the exception being handled, if any.
            discard: it is broken; terminate it.

        Raises:
            ReleaseError: it is not on loan by `await pool.acquire()`.
        """
        error = sys.exception() if isinstance(error, Unset) else error
        self._check_loop()
        slot = self._slot_of(conn)
        hold = next((each for each in slot.leases if each.explicit), None)
        if hold is None:
            why = (
                "this lease belongs to an `async with` or a lease object, which ends it"
                if slot.leases
                else "this connection is not on loan; it was given back already"
            )
            raise ReleaseError(self.name, why=why)
        self._end_lease(hold, error, discard=discard)

    def report(self, conn: C, error: BaseException) -> None:
        """Tell the pool of an error you handled: the driver judges the connection by it when it comes back.

        Raises:
            ReleaseError: the connection is not on loan.
        """
        self._check_loop()
        slot = self._slot_of(conn)
        match self._judge(slot, error):
            case Verdict.KEEP:
                pass
            case Verdict.RESET:
                slot.needs_reset = True
            case Verdict.DISCARD:
                slot.condemn(CloseReason.REPORTED)
            case Verdict.DISCARD_ALL:
                self._fail_over(slot, error)
                slot.condemn(CloseReason.FAILOVER)
        self._ledger.note_room(slot)
        self._settle()

    def detach(self, conn: C) -> C:
        """Take a borrowed connection out of the pool for good; its place is free, closing it is yours.

        Raises:
            ReleaseError: it is not on loan, or several leases share it.
        """
        self._check_loop()
        slot = self._slot_of(conn)
        if len(slot.leases) != 1 or slot.state is not SlotState.BUSY:
            raise ReleaseError(self.name, why="only a connection with exactly one lease can be detached")
        hold = slot.leases[0]
        self._ledger.end_lease(slot, hold)
        self._dismiss(slot, CloseReason.DETACHED)
        self._pump()
        self._settle()
        return conn

    def _slot_of(self, conn: C) -> Slot:
        slot = self._ledger.by_id.get(id(conn))
        if slot is None or slot.conn is not conn:
            raise ReleaseError(self.name, why="this connection is not one of this pool's")
        if not slot.leases:
            raise ReleaseError(self.name, why="this connection is not on loan; it was given back already")
        return slot

    async def _acquire(self, hold: Hold[C]) -> C:
        """The way of an acquire that is not served in passing."""
        self._enter()
        if hold.slot is not None or hold.is_spent:
            raise ReleaseError(self.name, why="what acquire() returned is used once; call acquire() again")
        if hold.explicit and self.settings.max_leases_per_connection > 1:
            raise ReleaseError(
                self.name,
                why="a shared pool cannot tell leases apart by connection: use `async with` or lease()",
            )
        hold.task = asyncio.current_task()
        began = now = self._now()
        timeout = self.settings.acquire_timeout if isinstance(hold.timeout, Unset) else hold.timeout
        deadline = None if timeout is None else now + timeout
        waited_before = False
        while True:
            pool: ConnectionPool[C] = hold.pool
            slot = None if pool._ledger.waiters.first() and not waited_before else pool._find(now)
            if slot is not None and pool.state is PoolState.OPEN and not waited_before:
                pool._begin_lease(slot, hold, now)
                pool._tell(EventKind.LENT, slot=slot, lease=hold.number)
                pool._settle()
                return slot.conn  # type: ignore[no-any-return]
            await pool._wait(hold, began, deadline, first=waited_before)
            pool = hold.pool
            slot = _slot_of(hold)
            if slot is not None and slot.state is SlotState.BUSY and not pool._gone(slot.conn):
                return slot.conn  # type: ignore[no-any-return]
            pool._take_back(hold)  # it died between the hand-over and now: ask again, in front
            pool._ledger.queued -= 1  # one request, however often it has to ask
            pool._refuse_if_closed()
            waited_before, now = True, pool._now()

    async def _wait(self, hold: Hold[C], began: float, deadline: float | None, *, first: bool) -> None:
        """Queue until served; returns with `hold.slot` set, or raises."""
        assert self._loop is not None  # noqa: S101 - _enter bound it
        ledger = self._ledger
        now = self._now()
        ledger.queued += 1
        if (refusal := self._refusal(now)) is not None:
            ledger.refused += 1
            self._settle()
            raise refusal
        waiter = Waiter(hold, self._loop.create_future(), began, deadline)
        ledger.queue(waiter, first=first)
        self._pump()
        if not waiter.future.done():
            if deadline is not None and now >= deadline:
                self._time_out(waiter, now)
            elif self._is_queue_full():
                ledger.refused += 1
                ledger.settle(waiter, WaiterState.FAILED)
                most = self.settings.max_waiting or 0
                waiter.future.set_result(
                    PoolExhausted(self.name, max_waiting=most, status=self.status(), retry_after=1.0)
                )
            else:
                self._tell(EventKind.WAITING)
                if deadline is not None and self._deadlines is not None:
                    self._deadlines.set(deadline)
        self._settle()
        try:
            error = await waiter.future
        except BaseException:
            hold.pool._forsake(waiter)
            raise
        if error is not None:
            raise error

    def _refusal(self, now: float) -> BaseException | None:
        if self.state in (PoolState.CLOSING, PoolState.CLOSED):
            return self._closed_error(self.state.value)
        if self.state is PoolState.PAUSED and self._pause_mode == "refuse":
            return self._closed_error("paused")
        if self.state is PoolState.OPEN and self._opener.breaker.is_open and not self._ledger.live:
            return self._opener.circuit_error(now)
        return None

    def _is_queue_full(self) -> bool:
        most = self.settings.max_waiting
        coming = self._ledger.opening * self._ledger.leases_per_connection + self._tender.pinging
        return most is not None and self._ledger.waiters.live - coming > most

    def _forsake(self, waiter: Waiter) -> None:
        """The borrower was cancelled, or its coroutine closed: whatever it got goes to the next."""
        if waiter.state is WaiterState.SERVED:
            self._take_back(waiter.hold)
            self._ledger.left_early += 1
        elif waiter.state is WaiterState.WAITING:
            self._ledger.settle(waiter, WaiterState.LEFT)
        self._pump()
        self._settle()

    def _take_back(self, hold: Hold[Any]) -> None:
        """Undo a hand-over that its borrower never saw; the connection was not used."""
        slot = hold.slot
        hold.slot = None
        if slot is None:
            return
        ledger = self._ledger
        ledger.unlent += 1
        ledger.end_lease(slot, hold)
        slot.uses -= 1
        self._tell(EventKind.RETURNED, slot=slot, lease=hold.number)
        if slot.state is SlotState.GONE:
            ledger.forget_object(slot)
        elif self._gone(slot.conn):
            self._discard(slot, CloseReason.BROKEN, None)
        elif slot.leases:
            ledger.note_room(slot)
        else:
            self._offer(slot)

    def _find(self, now: float) -> Slot | None:
        """A connection that may be lent at this moment; unfit ones met on the way are sent off."""
        idle = self._idle
        for index in range(len(idle) - 1, -1, -1):
            if index >= len(idle):
                continue
            slot = idle[index]
            if self._gone(slot.conn):
                self._discard(slot, CloseReason.BROKEN, None)
            elif reason := reason_to_retire(slot, now, self._ledger.generation, self.settings):
                self._retire(slot, reason)
            elif now < slot.fresh_until:
                return slot
        while (shared := self._ledger.least_leased()) is not None:
            if self._gone(shared.conn):
                self._discard(shared, CloseReason.BROKEN, None)
            elif reason := reason_to_retire(shared, now, self._ledger.generation, self.settings):
                shared.condemn(reason)
                self._ledger.note_room(shared)
            else:
                return shared
        return None

    def _begin_lease(self, slot: Slot, hold: Hold[Any], now: float) -> None:
        self._ledger.lend(slot, hold)
        hold.slot = slot
        hold.since = now
        hold.number = self._ledger.lent
        self._note_peak()
        if self.settings.leak_detection_threshold is not None and hold.task is not None:
            frames = hold.task.get_stack(limit=8)
            stack = traceback.StackSummary.extract((frame, frame.f_lineno) for frame in frames)
            if running_loop() is not None and asyncio.current_task() is hold.task:
                stack = traceback.extract_stack(limit=12)
            hold.stack = tuple(stack.format())

    def _note_peak(self) -> None:
        self._fewest_idle = len(self._idle)
        self._peak_busy = max(self._peak_busy, self._ledger.busy)

    def _hand(self, waiter: Waiter, slot: Slot, now: float) -> None:
        """Give `slot` to the one who is next."""
        self._ledger.settle(waiter, WaiterState.SERVED)
        self._ledger.handed += 1
        self._begin_lease(slot, waiter.hold, now)
        self._wait_times.record(now - waiter.queued_at)
        self._tell(EventKind.LENT, slot=slot, lease=waiter.hold.number, seconds=now - waiter.queued_at)
        waiter.future.set_result(None)

    def _end_lease(
        self,
        hold: Hold[Any],
        error: BaseException | None,
        *,
        verdict: Verdict | None = None,
        discard: bool = False,
    ) -> None:
        """A borrower gives its connection back."""
        slot = hold.slot
        if slot is None or hold.is_spent:
            raise ReleaseError(self.name, why="this lease is over already, or never began")
        self._check_loop()
        ledger = self._ledger
        now = self._now()
        hold.close_books()
        if hold not in slot.leases:
            return  # detached: the connection is the borrower's
        ledger.end_lease(slot, hold)
        self._hold_times.record(now - hold.since)
        self._tell(EventKind.RETURNED, slot=slot, lease=hold.number, seconds=now - hold.since)
        if slot.state is SlotState.GONE:
            ledger.forget_object(slot)  # cut while it was out
        elif discard:
            self._discard(slot, CloseReason.DISCARDED, error)
        else:
            self._put_away(slot, error, self._judge(slot, error) if verdict is None else verdict, now)
        self._pump()
        self._settle()

    def _put_away(self, slot: Slot, error: BaseException | None, verdict: Verdict, now: float) -> None:
        """Do what the verdict says with a connection that has just lost a lease."""
        if verdict is Verdict.DISCARD_ALL:
            self._fail_over(slot, error)
            self._discard(slot, CloseReason.FAILOVER, error)
            return
        if verdict is Verdict.DISCARD:
            self._discard(slot, CloseReason.BROKEN if self._gone(slot.conn) else CloseReason.SPOILED, error)
            return
        if error is None:
            slot.proved_at = now
            self._opener.proof_of_life()
        slot.needs_reset = slot.needs_reset or verdict is Verdict.RESET
        if slot.leases:
            self._ledger.note_room(slot)
        elif reason := self._reason_to_go(slot, now):
            self._retire(slot, reason)
        elif slot.needs_reset:
            self._tender.reset(slot)
        else:
            slot.idle_since = now
            self._offer(slot)

    def _judge(self, slot: Slot, error: BaseException | None) -> Verdict:
        try:
            return self.driver.after_lease(slot.conn, error)
        except Exception as fault:  # a driver's fault must not lose the connection's place
            return self._no_verdict(fault)

    def _no_verdict(self, fault: Exception) -> Verdict:
        logger.error(
            "%s: after_lease() raised, connection discarded: %s", self.name, describe(fault, self._redact)
        )
        return Verdict.DISCARD

    def _gone(self, conn: Any) -> bool:
        try:
            return self.driver.is_closed(conn)
        except Exception as fault:
            logger.error("%s: is_closed() raised: %s", self.name, describe(fault, self._redact))
            return True

    # -- what becomes of a connection -----------------------------------------------------------

    def _reason_to_go(self, slot: Slot, now: float) -> CloseReason | None:
        """Why a connection without a lease must not be lent again, or None."""
        if self.state in (PoolState.CLOSING, PoolState.CLOSED):
            return CloseReason.POOL_CLOSED
        reason = reason_to_retire(slot, now, self._ledger.generation, self.settings)
        if reason is None and self._ledger.surplus:
            return CloseReason.SHRUNK
        return reason

    def _offer(self, slot: Slot, *, keep_place: bool = False) -> None:
        """A clean connection without a lease: to the first waiter, or onto the shelf."""
        now = self._now()
        ledger = self._ledger
        if reason := self._reason_to_go(slot, now):
            self._retire(slot, reason)
            return
        allowance = ledger.allowance
        can_spare = ledger.waiters.live or ledger.live > self.settings.min_size
        if allowance is not None and can_spare and allowance.should_yield(self, ledger.waiters.oldest_at):
            self._retire(slot, CloseReason.SHED)
            return
        if self.state is PoolState.OPEN:
            while (
                len(slot.leases) < ledger.leases_per_connection
                and (waiter := ledger.waiters.first()) is not None
            ):
                self._hand(waiter, slot, now)
            if slot.leases:
                return
        most = self.settings.max_idle
        if most is not None and ledger.idle_count >= most:
            if not self._idle:
                self._retire(slot, CloseReason.IDLE)
                return
            self._retire(self._idle[0], CloseReason.IDLE)
        slot.fresh_until = fresh_until(slot, self.settings)
        ledger.park(slot, keep_place=keep_place)

    def _retire(self, slot: Slot, reason: CloseReason) -> None:
        """Close politely what is still good; cut what is not."""
        if reason in _CUT_RATHER_THAN_CLOSE:
            self._cut(slot, reason)
        else:
            self._tender.close(slot, reason)

    def _discard(self, slot: Slot, reason: CloseReason, error: BaseException | None) -> None:
        """An unfit connection: cut now, or when the last of those who share it has let go of it."""
        self._discarded += 1
        detail = "" if error is None else describe(error, self._redact)
        self._tell(EventKind.DISCARDED, slot=slot, reason=reason, detail=detail)
        if slot.leases and not self._gone(slot.conn):
            slot.condemn(reason)
            self._ledger.note_room(slot)
        else:
            self._cut(slot, reason)

    def _cut(self, slot: Slot, reason: CloseReason) -> None:
        self._terminate(slot.conn)
        self._dismiss(slot, reason)

    def _dismiss(self, slot: Slot, reason: CloseReason) -> None:
        self._ledger.dismiss(slot, reason)
        self._tell(EventKind.CLOSED, slot=slot, reason=reason, seconds=self._now() - slot.opened_at)

    def _terminate(self, conn: Any) -> None:
        try:
            self.driver.terminate(conn)
        except Exception as fault:
            logger.error("%s: terminate() raised: %s", self.name, describe(fault, self._redact))

    def _fail_over(self, slot: Slot, error: BaseException | None) -> None:
        """This node is no longer the one: a new generation, once, however many borrowers say so."""
        if slot.generation == self._ledger.generation:
            self._opener.suspicious = True
            self._new_generation(0.0)
            if slot.uses <= 1:  # a fresh connection found unfit: the next attempt may wait for the backoff
                self._opener.note_failure(error or ConnectionError("unfit"), self._now())

    def clear(self, spread: float = 0.0) -> None:
        """Begin a new generation: idle connections go, busy ones when they come back.

        Args:
            spread: seconds over which the idle ones are closed; a waiter who needs a place takes one sooner.
        """
        if spread < 0:
            raise ValueError(f"spread must be >= 0 seconds, got {spread}")
        if self.state in (PoolState.CLOSING, PoolState.CLOSED):
            return
        if self._loop is None:
            self._ledger.generation += 1
            return
        self._check_loop()
        self._new_generation(spread)
        self._pump()
        self._settle()

    def _new_generation(self, spread: float) -> None:
        ledger = self._ledger
        ledger.generation += 1
        for call in list(self._openings.values()):
            call.abort()
        for slot in self._slots():
            if slot.state is SlotState.BUSY:
                slot.condemn(CloseReason.CLEARED)
                ledger.note_room(slot)
        idle = list(self._idle)
        for position, slot in enumerate(idle):
            if spread <= 0:
                self._retire(slot, CloseReason.CLEARED)
                continue
            ledger.doom_idle(slot, CloseReason.CLEARED)
            if self._loop is not None:
                when = spread * (position + 1) / len(idle)
                self._loop.call_later(when, self._close_doomed, slot, context=Context())
        self._tell(EventKind.CLEARED)

    def _close_doomed(self, slot: Slot) -> None:
        if slot.state is SlotState.IDLE and slot.doom is not None:
            self._retire(slot, slot.doom)
            self._settle()

    def _make_room(self) -> None:
        """Somebody needs a place: an idle connection that is only waiting to be closed gives way."""
        if self._ledger.doomed_idle and self._ledger.total >= self._ledger.max_size:
            slot = self._ledger.doomed_idle[0]
            self._cut(slot, slot.doom or CloseReason.CLEARED)

    # -- settings -------------------------------------------------------------------------------

    def apply(self, settings: PoolSettings) -> Change:
        """Take over what can be changed in place; say what that was, and what would need a new pool."""
        change = difference(self.settings, settings)
        kept = {
            each.name: getattr(self.settings, each.name)
            for each in setting_fields()
            if each.metadata["reload"] is Reload.NEW_POOL
        }
        if self._loop is not None and self.state is not PoolState.CLOSED:
            self._check_loop()
        self.settings = settings.changed(**kept)
        self._ledger.max_size = self.settings.max_size
        self._opener.breaker.tune(self.settings.failure_threshold, self.settings.success_threshold)
        self._retune()
        if self._loop is None or self.state in (PoolState.CLOSING, PoolState.CLOSED):
            return change
        self._shrink()
        for slot in self._idle:
            slot.fresh_until = fresh_until(slot, self.settings)
        if change.in_place:
            self._tell(EventKind.CHANGED, reason="settings", detail=", ".join(change.in_place))
        self._pump()
        self._upkeep.plan()
        self._settle()
        return change

    def resize(self, *, min_size: int | Unset = UNSET, max_size: int | Unset = UNSET) -> Change:
        """Change the sizes of the running pool; short for `apply`."""
        sizes = {"min_size": min_size, "max_size": max_size}
        given = {name: size for name, size in sizes.items() if not isinstance(size, Unset)}
        return self.apply(self.settings.changed(**given))

    def _retune(self) -> None:
        """Cache what the hot path compares with."""
        settings = self.settings
        self._trusted_s = math.inf if settings.validate_after_idle is None else settings.validate_after_idle
        self._most_uses = sys.maxsize if settings.max_uses is None else settings.max_uses
        self._most_idle = sys.maxsize if settings.max_idle is None else settings.max_idle
        self._refresh_plain()

    def _refresh_plain(self) -> None:
        """May leases take the short way? Only while nothing needs to be told, counted or refused."""
        self._plain = (
            self.state is PoolState.OPEN
            and not self._listeners
            and not self._watchers
            and self._allowance is None
            and self._opener.breaker.state is BreakerState.CLOSED
            and self._ledger.leases_per_connection == 1
            and self.settings.leak_detection_threshold is None
            and not self._ledger.surplus
        )

    def _shrink(self) -> None:
        ledger = self._ledger
        for call in list(self._openings.values())[::-1][: ledger.surplus]:
            call.abort()
        while ledger.surplus and self._idle:
            self._retire(self._idle[0], CloseReason.SHRUNK)

    # -- the pump -------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Serve who can be served, and start what that needs. Called after every change of the books."""
        if self.state not in (PoolState.OPEN, PoolState.PAUSED):
            return
        now = self._now()
        ledger = self._ledger
        if self.state is PoolState.OPEN and ledger.waiters.live:
            self._opener.fail_waiters_if_cut_off(now)
            while (waiter := ledger.waiters.first()) is not None and (slot := self._find(now)) is not None:
                self._hand(waiter, slot, now)
            missing = ledger.waiters.live - ledger.opening - self._tender.prospects(now)
            for slot in list(self._idle)[::-1]:
                if missing <= 0 or self._tender.pinging >= self.settings.max_connecting:
                    break
                self._tender.ping(slot)
                missing -= 1
            if self._tender.prospects(now):
                self._hedge_soon()
        self._opener.pump(now)

    def _hedge_soon(self) -> None:
        """A borrower relies on a ping or reset under way: look again when that has taken too long."""
        if self._hedge is not None:
            self._hedge.set(self._now() + HEDGE_S)

    def _wake(self) -> None:
        """A timer says that something may be due."""
        self._pump()
        self._settle()

    def _place_is_free(self) -> None:
        """The shared allowance has a place for this pool."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon(self._wake, context=Context())

    def _please_shed(self) -> None:
        """Another pool on the shared allowance needs a place."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon(self._shed, context=Context())

    def _shed(self) -> None:
        ledger = self._ledger
        wanted = ledger.allowance is not None and ledger.allowance.should_yield(
            self, ledger.waiters.oldest_at
        )
        if wanted and self._idle and not ledger.closing and self.state in (PoolState.OPEN, PoolState.PAUSED):
            self._retire(self._idle[0], CloseReason.SHED)
        self._settle()

    def _on_deadline(self, late: float) -> None:
        now = self._now()
        ledger = self._ledger
        due = ledger.waiters.next_deadline
        if late > STALLED_S and due is not None and self._deadlines is not None:
            # The loop stood still: what they wait for may be a few turns away. Ask again.
            self._deadlines.set(now + HEDGE_S)
            return
        expired = ledger.waiters.expired(now)
        snapshot = self._snapshot() if expired else None
        for waiter in expired:
            self._time_out(waiter, now, snapshot)
        due = ledger.waiters.next_deadline
        if due is not None and self._deadlines is not None:
            self._deadlines.set(due)
        self._pump()
        self._settle()

    def _time_out(self, waiter: Waiter, now: float, snapshot: Snapshot | None = None) -> None:
        waited = now - waiter.queued_at
        error = self._timeout_error(waited, self._why_waiting(), snapshot)
        self._ledger.timed_out += 1
        self._ledger.settle(waiter, WaiterState.FAILED)
        self._wait_times.record(waited)
        self._tell(EventKind.TIMED_OUT, seconds=waited)
        waiter.future.set_result(error)

    def _fail_waiters(self, error: Callable[[], BaseException]) -> None:
        while (waiter := self._ledger.waiters.first()) is not None:
            self._ledger.refused += 1
            self._ledger.settle(waiter, WaiterState.FAILED)
            waiter.future.set_result(error())

    def _hand_over_waiters(self, heir: ConnectionPool[Any]) -> None:
        """Move everybody who waits to another pool, order and deadline kept (a new version takes over)."""
        moved: list[Waiter] = []
        while (waiter := self._ledger.waiters.first()) is not None:
            self._ledger.settle(waiter, WaiterState.LEFT)
            self._ledger.waiters.left -= 1
            self._ledger.queued -= 1
            moved.append(waiter)
        heir._enter()
        for waiter in reversed(moved):
            waiter.state = WaiterState.WAITING
            waiter.hold.pool = heir
            heir._ledger.queued += 1
            heir._ledger.queue(waiter, first=True)
            if waiter.deadline is not None and heir._deadlines is not None:
                heir._deadlines.set(waiter.deadline)
        heir._pump()
        heir._settle()
        self._settle()

    # -- driver calls ---------------------------------------------------------------------------

    def _call(
        self, coroutine: Any, *, verb: str, slot: Slot, timeout: float, on_end: Callable[..., None]
    ) -> Call[Any]:
        assert self._loop is not None  # noqa: S101 - bound before anything is opened

        def ended(call: Call[Any], result: Any, error: BaseException | None) -> None:
            if call.is_running:
                self._abandoned += 1
                logger.warning("%s: %s of connection %d abandoned", self.name, verb, slot.number)
            else:
                self._calls.pop(id(call), None)
            on_end(call, result, error)
            self._settle()

        def late(call: Call[Any], result: Any) -> None:
            self._abandoned -= 1
            self._calls.pop(id(call), None)
            if verb == "connect" and result is not None and id(result) not in self._ledger.by_id:
                self._terminate(result)
            self._settle()

        call: Call[Any] = Call(
            self._loop, coroutine, verb=verb, name=f"millpond {self.name}: {verb} {slot.number}",
            timeout=timeout, on_end=ended, on_late=late,
        )  # fmt: skip
        self._calls[id(call)] = call
        return call

    # -- watchers and listeners -----------------------------------------------------------------

    async def _until(self, holds: Callable[[], bool], deadline: float | None) -> bool:
        """Wait until `holds()`, asked after every change; False when the deadline came first."""
        assert self._loop is not None  # noqa: S101 - callers have entered
        while not holds():
            if deadline is not None and self._now() >= deadline:
                return False
            changed: asyncio.Future[None] = self._loop.create_future()
            self._watchers[id(changed)] = changed
            self._plain = False
            timer = (
                None
                if deadline is None
                else self._loop.call_at(deadline, _resolve, changed, context=Context())
            )
            try:
                await changed
            finally:
                self._watchers.pop(id(changed), None)
                if timer is not None:
                    timer.cancel()
                self._refresh_plain()
        return True

    def add_listener(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every event from now on; returns a function that ends this."""
        self._listeners = (*self._listeners, listener)
        self._refresh_plain()

        def remove() -> None:
            self._listeners = tuple(each for each in self._listeners if each is not listener)
            self._refresh_plain()

        return remove

    def _tell(
        self, kind: EventKind, *, slot: Slot | None = None, lease: int = 0,
        reason: CloseReason | str | None = None, seconds: float = 0.0, detail: str = "",
    ) -> None:  # fmt: skip
        if not self._listeners:
            return
        self._sequence += 1
        number = 0 if slot is None else slot.number
        generation = self._ledger.generation
        event = Event(kind, self._sequence, self.name, generation, number, lease, reason, seconds, detail)
        self._outbox.append(event)

    def _settle(self) -> None:
        """The books are closed: wake who watches, then tell who listens."""
        for watcher in list(self._watchers.values()):
            _resolve(watcher)
        self._fewest_idle = sys.maxsize
        self._refresh_plain()
        if not self._outbox or self._telling:
            return
        self._telling = True
        try:
            while self._outbox:
                event = self._outbox.popleft()
                for listener in self._listeners:
                    try:
                        listener(event)
                    except Exception:
                        self._listener_errors += 1
                        logger.exception("%s: a listener raised on %s", self.name, event.kind.value)
        finally:
            self._telling = False

    def _enter_state(self, state: PoolState) -> None:
        if state is not self.state:
            self.state = state
            self._tell(EventKind.CHANGED, reason="state", detail=state.value)
        self._refresh_plain()

    def _refuse_if_closed(self) -> None:
        if self.state in (PoolState.CLOSING, PoolState.CLOSED):
            raise self._closed_error(self.state.value)

    def _slots(self) -> list[Slot]:
        return list(self._ledger.slots.values())

    def _closed_error(self, word: str) -> PoolClosed:
        hint = "call resume() to reopen it" if word == "paused" else "make a new pool"
        retry_after = 1.0 if word != "closed" else None
        return PoolClosed(
            self.name, why=f"the pool is {word}; {hint}.", status=self.status(), retry_after=retry_after
        )

    # -- is the backend there? ------------------------------------------------------------------

    async def check(self, timeout: float = 5.0) -> PoolCheck:
        """Is the backend there? Recent proof of life, else one ping, else one connect; never queues.

        Args:
            timeout: most seconds it takes.
        """
        with contextlib.suppress(PoolClosed):
            self._enter()
            self._refuse_if_closed()
            return await self._check(timeout)
        return PoolCheck(healthy=False, latency=0.0, source="state", error=f"the pool is {self.state.value}")

    async def _check(self, timeout: float) -> PoolCheck:
        began = self._now()
        latest = began - _RECENT_S
        if self._has_proof(latest):
            return PoolCheck(healthy=True, latency=0.0, source="recent", error=None)
        # A ping that fails says that one connection is gone; whether the backend is, a connect tells.
        for _ in range(2):
            source, decided = self._ask_backend()
            self._settle()
            in_time = await self._until(decided, began + timeout)
            latency = self._now() - began
            if self._has_proof(latest):
                return PoolCheck(healthy=True, latency=latency, source=source, error=None)
            if source != "ping" or not in_time:
                break
        if source == "busy" and self._ledger.live and not self._opener.breaker.is_open:
            return PoolCheck(healthy=True, latency=latency, source=source, error=None)
        error = (self._opener.last_error if in_time else None) or f"no answer within {timeout:g} s"
        return PoolCheck(healthy=False, latency=latency, source=source, error=error)

    def _has_proof(self, since: float) -> bool:
        """A connection that is still there was opened, pinged or cleanly used after `since`."""
        return any(
            slot.proved_at > since and slot.state is not SlotState.CLOSING and not self._gone(slot.conn)
            for slot in self._slots()
            if slot.conn is not None
        )

    def _ask_backend(self) -> tuple[str, Callable[[], bool]]:
        """Start what can tell whether the backend is there; what it is, and whether it has told."""
        ledger, opener, tender = self._ledger, self._opener, self._tender
        began = self._now()
        pings, failures = tender.ping_failures, opener.failures
        source = "busy"
        if self._idle:
            source = "ping"
            tender.ping(self._idle[-1])
        elif ledger.opening:
            source = "connect"
        elif opener.breaker.is_open:
            source = "breaker"
        elif opener.permitted(began) and (slot := ledger.begin_opening(began)) is not None:
            source = "connect"
            opener.start(slot)

        def decided() -> bool:
            failed = tender.ping_failures > pings or opener.failures > failures
            return (
                source == "breaker" or failed or self._has_proof(began) or not (ledger.live or ledger.opening)
            )

        return source, decided


def _slot_of(hold: Hold[Any]) -> Slot | None:
    """What an await has put there; a type checker that saw None before would not believe it."""
    return hold.slot


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
