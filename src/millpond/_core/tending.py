"""Pings, resets and polite closes: what is done to connections that nobody has borrowed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from millpond._core.calls import Call
from millpond._core.opening import HEDGE_S
from millpond._core.retirement import keep_until, ping_due_at, reason_to_retire
from millpond._core.slot import Slot, SlotState
from millpond._core.whereabouts import NOWHERE
from millpond.events import CloseReason, EventKind
from millpond.status import PoolState

if TYPE_CHECKING:
    from millpond._core.pool import ConnectionPool

# An attribute of an enum class is looked up more slowly than a global.
_BUSY: Final = SlotState.BUSY
_TENDING: Final = SlotState.TENDING


async def _done(do: Callable[[Any], Awaitable[None]], conn: Any) -> None:
    """Call the driver inside of the task: one that raises before its first await fails like any other."""
    await do(conn)


class Tender:
    """This pings, resets and closes the connections of one pool, each in a call of its own."""

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self._pool = pool
        self.pings = self.ping_failures = self.resets = self.reset_failures = 0
        self.pinging = 0
        self._under_way: dict[int, Call[Any]] = {}  # by slot number; pings and resets
        self._closings: dict[int, Call[Any]] = {}

    def prospects(self, now: float) -> int:
        """Pings and resets young enough that a waiter may count on them instead of a new connection."""
        return sum(1 for call in self._under_way.values() if now - call.started_at < HEDGE_S)

    def ping(self, slot: Slot) -> None:
        """Check an idle connection; it goes to the first waiter, or back to its place."""
        pool = self._pool
        pool._ledger.move(slot, _TENDING)
        self.pings += 1
        self.pinging += 1
        self._start(slot, "ping", pool.driver.ping, pool.settings.health_check_timeout)

    def reset(self, slot: Slot, now: float) -> None:
        """Clean a connection whose lease has ended."""
        pool = self._pool
        if slot.needs_reset:
            slot.needs_reset = False
            slot.keep_until = keep_until(slot, pool.settings)
        slot.idle_since = now
        pool._ledger.move(slot, _TENDING)
        self.resets += 1
        call = self._start(slot, "reset", pool.driver.reset, pool.settings.reset_timeout)
        call.in_passing = partial(self._pass_on, slot)

    def _start(
        self, slot: Slot, verb: str, do: Callable[[Any], Awaitable[None]], timeout: float
    ) -> Call[Any]:
        pool = self._pool
        call = self._under_way[slot.number] = pool._calls.start(
            _done(do, slot.conn),
            verb=verb,
            slot=slot,
            timeout=timeout,
            on_end=lambda call, _none, error: self._tended(slot, call, error),
        )
        if pool._ledger.waiters.live:
            pool._hedge_soon()
        return call

    def _tended(self, slot: Slot, call: Call[Any], error: BaseException | None) -> None:
        pool = self._pool
        now = pool._now()
        self._under_way.pop(slot.number, None)
        is_ping = call.verb == "ping"
        if is_ping:
            self.pinging -= 1
        if call.was_cancelled_from_outside:
            pool._opener.hold_off(now)
        if slot.state is not _TENDING:
            return  # cut meanwhile
        if error is not None or call.timed_out:
            if is_ping:
                self.ping_failures += 1
            else:
                self.reset_failures += 1
            pool._keeper.discard(
                slot, CloseReason.PING_FAILED if is_ping else CloseReason.RESET_FAILED, error
            )
        else:
            if not is_ping:
                pool._announcer.tell(EventKind.RESET, slot=slot)
            slot.proved_at = now
            pool._opener.proof_of_life()
            pool._keeper.offer(slot, keep_place=True)
        pool._pump()
        if is_ping:
            pool._upkeep.plan()  # it may have stood in the way of the next

    def _pass_on(self, slot: Slot, reset: Call[Any]) -> bool:
        """Give what is clean again to the first waiter in passing, as a clean return does; False: not so.

        Nothing else has to be done then: one waiter less, one connection less that others could wait for.
        """
        pool = self._pool
        ledger = pool._ledger
        if (
            pool._home is NOWHERE
            or pool._is_attended
            or slot.state is not _TENDING
            or slot.doom is not None
            or slot.generation != ledger.generation
        ):
            return False
        now = pool._now()
        if now >= slot.retire_at or (waiter := pool._queue.take()) is None:
            return False
        del self._under_way[slot.number]
        pool._calls.forget(reset)
        slot.proved_at = now
        ledger.tending -= 1
        slot.state = _BUSY
        pool._lender.pass_on(slot, waiter, now)
        return True

    def close(self, slot: Slot, reason: CloseReason) -> None:
        """Close politely; the place stays taken until that is done."""
        pool = self._pool
        pool._ledger.move(slot, SlotState.CLOSING)
        self._closings[slot.number] = pool._calls.start(
            _done(pool.driver.close, slot.conn),
            verb="close",
            slot=slot,
            timeout=pool.settings.disconnect_timeout,
            on_end=lambda call, _none, error: self._closed(slot, call, reason, error),
        )

    def _closed(self, slot: Slot, call: Call[Any], reason: CloseReason, error: BaseException | None) -> None:
        pool = self._pool
        self._closings.pop(slot.number, None)
        if slot.state is not SlotState.CLOSING:
            return
        # One that was told to stop may have finished all the same: then there is nothing left to cut.
        if error is not None or (call.timed_out and not pool._keeper.gone(slot.conn)):
            pool._keeper.terminate(slot.conn)
        pool._keeper.dismiss(slot, reason)
        pool._pump()

    def abort_tending(self) -> None:
        """Cut every connection that is being pinged or reset: the pool is closing."""
        pool = self._pool
        for slot in pool._slots():
            if slot.state is _TENDING:
                call = self._under_way.pop(slot.number, None)
                pool._keeper.cut(slot, CloseReason.POOL_CLOSED)
                if call is not None:
                    call.abort()

    def hurry_closings(self) -> None:
        """Stop being polite to those that are still closing."""
        for call in list(self._closings.values()):
            call.abort()

    @property
    def may_sweep(self) -> bool:
        """True while the sweep may begin a ping."""
        pool = self._pool
        is_lending = pool.state in (PoolState.OPEN, PoolState.PAUSED)
        return is_lending and self.pinging < pool.settings.max_connecting

    def sweep(self, now: float) -> None:
        """Ping idle connections that were neither used nor pinged for health_check_interval."""
        pool = self._pool
        for slot in list(pool._idle):
            if not self.may_sweep:
                return
            if ping_due_at(slot, pool.settings) <= now and not reason_to_retire(
                slot, now, pool._ledger.generation, pool.settings
            ):
                self.ping(slot)
