"""What a pool does by itself while nobody asks: trims, retires, pings, fills, and looks for leaks."""

from __future__ import annotations

import asyncio
import linecache
import logging
import os
import sys
import traceback
from asyncio import _get_running_loop as running_loop
from collections.abc import Sequence
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Final

from millpond._core.alarm import Alarm
from millpond._core.retirement import idle_deadline, ping_due_at, reason_to_retire
from millpond._core.whereabouts import task_of
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
DEEPEST: Final = 10
"""Most calls that are remembered of whoever takes a lease, the pool's own among them."""
_KERNEL: Final = os.path.dirname(__file__) + os.sep

Call = tuple[CodeType, int, dict[str, Any]]
"""What a frame is remembered by: its code, the instruction it was at, and the globals in which its source is
found. Not the frame, whose locals would live as long as the lease; and no line, which takes time to find."""


def _calls_here(above: int) -> list[Call]:
    """The calls that led here, the innermost first, but for the last `above`."""
    calls: list[Call] = []
    # Each frame that is looked at costs, also when its function returns: those left out are never made.
    frame: FrameType | None = sys._getframe(above)
    depth = DEEPEST
    while frame is not None and depth:
        calls.append((frame.f_code, frame.f_lasti, frame.f_globals))
        frame = frame.f_back
        depth -= 1
    return calls


def _calls_of(task: asyncio.Task[Any]) -> list[Call]:
    """Where a task that does not run waits, the innermost call first."""
    frames = reversed(task.get_stack(limit=8))
    return [(frame.f_code, frame.f_lasti, frame.f_globals) for frame in frames]


def _line_of(code: CodeType, instruction: int) -> int:
    for start, end, line in code.co_lines():
        if start <= instruction < end and line is not None:
            return line
    return code.co_firstlineno


def _told(calls: Sequence[Call]) -> tuple[str, ...]:
    """Calls as a traceback has them, the innermost last."""
    frames: list[traceback.FrameSummary | tuple[str, int, str, str | None]] = []
    for code, instruction, found_in in reversed(calls):
        linecache.lazycache(code.co_filename, found_in)
        frames.append((code.co_filename, _line_of(code, instruction), code.co_name, None))
    return tuple(traceback.StackSummary.from_list(frames).format())


class Upkeep:
    """This sweeps one pool, as often as its settings make useful."""

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self._pool = pool
        self._alarm: Alarm | None = None
        self.leaked = 0
        # By lease number, for leases that are out: where they were taken, and which were reported.
        self._stacks: dict[int, list[Call]] = {}
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
        loop = running_loop()
        runs = loop is not None and task_of(loop) is task
        self._stacks[hold.number] = _calls_here(above=3) if runs else _calls_of(task)

    def stack_of(self, hold: Hold[Any]) -> tuple[str, ...]:
        """Where a lease was taken, the innermost call last; empty when nobody looks for leaks."""
        calls = self._stacks.get(hold.number, [])
        # A borrower looks for a line of its own; those of the kernel that follow it are alike for everybody.
        own = next((at for at, (code, *_) in enumerate(calls) if not code.co_filename.startswith(_KERNEL)), 0)
        return _told(calls[own:])

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
            EventKind.LEAKED, slot=hold.slot, hold=hold, seconds=now - hold.since, reason=why,
            detail=task + (f": {stack[-1].strip()}" if stack else ""),
        )  # fmt: skip
