"""What a pool does by itself while nobody asks: trims, retires, pings, fills, and looks for leaks."""

from __future__ import annotations

import asyncio
import logging
import traceback
from asyncio import _get_running_loop as running_loop
from typing import TYPE_CHECKING, Any, Final

from millpond._core.alarm import Alarm
from millpond._core.retirement import idle_deadline, ping_due_at, reason_to_retire
from millpond.events import CloseReason, EventKind
from millpond.status import PoolState

if TYPE_CHECKING:
    from millpond._core.lease import Hold
    from millpond._core.pool import ConnectionPool
    from millpond._core.slot import Slot

logger = logging.getLogger("millpond")

LONGEST_PAUSE_S: Final = 5.0
"""Most seconds between two sweeps; a returned connection does not move the timer."""
SHORTEST_PAUSE_S: Final = 0.005


class Upkeep:
    """This sweeps one pool, as often as its settings make useful."""

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self._pool = pool
        self._alarm: Alarm | None = None
        self.leaked = 0
        # By lease number, for leases that are out: where they were taken, and which were reported.
        self._stacks: dict[int, tuple[str, ...]] = {}
        self._reported: set[int] = set()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin sweeping."""
        self._alarm = Alarm(loop, self._sweep)
        self.plan()

    def stop(self) -> None:
        """End sweeping."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def plan(self) -> None:
        """Set the timer to the next instant at which something may be due."""
        if self._alarm is None:
            return
        pool = self._pool
        settings = pool.settings
        now = pool._now()
        intervals = (
            settings.idle_timeout,
            settings.health_check_interval,
            settings.max_lifetime,
            settings.leak_detection_threshold,
        )
        pause = min([LONGEST_PAUSE_S, *(each / 4 for each in intervals if each is not None)])
        due = now + pause
        # A ping that may not begin now must not set the timer either: it would ring all the time.
        looks_for_pings = pool._tender.may_sweep
        for slot in pool._idle:
            due = min(due, slot.retire_at)
            if looks_for_pings:
                due = min(due, ping_due_at(slot, settings))
            if pool._ledger.live > settings.min_size:
                due = min(due, idle_deadline(slot, settings))
        self._alarm.set(max(due, now + SHORTEST_PAUSE_S))

    def _sweep(self, _late: float) -> None:
        pool = self._pool
        if pool.state in (PoolState.CLOSING, PoolState.CLOSED, PoolState.NEW):
            return
        now = pool._now()
        self.retire(now)
        pool._tender.sweep(now)
        self._report_leaks(now)
        pool._pump()
        pool._announcer.settle()
        self.plan()

    def retire(self, now: float) -> None:
        """Close idle connections that have served long enough, or are too many, coldest first."""
        pool = self._pool
        ledger = pool._ledger
        settings = pool.settings
        for slot in list(pool._idle):
            if pool._keeper.gone(slot.conn):
                pool._keeper.discard(slot, CloseReason.BROKEN, None)
            elif reason := reason_to_retire(slot, now, ledger.generation, settings):
                pool._keeper.retire(slot, reason)
            elif self._is_too_many(slot, now):
                pool._keeper.retire(slot, CloseReason.IDLE)

    def _is_too_many(self, slot: Slot, now: float) -> bool:
        """Nobody needs it: it has been idle for too long, or more than `max_idle` are."""
        ledger, settings = self._pool._ledger, self._pool.settings
        if settings.max_idle is not None and ledger.idle_count > settings.max_idle:
            return True
        return ledger.live > settings.min_size and idle_deadline(slot, settings) <= now

    def note_stack(self, hold: Hold[Any]) -> None:
        """Remember where a lease is taken, for the report of a leak."""
        task = hold.task
        if task is None:
            return
        if running_loop() is not None and asyncio.current_task() is task:
            stack = traceback.extract_stack(limit=12)
        else:
            frames = task.get_stack(limit=8)
            stack = traceback.StackSummary.extract((frame, frame.f_lineno) for frame in frames)
        self._stacks[hold.number] = tuple(stack.format())

    def stack_of(self, hold: Hold[Any]) -> tuple[str, ...]:
        """Where a lease was taken, the innermost call last; empty when nobody looks for leaks."""
        return self._stacks.get(hold.number, ())

    def forget(self, hold: Hold[Any]) -> None:
        """The lease is over."""
        if self._stacks:
            self._stacks.pop(hold.number, None)

    def _report_leaks(self, now: float) -> None:
        """Say once of each lease that it is held too long, or that its task has ended."""
        threshold = self._pool.settings.leak_detection_threshold
        out = [(slot, hold) for slot in self._pool._slots() for hold in slot.leases]
        numbers = {hold.number for _, hold in out}
        self._reported &= numbers
        if self._stacks.keys() - numbers:  # the short way, open again without a threshold, forgets none
            self._stacks = {number: self._stacks[number] for number in self._stacks.keys() & numbers}
        for slot, hold in out:
            ended = hold.task is not None and hold.task.done()
            too_long = threshold is not None and now - hold.since >= threshold
            if (ended or too_long) and hold.number not in self._reported:
                self._report(slot.number, hold, now, ended)

    def _report(self, number: int, hold: Hold[Any], now: float, ended: bool) -> None:
        self._reported.add(hold.number)
        self.leaked += 1
        pool = self._pool
        stack = self.stack_of(hold)
        task = hold.task.get_name() if hold.task is not None else "no task"
        why = "its task has ended" if ended else "held longer than leak_detection_threshold"
        where = "".join(stack[-3:])
        logger.warning(
            "%s: lease %d of connection %d may be lost: %s (task %s, held %.1f s)%s",
            pool.name, hold.number, number, why, task, now - hold.since, f"\n{where}" if where else "",
        )  # fmt: skip
        pool._announcer.tell(
            EventKind.LEAKED, slot=hold.slot, lease=hold.number, seconds=now - hold.since, reason=why,
            detail=task + (f": {stack[-1].strip()}" if stack else ""),
        )  # fmt: skip
