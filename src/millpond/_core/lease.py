"""What a borrower holds: the object `acquire()` returns, and the lease with an identity."""

from __future__ import annotations

import asyncio
import inspect
import math
import types
from collections.abc import Awaitable, Coroutine, Generator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, TypeVar, cast

from millpond._core.calls import FAULTS
from millpond._core.slot import Slot, SlotState
from millpond._core.whereabouts import here, task_of
from millpond.driver import Verdict
from millpond.errors import ReleaseError
from millpond.events import EventKind
from millpond.settings import Timeout

if TYPE_CHECKING:
    from millpond._core.pool import ConnectionPool

C = TypeVar("C")

NOTED: Final = 255  # so many hold times are noted before they are counted
_BUSY: Final = SlotState.BUSY
_IDLE: Final = SlotState.IDLE
_KEEP: Final = Verdict.KEEP
_NEVER: Final = -math.inf
UNASKED: Final = Slot(0, -1)  # stands in `slot` before a lease is asked for
ASKING: Final = Slot(0, -1)  # stands in `slot` while it is asked for, and when that failed
_SPENT: Final = Slot(0, -1)  # stands in `slot` once it is over: a lease is used once
_STAND_INS: Final = (UNASKED, ASKING, _SPENT)


@types.coroutine
def _nothing_to_do() -> Generator[Any, Any, None]:
    return
    yield


DONE: Final = _nothing_to_do()
"""What has been done already, for `async with` to await.

A generator that has come to its end answers every `await` at once, with None,
so one serves all: a coroutine for every release costs a tenth of a lease.
"""
TOLD: Final = _nothing_to_do()
"""Likewise, where whoever listens has been told of it too."""
for _finished in (DONE, TOLD):
    next(_finished, None)


