"""How a pool begins and ends: eager opening, draining, closing, and the loop that went away."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from millpond._core import forks
from millpond._core.calls import GRACE_S
from millpond._core.slot import SlotState
from millpond.driver import Lingering
from millpond.errors import PoolError, TimeoutCause
from millpond.events import CloseReason
from millpond.settings import seconds
from millpond.status import PoolState

if TYPE_CHECKING:
    from millpond._core.pool import ConnectionPool


_MOST_STALLS: Final = 5
"""How many times in a row a loop may stand still before the end of a pool waits no longer for its calls."""

LEGAL: Final[Mapping[PoolState, frozenset[PoolState]]] = {
    PoolState.NEW: frozenset({PoolState.OPEN, PoolState.CLOSING, PoolState.CLOSED}),
    PoolState.OPEN: frozenset(
        {PoolState.NEW, PoolState.PAUSED, PoolState.DRAINING, PoolState.CLOSING, PoolState.CLOSED}
    ),
    PoolState.PAUSED: frozenset({PoolState.OPEN, PoolState.DRAINING, PoolState.CLOSING, PoolState.CLOSED}),
    PoolState.DRAINING: frozenset({PoolState.OPEN, PoolState.PAUSED, PoolState.CLOSING, PoolState.CLOSED}),
    PoolState.CLOSING: frozenset({PoolState.CLOSED}),
    PoolState.CLOSED: frozenset(),
}
# OPEN -> NEW is an eager initialize that failed. CLOSED without CLOSING: the loop has ended, or never ran.


class Life:
    """This opens and closes one pool."""

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self._pool = pool
        self.is_hurried = False  # the time for polite goodbyes is over
        self._initializing = 0  # how many wait in an eager initialize()
        self._is_on_trial = False  # such a one opened the pool, and none has succeeded yet

    async def initialize(self, timeout: float | None) -> None:
        """Open the pool; an eager one waits for `min_size` connections.

        When that fails, the last one who waits for it takes back what it opened; a pool that was
        in use before stays as it is.
        """
        pool = self._pool
        timeout = seconds(timeout)
        is_new = pool.state is PoolState.NEW
        pool._enter()
        pool._refuse_if_closed()
        pool._announcer.settle()
        if not pool.settings.eager_init:
            return
        self._is_on_trial = self._is_on_trial or is_new
        self._initializing += 1
        opener = pool._opener
        began = pool._now()
        failures_before, setbacks_before = opener.failures, opener.setbacks

        def decided() -> bool:
            has_failed = opener.failures > failures_before
            in_a_row = opener.setbacks - setbacks_before
            given_up = in_a_row > pool.settings.connect_retries or (has_failed and opener.breaker.is_open)
            is_filling = pool.state in (PoolState.OPEN, PoolState.PAUSED)
            return self._has_floor() or given_up or not is_filling

        try:
            in_time = await pool._announcer.until(decided, None if timeout is None else began + timeout)
        except BaseException:
            self._give_up_initializing()
            raise
        if self._has_floor():
            self._initializing -= 1
            self._is_on_trial = False
            return
        now = pool._now()
        error: PoolError
        if pool.state in (PoolState.CLOSING, PoolState.CLOSED):
            error = pool._closed_error(pool.state.value)
        elif pool.state is PoolState.DRAINING:
            error = pool._timeout_error(now - began, TimeoutCause.DRAINING)
        elif in_time:
            error = opener.connect_error(now, permanent=opener.last_permanent)
        else:
            error = pool._timeout_error(now - began, TimeoutCause.CONNECTING)
        if self._give_up_initializing():
            # Others may use the pool meanwhile: they need not be waited for.
            gone = now + 2 * GRACE_S
            await pool._announcer.until(lambda: not pool._ledger.total and not pool._calls, gone)
        raise error

    def _give_up_initializing(self) -> bool:
        """Leave nothing behind, unless that is somebody else's: who waits still, or used the pool before."""
        self._initializing -= 1
        if self._initializing or not self._is_on_trial:
            return False
        self._is_on_trial = False
        self._undo_initialize()
        return True

    def _has_floor(self) -> bool:
        return self._pool._ledger.live >= self._pool.settings.min_size

    def _undo_initialize(self) -> None:
        """Leave nothing behind: what is idle or being opened goes; what is on loan stays."""
        pool = self._pool
        for call in list(pool._openings.values()):
            call.abort()
        for slot in list(pool._idle):
            pool._keeper.cut(slot, CloseReason.POOL_CLOSED)
        if pool.state is PoolState.OPEN and not pool._ledger.live and not pool._ledger.waiters.live:
            pool._upkeep.stop()
            pool._opener.forgive()
            pool._enter_state(PoolState.NEW)
            pool._calls.rest()
        pool._pump()
        pool._announcer.settle()

    async def drain(self, timeout: float | None) -> None:
        """Give no new leases and wait until the last one is back."""
        pool = self._pool
        timeout = seconds(timeout)
        pool._enter()
        pool._refuse_if_closed()
        pool._enter_state(PoolState.DRAINING)
        pool._pump()
        pool._announcer.settle()
        began = pool._now()
        deadline = None if timeout is None else began + timeout
        if not await pool._announcer.until(lambda: not pool._ledger.leases, deadline):
            raise pool._timeout_error(pool._now() - began, TimeoutCause.DRAINING)

    async def close(self, timeout: float | None) -> None:
        """Fail waiters, wait for borrowers, then cut what is left; each of its waits has an end."""
        pool = self._pool
        timeout = seconds(timeout)
        if pool.state is PoolState.CLOSED:
            return
        if pool._loop is None or pool._loop.is_closed():
            self.end_unused()
            return
        pool._check_loop()
        deadline = None if timeout is None else pool._now() + timeout
        self.begin_to_close()
        await self._borrowers_are_back(deadline)
        self._cut(SlotState.BUSY)
        pool._tender.abort_tending()
        pool._announcer.settle()
        now = pool._now()
        polite = now + pool.settings.disconnect_timeout
        polite = polite if deadline is None else min(polite, max(deadline, now))
        if not await pool._announcer.until(self._is_quiet, polite):
            self._hurry()
            await self._calls_let_go()
        await self._driver_is_quiet(deadline)
        self._finish()

    def break_off(self) -> None:
        """Close without waiting for anybody: nothing is polite, and driver calls end by themselves."""
        pool = self._pool
        if pool.state is PoolState.CLOSED:
            return
        if pool._loop is None or pool._loop.is_closed():
            self.end_unused()
            return
        self._cut(SlotState.IDLE)
        self.begin_to_close()
        self._cut(SlotState.BUSY)
        pool._tender.abort_tending()
        self._hurry()
        self._finish()
        pool._announcer.settle()

    def _hurry(self) -> None:
        """Be polite to nobody any more: neither to those that are closing, nor to what may still arrive."""
        self.is_hurried = True
        self._pool._tender.hurry_closings()

    def end_unused(self) -> None:
        """End a pool never opened, or whose loop is gone; one that is new once more begins to close."""
        if self._pool._loop is not None and not self._pool._loop.is_closed():
            self.begin_to_close()
            return
        self.drop_everything()
        self._pool._enter_state(PoolState.CLOSED)
        forks.forget(self._pool)

    def _cut(self, state: SlotState) -> None:
        """Terminate the connections in this state: the pool ends."""
        for slot in self._pool._slots():
            if slot.state is state:
                self._pool._keeper.cut(slot, CloseReason.POOL_CLOSED)

    async def _calls_let_go(self) -> None:
        """Wait for driver calls that were told to stop: each ends, or is abandoned, within `GRACE_S`.

        One that the loop did not come round to in time gets its grace again, and so does this wait.
        """
        for _ in range(_MOST_STALLS):
            if await self._pool._announcer.until(self._is_quiet, self._pool._now() + 2 * GRACE_S):
                return

    async def _driver_is_quiet(self, deadline: float | None) -> None:
        """Wait for what the driver itself is still ending, then stop it; each of the two has an end."""
        driver = self._pool.driver
        if not isinstance(driver, Lingering) or not (endings := driver.endings()):
            return
        left = math.inf if deadline is None else deadline - self._pool._now()
        most = min(self._pool.settings.disconnect_timeout, max(left, GRACE_S))
        _, late = await asyncio.wait(endings, timeout=most)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=GRACE_S)

    async def _borrowers_are_back(self, deadline: float | None) -> None:
        """Wait for all leases but those of this very task: nobody else could give them back."""
        pool = self._pool
        this_task = asyncio.current_task()

        def only_mine() -> bool:
            return all(hold.task is this_task for slot in pool._slots() for hold in slot.leases)

        await pool._announcer.until(only_mine, deadline)

    def begin_to_close(self) -> None:
        """Refuse newcomers, fail those who wait, and let go of what nobody holds."""
        pool = self._pool
        if pool.state is PoolState.CLOSING:
            return
        pool._enter_state(PoolState.CLOSING)
        pool._upkeep.stop()
        pool._keeper.stop()
        pool._opener.unbind()
        pool._waiting.fail_all(lambda: pool._closed_error("closing"))
        for alarm in (pool._deadlines, pool._hedge):
            if alarm is not None:
                alarm.cancel()
        for call in list(pool._openings.values()):
            call.abort()
        for slot in [*pool._idle, *pool._ledger.doomed_idle]:
            pool._keeper.retire(slot, CloseReason.POOL_CLOSED)
        pool._announcer.settle()

    def _is_quiet(self) -> bool:
        pool = self._pool
        return not pool._ledger.total and len(pool._calls) <= pool._calls.abandoned

    def _finish(self) -> None:
        pool = self._pool
        if pool.state is not PoolState.CLOSING or not self._is_quiet():
            return
        pool._calls.stop()
        if pool._ledger.allowance is not None:
            pool._ledger.allowance.leave(pool)
        pool._enter_state(PoolState.CLOSED)
        forks.forget(pool)
        pool._announcer.settle()

    def drop_everything(self) -> None:
        """The loop is gone: nothing can be awaited any more, so connections are cut."""
        pool = self._pool
        for slot in pool._slots():
            if slot.conn is not None:
                pool._keeper.terminate(slot.conn)
            pool._ledger.dismiss(slot, CloseReason.LOOP_CLOSED)
        pool._calls.drop()
        pool._openings.clear()
        if pool._ledger.allowance is not None:
            pool._ledger.allowance.leave(pool)
        pool._refresh_plain()
