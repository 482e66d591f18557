"""What becomes of a connection that nobody holds: lent, kept, closed politely, or cut."""

from __future__ import annotations

import logging
from contextvars import Context
from typing import TYPE_CHECKING, Any

from millpond._core.calls import FAULTS
from millpond._core.retirement import reason_to_retire, trusted_from
from millpond._core.slot import UNFIT, Slot, SlotState
from millpond.errors import describe
from millpond.events import CloseReason, EventKind
from millpond.status import PoolState

if TYPE_CHECKING:
    import asyncio

    from millpond._core.pool import ConnectionPool

logger = logging.getLogger("millpond")


class Keeper:
    """This keeps the connections of one pool, and lets go of them."""

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self._pool = pool
        self.discarded = 0  # judged unfit, ever
        self._spread: dict[int, asyncio.TimerHandle] = {}  # by slot number: closings that clear() spread out

    def reason_to_go(self, slot: Slot, now: float) -> CloseReason | None:
        """Why a connection without a lease must not be lent again, or None."""
        pool = self._pool
        if pool.state in (PoolState.CLOSING, PoolState.CLOSED):
            return slot.doom if slot.doom in UNFIT else CloseReason.POOL_CLOSED
        reason = reason_to_retire(slot, now, pool._ledger.generation, pool.settings)
        if reason is None and pool._ledger.surplus and self._is_too_large:
            return CloseReason.SHRUNK
        return reason

    @property
    def _is_too_large(self) -> bool:
        """More places are taken than `max_size`, and will be when the attempts told to stop have stopped."""
        return self._pool._ledger.surplus > self._pool._opener.leaving

    def offer(self, slot: Slot, *, keep_place: bool = False) -> None:
        """A clean connection without a lease: to the first waiter, or onto the shelf."""
        pool = self._pool
        now = pool._now()
        ledger = pool._ledger
        if reason := self.reason_to_go(slot, now):
            self.retire(slot, reason)
            return
        if self._should_yield():
            self.retire(slot, CloseReason.SHED)
            return
        if pool.state is PoolState.OPEN:
            most_uses = pool.settings.max_uses
            while (
                len(slot.leases) < ledger.leases_per_connection
                and (most_uses is None or slot.uses < most_uses)
                and (waiter := ledger.waiters.first()) is not None
            ):
                pool._lender.hand(waiter, slot, now)
            if slot.leases:
                return
        most = pool.settings.max_idle
        if most is not None and ledger.idle_count >= most:
            if not pool._idle:
                self.retire(slot, CloseReason.IDLE)
                return
            self.retire(pool._idle[0], CloseReason.IDLE)
        slot.trust_from(trusted_from(slot, pool.settings))
        ledger.park(slot, keep_place=keep_place)

    def retire(self, slot: Slot, reason: CloseReason) -> None:
        """Close politely what is still good; cut what is not, or known to be dead."""
        pool = self._pool
        if reason in UNFIT or self.gone(slot.conn):
            self.cut(slot, reason)
        else:
            pool._tender.close(slot, reason)

    def discard(self, slot: Slot, reason: CloseReason, error: BaseException | None) -> None:
        """An unfit connection: cut now, or when the last of those who share it has let go of it."""
        pool = self._pool
        self.discarded += 1
        detail = "" if error is None else describe(error, pool._redact)
        pool._announcer.tell(EventKind.DISCARDED, slot=slot, reason=reason, detail=detail)
        if slot.leases and not self.gone(slot.conn):
            slot.condemn(reason)
            pool._ledger.note_room(slot)
        else:
            self.cut(slot, reason)

    def cut(self, slot: Slot, reason: CloseReason) -> None:
        """Terminate it and free its place at once."""
        self.terminate(slot.conn)
        self.dismiss(slot, reason)

    def dismiss(self, slot: Slot, reason: CloseReason) -> None:
        """Strike it off the books: it has been closed, cut or detached."""
        pool = self._pool
        pool._ledger.dismiss(slot, reason)
        pool._announcer.tell(EventKind.CLOSED, slot=slot, reason=reason, seconds=pool._now() - slot.opened_at)

    def terminate(self, conn: Any) -> None:
        """End it at once; a driver that raises is logged, for nothing more can be done."""
        pool = self._pool
        try:
            pool.driver.terminate(conn)
        except FAULTS as fault:
            logger.error("%s: terminate() raised: %s", pool.name, describe(fault, pool._redact))

    def gone(self, conn: Any) -> bool:
        """Does the driver know that it is closed? One that raises cannot vouch for it."""
        pool = self._pool
        try:
            return pool.driver.is_closed(conn)
        except FAULTS as fault:
            logger.error("%s: is_closed() raised: %s", pool.name, describe(fault, pool._redact))
            return True

    def fail_over(self, slot: Slot, error: BaseException | None) -> None:
        """This node is no longer the one: a new generation, once, however many borrowers say so."""
        pool = self._pool
        if slot.generation == pool._ledger.generation:
            pool._opener.suspicious = True
            self.new_generation(0.0)
            if slot.is_new:  # a fresh connection found unfit: the next attempt may wait for the backoff
                pool._opener.note_failure(slot, error or ConnectionError("unfit"), pool._now())

    def new_generation(self, spread: float) -> None:
        """From now on no connection of today is lent; idle ones go at once, or over `spread` seconds."""
        pool = self._pool
        ledger = pool._ledger
        ledger.generation += 1
        for call in list(pool._openings.values()):
            call.abort()
        for slot in pool._slots():
            if slot.state is SlotState.BUSY:
                slot.condemn(CloseReason.CLEARED)
                ledger.note_room(slot)
        if spread <= 0:
            for slot in [*ledger.doomed_idle, *ledger.idle]:
                self.retire(slot, CloseReason.CLEARED)
        else:
            self._retire_slowly(list(ledger.idle), spread)
        pool._announcer.tell(EventKind.CLEARED)

    def _retire_slowly(self, idle: list[Slot], spread: float) -> None:
        loop = self._pool._loop
        assert loop is not None  # noqa: S101 - a pool without a loop has no connections
        for position, slot in enumerate(idle, start=1):
            self._pool._ledger.doom_idle(slot, CloseReason.CLEARED)
            when = spread * position / len(idle)
            self._spread[slot.number] = loop.call_later(when, self._close_doomed, slot, context=Context())

    def _close_doomed(self, slot: Slot) -> None:
        del self._spread[slot.number]
        if slot.state is SlotState.IDLE and slot.doom is not None:
            self.retire(slot, slot.doom)
            self._pool._pump()
            self._pool._announcer.settle()

    def stop(self) -> None:
        """Leave no timer behind: the pool closes what is left by itself."""
        for timer in self._spread.values():
            timer.cancel()
        self._spread.clear()

    def make_room(self) -> bool:
        """No place is free: an idle connection that is only waiting to be closed gives its own, if any."""
        doomed = self._pool._ledger.doomed_idle
        if not doomed:
            return False
        self.cut(doomed[0], doomed[0].doom or CloseReason.CLEARED)
        return True

    def shrink(self) -> None:
        """After `max_size` was lowered: the youngest attempts and the coldest idle ones make way."""
        pool = self._pool
        ledger = pool._ledger
        for call in list(pool._openings.values())[::-1]:
            if self._is_too_large:
                call.abort()
        while self._is_too_large and (parked := [*ledger.doomed_idle[:1], *ledger.idle[:1]]):
            self.retire(parked[0], parked[0].doom or CloseReason.SHRUNK)

    def shed(self) -> None:
        """Other pools on the shared allowance need places: give up what is idle."""
        while self._shed_one():
            pass  # it was cut, and its place may not have been enough

    def _shed_one(self) -> bool:
        pool = self._pool
        may = pool.state not in (PoolState.CLOSING, PoolState.CLOSED)
        parked = [*pool._ledger.doomed_idle[:1], *pool._idle[:1]]
        if not (may and parked and self._should_yield()):
            return False
        self.retire(parked[0], parked[0].doom or CloseReason.SHED)
        if pool.state not in (PoolState.NEW, PoolState.DRAINING):
            pool._opener.pump(pool._now())  # it may be needed for min_size, when the other is served
        return True

    def _should_yield(self) -> bool:
        """Does another pool on the shared allowance need the place of a connection that is free now?

        One goodbye at a time: the place of what is closing goes to whoever wants one, and the allowance
        cannot know before it is free: all that come back in one turn would be given up for one who waits.
        """
        pool = self._pool
        ledger = pool._ledger
        if ledger.allowance is None or ledger.closing:
            return False
        above_floor = ledger.live > pool.settings.min_size
        return ledger.allowance.should_yield(pool, ledger.waiters.oldest_at, above_floor=above_floor)
