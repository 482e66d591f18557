"""Leases: how one begins, at once or in its turn, and what becomes of the connection when it ends."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, TypeVar

from millpond._core.calls import FAULTS
from millpond._core.lease import ASKING, NOTED, UNASKED, Attended
from millpond._core.retirement import fresh_until, is_worn, keep_until, reason_to_retire
from millpond._core.slot import Slot, SlotState
from millpond._core.waiters import Waiter, WaiterState
from millpond._core.whereabouts import here, task_of
from millpond.driver import Verdict
from millpond.errors import ReleaseError, describe
from millpond.events import CloseReason, EventKind
from millpond.settings import UNSET, seconds
from millpond.status import PoolState

if TYPE_CHECKING:
    import asyncio

    from millpond._core.lease import Hold
    from millpond._core.pool import ConnectionPool

C = TypeVar("C")
logger = logging.getLogger("millpond")
_RESET: Final = Verdict.RESET  # an attribute of an enum class is looked up more slowly than a global


class Lender:
    """This begins and ends the leases of one pool."""

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self._pool = pool

    def ask(self, hold: Hold[Any]) -> Waiter | None:
        """Lend at once (None), or queue; who is waiting waits for the waiter's future, then asks again."""
        pool = self._pool
        task = task_of(pool._home)
        is_plain = task is not None and here() == pool._here
        if not is_plain:
            # The mark alone does not tell a loop that ended from the one that runs here now.
            if pool._heir is not None:
                hold.pool = pool._last_heir()
                return hold.pool._lender.ask(hold)
            pool._enter()
            task = task_of(pool._loop)
        if hold.slot is not UNASKED or pool._ledger.leases_per_connection > 1:
            self._refuse_misuse(hold)
        timeout = hold.timeout
        timeout = pool.settings.acquire_timeout if timeout is UNSET else seconds(timeout)
        hold.slot = ASKING
        hold.is_told = True
        hold.task = task
        now = pool._now()
        if (
            is_plain
            and not pool._idle
            and pool._ledger.is_used_up
            and pool.settings.max_waiting is None
            and not pool._announcer.is_heard
        ):
            # Nothing can be refused, told or begun: there is only the queue.
            return pool._waiting.join_plainly(hold, now, None if timeout is None else now + timeout)
        if (
            pool.state is PoolState.OPEN
            and pool._ledger.waiters.first() is None
            and (slot := self.find(now)) is not None
        ):
            self._begin_lease(slot, hold, now)
            pool._announcer.tell(EventKind.LENT, slot=slot, hold=hold)
            if pool._ledger.live < pool.settings.min_size:
                pool._pump()  # dead ones may have been met on the way
            pool._announcer.settle()
            return None
        return pool._waiting.join(hold, now, None if timeout is None else now + timeout)

    def ask_again(self, hold: Hold[Any], waiter: Waiter) -> Waiter | None:
        """It was served: None. What it got may have been lost before it ran; then it queues in its old place.

        It may have died, or been spoiled by one of those who share it.
        """
        slot = hold.slot
        if slot.state is SlotState.BUSY and not slot.is_spoiled and not self._pool._keeper.gone(slot.conn):
            return None
        self.take_back(hold)
        pool = self._pool
        pool._ledger.queued -= 1
        place = waiter.place
        if pool._heir is not None:
            pool._pump()
            pool._announcer.settle()
            pool = hold.pool = pool._last_heir()
            place = pool._queue.front()  # it was ahead of everybody who has moved there
        return pool._waiting.join(hold, waiter.queued_at, waiter.deadline, place=place)

    def _refuse_misuse(self, hold: Hold[Any]) -> None:
        if hold.slot is not UNASKED:
            why = "what acquire() returned is used once; call acquire() again"
        elif hold.explicit and self._pool.settings.max_leases_per_connection > 1:
            why = "a shared pool cannot tell leases apart by connection: use `async with` or lease()"
        else:
            return
        raise ReleaseError(self._pool.name, why=why)

    def take_back(self, hold: Hold[Any]) -> None:
        """Undo a hand-over that its borrower never saw; the connection was not used."""
        pool = self._pool
        slot = hold.slot
        hold.slot = ASKING
        if slot is ASKING:
            return
        ledger = pool._ledger
        ledger.unlent += 1
        ledger.end_lease(slot, hold)
        pool._upkeep.forget(hold)
        slot.uses -= 1
        pool._announcer.tell(EventKind.RETURNED, slot=slot, hold=hold)
        if slot.state is SlotState.GONE:
            ledger.forget_object(slot)
        elif pool._keeper.gone(slot.conn):
            pool._keeper.discard(slot, CloseReason.BROKEN, None)
        elif slot.leases:
            ledger.note_room(slot)
        elif reason := pool._keeper.reason_to_go(slot, pool._now()):
            pool._keeper.retire(slot, reason)
        elif slot.needs_reset:
            pool._tender.reset(slot, pool._now())
        else:
            pool._keeper.offer(slot)

    def find(self, now: float) -> Slot | None:
        """A connection that may be lent at this moment; unfit ones met on the way are sent off."""
        pool = self._pool
        idle = pool._idle
        for index in range(len(idle) - 1, -1, -1):
            if index >= len(idle):
                continue
            slot = idle[index]
            if pool._keeper.gone(slot.conn):
                pool._keeper.discard(slot, CloseReason.BROKEN, None)
            elif reason := reason_to_retire(slot, now, pool._ledger.generation, pool.settings):
                pool._keeper.retire(slot, reason)
            elif now < fresh_until(slot, pool.settings):
                return slot
        while (shared := pool._ledger.least_leased()) is not None:
            if pool._keeper.gone(shared.conn):
                pool._keeper.discard(shared, CloseReason.BROKEN, None)
            elif reason := reason_to_retire(shared, now, pool._ledger.generation, pool.settings):
                shared.condemn(reason)
                pool._ledger.note_room(shared)
            else:
                return shared
        return None

    def _begin_lease(self, slot: Slot, hold: Hold[Any], now: float) -> None:
        pool = self._pool
        hold.slot = slot
        hold.since = now
        hold.number_now()
        if hold.task is None or (pool._is_attended and not isinstance(hold, Attended)):
            slot.close_short_way()  # which goes by the task, and tells only of what was asked for to be told
        pool._ledger.lend(slot, hold)  # from now on other threads see who holds it
        if pool._is_noted:
            self._note(slot, hold)

    def share(self, hold: Hold[Any], task: asyncio.Task[Any]) -> bool:
        """Begin a lease of a shared pool in passing; False where that takes a closer look.

        As `find` chooses: the warmest that is idle, or the busy one with the fewest leases.
        """
        pool = self._pool
        ledger = pool._ledger
        idle = pool._idle
        now = pool._now()
        if idle:
            slot = idle[-1]
            if now - slot.returned_at >= pool._trusted_s or pool._keeper.gone(slot.conn):
                return False
            idle.pop()
            slot.state = SlotState.BUSY
        else:
            busy = ledger.least_leased()
            if busy is None or now >= busy.keep_until or pool._keeper.gone(busy.conn):
                return False
            slot = busy
        hold.slot = slot
        hold.since = now
        hold.task = task
        slot.sharers.append(hold)
        if len(slot.sharers) < ledger.leases_per_connection:
            ledger.roomy[slot.number] = slot
        else:
            ledger.roomy.pop(slot.number, None)
        return True

    def unshare(self, hold: Hold[Any], now: float) -> None:
        """End a lease of a shared pool in passing: nobody waits, and all is well with its connection."""
        pool = self._pool
        slot = hold.slot
        hold.close_books()
        slot.sharers.remove(hold)  # first: see Hold._end
        held = pool._held
        held.append(now - hold.since)
        if len(held) > NOTED:
            pool._hold_times.fold()
        if slot.sharers:
            slot.proved_at = now
            pool._ledger.roomy[slot.number] = slot
            return
        pool._ledger.roomy.pop(slot.number, None)
        slot.returned_at = now
        slot.state = SlotState.IDLE
        slot.was_lent = True
        pool._idle.append(slot)

    def _note(self, slot: Slot, hold: Hold[Any]) -> None:
        """A lease has begun that is one of so many, or will be looked for when it is held too long."""
        settings = self._pool.settings
        if is_worn(slot, settings):
            slot.close_short_way()  # it goes when it comes back
        if settings.leak_detection_threshold is not None:
            self._pool._upkeep.note_stack(hold)

    def note_begin(self, hold: Hold[Any]) -> None:
        """A lease of a pool that wants to know of every one has begun in passing."""
        pool = self._pool
        slot = hold.slot
        if pool._is_noted:
            slot.uses += 1
            self._note(slot, hold)
        pool._announcer.tell_at_once(EventKind.LENT, slot, hold, 0.0)

    def serve(self, now: float) -> None:
        """Give what is idle, or has room, to those who wait, in their order."""
        waiters = self._pool._ledger.waiters
        while (waiter := waiters.first()) is not None and (slot := self.find(now)) is not None:
            self.hand(waiter, slot, now)

    def pass_on(self, slot: Slot, waiter: Waiter, now: float) -> None:
        """Give a connection that has just come back to one taken from the queue; nobody needs to be told."""
        pool = self._pool
        ledger = pool._ledger
        hold = waiter.hold
        hold.slot = slot
        hold.since = now
        hold.number_now()
        if hold.task is None:
            slot.close_short_way()
        slot.hold = hold  # last: from now on other threads see who holds it
        ledger.handed += 1
        waits = pool._wait_times
        waits.fresh.append(now - waiter.queued_at)
        if len(waits.fresh) > NOTED:
            waits.fold()
        waiter.future.set_result(None)
        if pool._is_attended:  # the lease that has just ended was asked for before anybody wanted to know
            slot.close_short_way()
            if pool._is_noted:
                slot.uses += 1
                self._note(slot, hold)
            pool._announcer.tell(EventKind.LENT, slot=slot, hold=hold, seconds=now - waiter.queued_at)
            pool._announcer.settle()

    def hand(self, waiter: Waiter, slot: Slot, now: float) -> None:
        """Give `slot` to the one who is next."""
        pool = self._pool
        pool._ledger.settle(waiter, WaiterState.SERVED)
        pool._ledger.handed += 1
        self._begin_lease(slot, waiter.hold, now)
        pool._wait_times.record(now - waiter.queued_at)
        pool._announcer.tell(EventKind.LENT, slot=slot, hold=waiter.hold, seconds=now - waiter.queued_at)
        waiter.future.set_result(None)

    def end(
        self,
        hold: Hold[Any],
        error: BaseException | None,
        *,
        verdict: Verdict | None = None,
        discard: bool = False,
    ) -> None:
        """A borrower gives its connection back."""
        pool = self._pool
        slot = hold.slot
        if not hold.is_out:
            raise ReleaseError(pool.name, why="this lease is over already, or never began")
        if isinstance(error, GeneratorExit) and pool._loop is not None and pool._loop.is_closed():
            # Its coroutine was collected after the loop had ended: nobody did wrong, nobody can be told.
            hold.close_books()
            pool._life.drop_everything()
            return
        pool._check_loop()
        ledger = pool._ledger
        now = pool._now()
        hold.close_books()
        if hold not in slot.leases:
            return  # detached: the connection is the borrower's
        ledger.end_lease(slot, hold)
        pool._upkeep.forget(hold)
        pool._hold_times.record(now - hold.since)
        pool._announcer.tell(EventKind.RETURNED, slot=slot, hold=hold, seconds=now - hold.since)
        if slot.state is SlotState.GONE:
            ledger.forget_object(slot)  # cut while it was out
        elif discard:
            pool._keeper.discard(slot, CloseReason.DISCARDED, error)
        else:
            try:
                said = verdict if isinstance(verdict, Verdict) else self.judge(slot, error)
            except BaseException:  # the program is to end: nobody can vouch for the connection
                pool._keeper.discard(slot, CloseReason.SPOILED, error)
                pool._pump()
                pool._announcer.settle()
                raise
            self._put_away(slot, error, said, now)
        pool._pump()
        pool._announcer.settle()

    def end_in_passing(self, hold: Hold[Any], verdict: Verdict, now: float) -> None:
        """Give back what could be put on the shelf, if it were as its driver wants it to be lent."""
        pool = self._pool
        if verdict is not _RESET or pool._is_attended:
            self.end(hold, None, verdict=verdict)
            return
        # As `end` does it, without the questions whose answers are known on the short way.
        slot = hold.slot
        hold.close_books()
        slot.hold = None  # first: see Hold._end
        held = pool._held
        held.append(now - hold.since)
        if len(held) > NOTED:
            pool._hold_times.fold()
        slot.proved_at = now
        pool._tender.reset(slot, now)

    def _put_away(self, slot: Slot, error: BaseException | None, verdict: Verdict, now: float) -> None:
        """Do what the verdict says with a connection that has just lost a lease."""
        pool = self._pool
        if verdict is Verdict.DISCARD_ALL:
            pool._keeper.fail_over(slot, error)
            pool._keeper.discard(slot, CloseReason.FAILOVER, error)
            return
        if verdict is Verdict.DISCARD:
            pool._keeper.discard(
                slot, CloseReason.BROKEN if pool._keeper.gone(slot.conn) else CloseReason.SPOILED, error
            )
            return
        if error is None:
            slot.proved_at = now
            slot.is_new = False
            pool._opener.proof_of_life()
        if verdict is Verdict.RESET:
            slot.soil()
        if slot.leases:
            slot.keep_until = keep_until(slot, pool.settings)
            pool._ledger.note_room(slot)
        elif reason := pool._keeper.reason_to_go(slot, now):
            pool._keeper.retire(slot, reason)
        elif slot.needs_reset:
            pool._tender.reset(slot, now)
        else:
            slot.idle_since = now
            slot.keep_until = keep_until(slot, pool.settings)
            pool._keeper.offer(slot)

    def judge(self, slot: Slot, error: BaseException | None) -> Verdict:
        """What the driver says of a connection after its lease."""
        pool = self._pool
        try:
            verdict: object = pool.driver.after_lease(slot.conn, error)
        except FAULTS as fault:  # a driver's fault must not lose the connection's place
            return self.no_verdict(fault)
        if isinstance(verdict, Verdict):
            return verdict
        return self.no_verdict(TypeError(f"it must return a Verdict, got {type(verdict).__name__}"))

    def no_verdict(self, fault: BaseException) -> Verdict:
        """A driver that raises, or says what nobody understands, knows nothing about its connection."""
        pool = self._pool
        logger.error(
            "%s: after_lease() failed, connection discarded: %s", pool.name, describe(fault, pool._redact)
        )
        return Verdict.DISCARD