class Released(Coroutine[Any, Any, None]):
    """What `pool.release()` returns: it is done. May be awaited, or made a task of, any number of times."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, None]:
        return _NO_STEPS  # type: ignore[return-value]

    def send(self, value: object, /) -> NoReturn:
        """End at once."""
        raise StopIteration

    def throw(self, kind: Any, value: Any = None, trace: Any = None, /) -> NoReturn:
        """Raise what is given."""
        raise kind if value is None else value

    def close(self) -> None:
        """Nothing is open."""


_NO_STEPS: Final[Iterator[Any]] = iter(())
RELEASED: Final = Released()


class Hold(Generic[C]):
    """One borrower's hold on one connection, from acquire to release.

    Attributes:
        pool: the pool it is (or will be) served by; waiters can move to another.
        timeout: seconds that acquiring may take.
        slot: the place held; a stand-in before, while it is asked for, and once the lease is over.
        explicit: True when `pool.release(conn)` may end it.
        is_told: it has gone the long way, which counts uses, notes where it began and tells who listens.
        since: when the lease began.
        task: the task that began it, or None outside of one.

    The last two are set when the lease begins, `is_told` where it matters: an
    object is made for every lease, and what it does not set costs nothing.
    """

    __slots__ = ("_number", "explicit", "is_told", "pool", "since", "slot", "task", "timeout")

    pool: ConnectionPool[C]
    timeout: Timeout
    slot: Slot
    explicit: bool
    is_told: bool
    since: float
    task: asyncio.Task[Any] | None
    _number: int

    @property
    def number(self) -> int:
        """Tells the leases of a pool apart, from 1; one begun in passing gets it when somebody looks."""
        try:
            if number := self._number:
                return number
        except AttributeError:
            pass
        # Two threads that ask at once may be told two numbers; the later one stays.
        self.number_now()
        return self._number

    def number_now(self) -> None:
        """Take the next number: a lease begins."""
        self._number = next(self.pool._ledger.lease_numbers)

    def close_books(self) -> None:
        """The lease is over; this object gives nothing any more."""
        self.slot = _SPENT

    @property
    def is_out(self) -> bool:
        """True from the beginning of the lease to its end."""
        return self.slot not in _STAND_INS

    def _begin(self) -> Generator[Any, Any, C]:
        pool = self.pool
        idle = pool._idle
        # The way of a lease that nobody has to wait for. Whatever is unusual is left to the long way.
        # What is called is looked up first: calling an attribute of an object costs half as much again.
        if (
            idle
            and self.slot is UNASKED
            and (task := task_of(pool._home)) is not None
            and here() == pool._here
        ):
            slot = idle.pop()
            clock, is_closed, conn = pool._now, pool._is_closed, slot.conn
            try:
                now = clock()
                if now - slot.returned_at < pool._trusted_s and not is_closed(conn):
                    slot.state = _BUSY
                    self.slot = slot
                    self.since = now
                    self.task = task
                    slot.hold = self  # last: from now on other threads see who holds it
                    return conn  # type: ignore[no-any-return]
            except FAULTS:
                pass  # the long way asks again, says so in the log, and sends the connection off
            except BaseException:
                idle.append(slot)
                raise
            idle.append(slot)
        waiter = pool._lender.ask(self)
        while waiter is not None:
            try:
                error = yield from waiter.future
            except BaseException:
                self.pool._waiting.forsake(waiter)
                raise
            if error is not None:
                raise error
            slot = self.slot
            if slot.keep_until > _NEVER and not self.pool._keeper.gone(slot.conn):
                break  # as ask_again would say, asked in one way only: it is sound, and it lives
            waiter = self.pool._lender.ask_again(self, waiter)
        return self.slot.conn  # type: ignore[no-any-return]

    if TYPE_CHECKING:

        async def begin(self) -> C:
            """Get a connection, whatever that takes."""
    else:
        # The same function twice: as a coroutine for `async with`, and bare for `await`, which would need
        # a second object around a coroutine. A real one: to make a task of it, CPython 3.12 asks for that.
        begin = types.FunctionType(
            _begin.__code__.replace(
                co_flags=_begin.__code__.co_flags & ~inspect.CO_GENERATOR | inspect.CO_COROUTINE
            ),
            globals(),
            "begin",
        )

    def _end(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Awaitable[None]:
        pool = self.pool
        if error is None:
            slot = self.slot
            clock = pool._now
            now = clock()
            # Not in time: too old soon, new, soiled, cut meanwhile, or no lease. Another task: maybe another
            # thread or loop. No task: the pool has more to do than this (and who has none gets no time).
            if now < slot.keep_until and task_of(pool._home) is self.task:
                after_lease = pool._after_lease
                try:
                    verdict = after_lease(slot.conn, None)
                except FAULTS as fault:
                    verdict = pool._lender.no_verdict(fault)
                except BaseException:  # the program is to end: nobody can vouch for the connection
                    pool._lender.end(self, None, discard=True)
                    raise
                if verdict is not _KEEP:
                    pool._lender.end_in_passing(self, verdict, now)
                    return TOLD
                self.slot = _SPENT
                slot.returned_at = now
                slot.hold = None  # first: another thread that counts may miss it, not count it twice
                held = pool._held
                held.append(now - self.since)
                if len(held) > NOTED:
                    pool._hold_times.fold()
                if pool._order and (waiter := pool._queue.take()) is not None:
                    pool._lender.pass_on(slot, waiter, now)
                    return DONE
                slot.state = _IDLE
                slot.was_lent = True
                pool._idle.append(slot)
                return DONE
        pool._lender.end(self, error)
        return TOLD


class Acquire(Hold[C]):
    """What `pool.acquire()` returns: used once, by `async with` or by `await`."""

    __slots__ = ()

    if TYPE_CHECKING:

        async def __aenter__(self) -> C: ...
        async def __aexit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None: ...
    else:
        __aenter__ = Hold.begin
        __aexit__ = Hold._end

    def __await__(self) -> Generator[Any, None, C]:
        self.explicit = True
        return self._begin()


class Lease(Hold[C]):
    """A lease with an identity, for every kind of pool: from `await pool.lease()`.

    Use it as a context manager, or end it with `release` or `discard`.
    """

    __slots__ = ()

    def __init__(self, pool: ConnectionPool[C], timeout: Timeout) -> None:
        self.pool = pool
        self.timeout = timeout
        self.slot = UNASKED
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
        return cast("C", self.slot.conn)

    def release(self, error: BaseException | None = None) -> None:
        """Give the connection back; `error` is what the driver judges it by.

        Raises:
            ReleaseError: the lease is over already.
            WrongLoop: not in the loop that the pool belongs to.
        """
        if here() != self.pool._here:
            self.pool._check_loop()  # the task that runs in the pool's loop may be waiting for this thread
        self._end(None, error, None)

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
            if here() != self.pool._here and kind is not GeneratorExit:
                self.pool._check_loop()  # as above
            self._end(kind, error, trace)


class Attended(Hold[C]):
    """A lease of a pool that wants to know of every one: it counts uses, looks for leaks, or is listened to.

    The same as the others, and what has happened in passing is noted and told.
    """

    __slots__ = ()

    async def begin(self) -> C:
        """Get a connection, whatever that takes."""
        if self.slot is UNASKED:
            self.is_told = False
            self._number = 0  # to come: a missing one takes an exception, a third of a listener's cost
        try:
            conn = await Hold.begin(self)
            if not self.is_told:
                self.pool._lender.note_begin(self)
        except BaseException as error:  # of a listener: the borrower never saw it
            if self.is_out:
                self.pool._lender.end(self, error)
            raise
        return conn

    def _end(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Awaitable[None]:
        pool = self.pool
        slot = self.slot
        if pool._order:  # to be told before the one who gets it is
            pool._lender.end(self, error)
        elif Hold._end(self, kind, error, trace) is not TOLD:
            if pool._is_noted:
                pool._upkeep.forget(self)
            pool._announcer.tell_at_once(EventKind.RETURNED, slot, self, slot.returned_at - self.since)
        return DONE


class AttendedAcquire(Attended[C], Acquire[C]):
    """What `pool.acquire()` returns while the pool wants to know of every lease."""

    __slots__ = ()

    if not TYPE_CHECKING:
        __aenter__ = Attended.begin
        __aexit__ = Attended._end

    def __await__(self) -> Generator[Any, None, C]:
        self.explicit = True
        return self.begin().__await__()


class AttendedLease(Attended[C], Lease[C]):
    """What `pool.lease()` gives while the pool wants to know of every lease."""

    __slots__ = ()


class Sharing(Hold[C]):
    """A lease of a shared pool: as short a way, on which others may be."""

    __slots__ = ()

    async def begin(self) -> C:
        """Get a connection, whatever that takes."""
        pool = self.pool
        if (
            self.slot is UNASKED
            and not self.explicit
            and not pool._order
            and (task := task_of(pool._commons)) is not None
            and here() == pool._here
            and pool._lender.share(self, task)
        ):
            return self.slot.conn  # type: ignore[no-any-return]
        return await Hold.begin(self)

    def _end(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Awaitable[None]:
        pool = self.pool
        slot = self.slot
        if (
            error is None
            and not pool._order
            and (now := pool._now()) < slot.keep_until  # which the end of somebody else's lease may have set
            and self.task is not None
            and task_of(pool._commons) is self.task
            and not pool._is_attended
        ):
            try:
                verdict = pool._lender.judge(slot, None)
            except BaseException:  # the program is to end: nobody can vouch for the connection
                pool._lender.end(self, None, discard=True)
                raise
            if verdict is _KEEP:
                pool._lender.unshare(self, now)
            else:
                pool._lender.end(self, None, verdict=verdict)
        else:
            pool._lender.end(self, error)
        return DONE


class SharingAcquire(Sharing[C], Acquire[C]):
    """What `pool.acquire()` returns in a shared pool."""

    __slots__ = ()

    if not TYPE_CHECKING:
        __aenter__ = Sharing.begin
        __aexit__ = Sharing._end


class SharingLease(Sharing[C], Lease[C]):
    """What `pool.lease()` gives in a shared pool."""

    __slots__ = ()
