"""The short way of a lease in annotated Python, for mypyc and Cython to compile: to measure, never shipped.

The steps are those of `millpond._core.lease.Acquire`. The attributes are declared, so that a compiler can
lay them out; what the pool's attributes say is copied into a `Desk`. For Cython, `short_way.pxd` declares
the same once more.
"""

from __future__ import annotations

from typing import Any, Final

from millpond._core.calls import FAULTS
from millpond._core.lease import _SPENT, DONE, NOTED, UNASKED, Hold
from millpond._core.slot import SlotState
from millpond._core.whereabouts import here, task_of
from millpond.driver import Verdict
from millpond.settings import UNSET

_MOST_NOTED: Final[int] = NOTED
_BUSY: Final = SlotState.BUSY
_IDLE: Final = SlotState.IDLE
_KEEP: Final = Verdict.KEEP
_LONG_WAY: Final[Any] = Hold.begin


class Place:
    """The fields of `millpond._core.slot.Slot`; its methods come from there."""

    number: Any
    generation: Any
    state: Any
    conn: Any
    hold: Any
    sharers: Any
    doom: Any
    uses: Any
    is_new: bool
    was_lent: bool
    needs_reset: bool
    opened_at: float
    draw: float
    _idle_since: float
    _proved_at: float
    retire_at: float
    returned_at: float
    keep_until: float


class Desk:
    """What a pool looks like from the short way."""

    pool: Any
    idle: list[Place]
    home: Any
    here: Any
    clock: Any
    is_closed: Any
    after_lease: Any
    held: list[float]
    hold_times: Any
    order: Any
    queue: Any
    lender: Any
    trusted_s: float

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.sync()

    def sync(self) -> None:
        """Look again at what may have changed."""
        pool = self.pool
        self.idle = pool._idle
        self.home = pool._home
        self.here = pool._here
        self.clock = pool._now
        self.is_closed = pool._is_closed
        self.after_lease = pool._after_lease
        self.held = pool._held
        self.hold_times = pool._hold_times
        self.order = pool._order
        self.queue = pool._queue
        self.lender = pool._lender
        self.trusted_s = pool._trusted_s

    def acquire(self, timeout: Any = UNSET) -> Acquire:
        """As `ConnectionPool.acquire`."""
        return Acquire(self, timeout)


class Acquire:
    """As `millpond._core.lease.Acquire`, for `async with` alone."""

    desk: Desk
    pool: Any
    timeout: Any
    slot: Any
    task: Any
    explicit: bool
    is_told: bool
    since: float
    numbered: int

    def __init__(self, desk: Desk, timeout: Any) -> None:
        self.desk = desk
        self.pool = desk.pool
        self.timeout = timeout
        self.slot = UNASKED
        self.explicit = self.is_told = False
        self.numbered = 0

    @property
    def number(self) -> int:
        """Tells the leases of a pool apart."""
        if not self.numbered:
            self.number_now()
        return self.numbered

    def number_now(self) -> None:
        """Take the next number."""
        self.numbered = next(self.pool._ledger.lease_numbers)

    def close_books(self) -> None:
        """The lease is over."""
        self.slot = _SPENT

    @property
    def is_out(self) -> bool:
        """True from the beginning of the lease to its end."""
        return isinstance(self.slot, Place)

    async def __aenter__(self) -> Any:
        desk = self.desk
        idle = desk.idle
        if idle and self.slot is UNASKED:
            task = task_of(desk.home)
            if task is not None and here() == desk.here:
                slot: Place = idle.pop()
                conn = slot.conn
                now: float = desk.clock()
                try:
                    usable = now - slot.returned_at < desk.trusted_s and not desk.is_closed(conn)
                except FAULTS:
                    usable = False
                except BaseException:
                    idle.append(slot)
                    raise
                if usable:
                    slot.state = _BUSY
                    self.slot = slot
                    self.since = now
                    self.task = task
                    slot.hold = self
                    return conn
                idle.append(slot)
        return await _LONG_WAY(self)

    def __aexit__(self, kind: Any, error: Any, trace: Any) -> Any:
        desk = self.desk
        verdict: Any = None
        # Who has waited may have been served by another pool, in whose books the lease stands.
        if error is None and self.pool is desk.pool and isinstance(self.slot, Place):
            slot: Place = self.slot
            now: float = desk.clock()
            if now < slot.keep_until and task_of(desk.home) is self.task:
                try:
                    verdict = desk.after_lease(slot.conn, None)
                except FAULTS as fault:
                    verdict = desk.lender.no_verdict(fault)
                if verdict is _KEEP:
                    self.slot = _SPENT
                    slot.returned_at = now
                    held = desk.held
                    held.append(now - self.since)
                    if len(held) > _MOST_NOTED:
                        desk.hold_times.fold()
                    if desk.order:
                        waiter = desk.queue.take()
                        if waiter is not None:
                            desk.lender.pass_on(slot, waiter, now)
                            return DONE
                    slot.hold = None
                    slot.state = _IDLE
                    slot.was_lent = True
                    desk.idle.append(slot)
                    return DONE
        self.pool._lender.end(self, error, verdict=verdict)
        return DONE
