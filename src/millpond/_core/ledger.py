"""The ledger: who holds which slot, and who waits. No I/O, no await, no clock: callers pass now."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from itertools import count, takewhile
from typing import TYPE_CHECKING, Any

from millpond._core.slot import Slot, SlotState
from millpond._core.waiters import Waiter, WaiterState, WaitQueue
from millpond.errors import InvariantBroken
from millpond.events import CloseReason
from millpond.status import Histogram

if TYPE_CHECKING:
    from millpond._core.allowance import Allowance, Member
    from millpond._core.lease import Hold


# An attribute of an enum class is looked up more slowly than a global.
_OPENING, _IDLE, _BUSY = SlotState.OPENING, SlotState.IDLE, SlotState.BUSY
_TENDING, _CLOSING = SlotState.TENDING, SlotState.CLOSING


class Ledger:
    """The books of one pool: every slot from its opening to its end, and every request's outcome.

    Invariants (`audit` checks them):
        len(slots) == opening + idle_count + busy + tending + closing, and <= max_size unless it shrank;
        opened == closed + idle_count + busy + tending + closing;
        queued == handed_out + timed_out + cancelled + refused + failed + waiting;
        a slot is in `idle` exactly when it is IDLE and not doomed; BUSY exactly when it has leases.
    """

    def __init__(
        self, max_size: int, leases_per_connection: int, allowance: Allowance | None, member: Member
    ) -> None:
        self.max_size = max_size
        self.leases_per_connection = leases_per_connection
        self.allowance = allowance
        self._member = member
        self.has_company = allowance is not None  # other pools may want places of the allowance
        self.generation = 0
        self.slots: dict[int, Slot] = {}  # by number
        self.idle: list[Slot] = []  # lendable and without a lease; warmest last
        self.doomed_idle: list[Slot] = []  # parked, but never lent again; closed one by one
        self.roomy: dict[int, Slot] = {}  # shared pools: busy ones that may take one more lease
        self.by_id: dict[int, Slot] = {}  # connections by id(); each entry's slot keeps its object alive
        self.waiters = WaitQueue()
        self.opening = self.tending = self.closing = 0
        self.opened = 0
        self.closed: Counter[CloseReason] = Counter()
        self.hold_times = Histogram()  # of leases that have ended
        self.ended = 0  # leases that ended the long way; the short way only notes its hold time
        self.handed = 0  # leases begun by hand-over
        self.unlent = 0  # of these, never used: the borrower was cancelled meanwhile
        self._peak_busy = 0
        self._lent_before = 0
        self.lease_numbers = count(1)  # for leases that somebody looks at
        self.queued = 0  # requests that could not be served at once
        self.timed_out = self.left_early = self.refused = self.failed = 0
        self._last_number = 0

    # -- counts ---------------------------------------------------------------------------------

    @property
    def total(self) -> int:
        """Slots of every state: what counts against the limit."""
        return len(self.slots)

    @property
    def idle_count(self) -> int:
        """Parked connections, doomed ones included."""
        return len(self.idle) + len(self.doomed_idle)

    @property
    def busy(self) -> int:
        """Connections with at least one lease."""
        return len(self.slots) - self.opening - self.idle_count - self.tending - self.closing

    @property
    def live(self) -> int:
        """Connections that work as far as anybody knows: idle, busy and tending."""
        return len(self.slots) - self.opening - self.closing

    @property
    def has_room(self) -> bool:
        """True when one more slot would keep to max_size; a shared allowance may still say no."""
        return len(self.slots) < self.max_size

    @property
    def is_used_up(self) -> bool:
        """True when nothing can be lent, opened or made room for: only a return or an end changes that."""
        return (
            len(self.slots) >= self.max_size
            and not self.idle
            and not self.roomy
            and not self.doomed_idle
            and not self.has_company
        )

    def note_company(self) -> None:
        """See anew whether the allowance is shared with anybody."""
        self.has_company = self.allowance is not None and not self.allowance.is_alone(self._member)

    @property
    def surplus(self) -> int:
        """How many slots are above max_size after a shrink."""
        return max(0, len(self.slots) - self.closing - self.max_size)

    @property
    def cancelled(self) -> int:
        """Requests whose task was cancelled while they waited, or just before they could run."""
        return self.left_early + self.waiters.left

    @property
    def leases(self) -> int:
        """Leases that are out."""
        return sum(len(slot.leases) for slot in tuple(self.slots.values()))

    @property
    def lent(self) -> int:
        """Leases begun, ever: those that have ended, and those that are out; nothing is counted twice.

        The short way counts nothing but the hold time it notes. Another thread
        may miss a lease that ends just now, so what was said once is not taken back.
        """
        ended = self.ended + self.hold_times.noted
        out = sum(len(slot.leases) for slot in tuple(self.by_id.values()))
        self._lent_before = max(self._lent_before, ended + out)
        return self._lent_before

    @property
    def peak_busy(self) -> int:
        """The most connections that were busy at once."""
        return max(self._peak_busy, self.busy + self._lent_and_back)

    @property
    def _lent_and_back(self) -> int:
        """How many of those on the shelf were lent since the last `note_peak`; they lie on top."""
        return sum(1 for _ in takewhile(lambda slot: slot.was_lent, reversed(self.idle.copy())))

    def note_peak(self) -> None:
        """Remember how many were busy at once. Asked before and after every change but the short way's.

        The short way takes from the top of the shelf and puts back on top, and
        only marks what it took: those it marked were all out at some instant,
        together with those that are out now.
        """
        idle = self.idle
        parked = len(idle) + len(self.doomed_idle)
        busy = len(self.slots) - self.opening - parked - self.tending - self.closing
        if idle and idle[-1].was_lent:
            for slot in reversed(idle):
                if not slot.was_lent:
                    break
                slot.was_lent = False
                busy += 1
        if busy > self._peak_busy:
            self._peak_busy = busy

    # -- the door in ----------------------------------------------------------------------------

    def begin_opening(self, now: float, *, urgent: bool) -> Slot | None:
        """Take a place for a connection to be opened, `urgent` if a borrower waits; None when none may be."""
        if not self.has_room:
            return None
        if self.allowance is not None and not self.allowance.try_take(self._member, now, urgent=urgent):
            return None
        self._last_number += 1
        slot = Slot(self._last_number, self.generation)
        self.slots[slot.number] = slot
        self.opening += 1
        return slot

    def admit(self, slot: Slot, conn: Any, now: float) -> None:
        """Enter the connection that was opened; the slot stays OPENING until it is lent, parked or closed."""
        if self.by_id.get(id(conn)) is not None:
            raise InvariantBroken(f"connection {slot.number} is an object the pool has already")
        slot.conn = conn
        slot.opened_at = slot.proved_at = slot.idle_since = now
        self.by_id[id(conn)] = slot
        self.opened += 1

    # -- moves ----------------------------------------------------------------------------------

    def move(self, slot: Slot, state: SlotState) -> None:
        """Enter `state` and keep the counts; leaves the shelves it stood on."""
        self.note_peak()
        self._leave(slot)
        slot.move(state)
        if state is _TENDING:
            self.tending += 1
        elif state is _CLOSING:
            self.closing += 1

    def _leave(self, slot: Slot) -> None:
        state = slot.state
        if state is _BUSY:
            if self.roomy:
                self.roomy.pop(slot.number, None)
        elif state is _IDLE:
            shelf = self.idle if slot.doom is None else self.doomed_idle
            if shelf[-1] is slot:
                shelf.pop()
            else:
                shelf.remove(slot)
        elif state is _TENDING:
            self.tending -= 1
        elif state is _OPENING:
            self.opening -= 1
        elif state is _CLOSING:
            self.closing -= 1

    def park(self, slot: Slot, *, keep_place: bool = False) -> None:
        """Make it idle: warmest, or where its idle time puts it when it was only pinged."""
        self.move(slot, SlotState.IDLE)
        slot.was_lent = False  # it may have been reset since
        if keep_place and self.idle and self.idle[-1].idle_since > slot.idle_since:
            insort(self.idle, slot, key=lambda each: each.idle_since)
        else:
            self.idle.append(slot)

    def doom_idle(self, slot: Slot, reason: CloseReason) -> None:
        """Take an idle connection off the shelf; it stays open until somebody closes it."""
        self.note_peak()
        self.idle.remove(slot)
        slot.condemn(reason)
        self.doomed_idle.append(slot)

    def lend(self, slot: Slot, hold: Hold[Any]) -> None:
        """Begin a lease on a slot that is idle, opened, tended or has room."""
        if slot.state is not SlotState.BUSY:
            self.move(slot, SlotState.BUSY)
        slot.uses += 1
        if self.leases_per_connection == 1:
            slot.hold = hold
        else:
            slot.sharers.append(hold)
            self.note_room(slot)
        self.note_peak()

    def count_uses(self, *, was_counting: bool) -> None:
        """A limit of uses was set or changed; without one, nobody has counted so far."""
        if not was_counting:
            for slot in self.slots.values():
                slot.uses = len(slot.leases)

    def end_lease(self, slot: Slot, hold: Hold[Any]) -> None:
        """Strike a lease out; the slot stays BUSY until the caller moves it on."""
        if slot.hold is hold:
            slot.hold = None
        else:
            slot.sharers.remove(hold)
        self.ended += 1

    def note_room(self, slot: Slot) -> None:
        """Keep the list of busy connections that may take one more lease."""
        if self.leases_per_connection == 1:
            return
        if (
            slot.state is _BUSY
            and 0 < len(slot.leases) < self.leases_per_connection
            and slot.doom is None
            and not slot.needs_reset
        ):
            self.roomy[slot.number] = slot
        else:
            self.roomy.pop(slot.number, None)

    def least_leased(self) -> Slot | None:
        """The busy connection with room that has the fewest leases (shared pools)."""
        return min(self.roomy.values(), key=lambda slot: len(slot.leases), default=None)

    # -- the door out ---------------------------------------------------------------------------

    def dismiss(self, slot: Slot, reason: CloseReason) -> None:
        """Forget a slot; its place is free."""
        had_connection = slot.conn is not None
        self.move(slot, SlotState.GONE)
        slot.close_short_way()  # whoever still has it
        del self.slots[slot.number]
        if had_connection:
            self.closed[reason] += 1
            if not slot.leases:
                self.by_id.pop(id(slot.conn), None)
        if self.allowance is not None:
            self.allowance.give_back(self._member)

    def forget_object(self, slot: Slot) -> None:
        """The last borrower of a connection that is gone has let go of it."""
        if slot.state is SlotState.GONE and not slot.leases and self.by_id.get(id(slot.conn)) is slot:
            del self.by_id[id(slot.conn)]

    # -- the queue ------------------------------------------------------------------------------

    def queue(self, waiter: Waiter, *, first: bool = False) -> None:
        """A request has to wait."""
        self.waiters.join(waiter, first=first)

    def settle(self, waiter: Waiter, state: WaiterState) -> None:
        """A request's wait is over."""
        self.waiters.settle(waiter, state)

    # -- the audit ------------------------------------------------------------------------------

    def audit(self) -> list[str]:
        """Every broken invariant, as a sentence; empty when the books balance."""
        by_state = Counter(slot.state for slot in self.slots.values())
        leased = {slot.number for slot in self.slots.values() if slot.leases}
        busy = {slot.number for slot in self.slots.values() if slot.state is SlotState.BUSY}
        outcomes = (
            (self.handed - self.unlent)
            + self.timed_out + self.cancelled + self.refused + self.failed + self.waiters.live
        )  # fmt: skip
        checks = {
            "opening is counted right": by_state[SlotState.OPENING] == self.opening,
            "tending is counted right": by_state[SlotState.TENDING] == self.tending,
            "closing is counted right": by_state[SlotState.CLOSING] == self.closing,
            "idle is counted right": by_state[SlotState.IDLE] == self.idle_count,
            "busy is counted right": by_state[SlotState.BUSY] == self.busy,
            "busy means leased": leased == busy,
            "no more leases than a connection serves": all(
                len(slot.leases) <= self.leases_per_connection for slot in self.slots.values()
            ),
            "opened = closed + open": self.opened
            == self.closed.total() + sum(1 for slot in self.slots.values() if slot.conn is not None),
            "queued requests = their outcomes": self.queued == outcomes,
            "idle ones are not doomed": all(slot.doom is None for slot in self.idle),
            "objects are known while they are lent or kept": all(
                slot.leases or slot.number in self.slots for slot in self.by_id.values()
            ),
            "waiting is counted right": sum(1 for _ in self.waiters) == self.waiters.live,
            "places of the allowance": self.allowance is None
            or self.allowance.held_by(self._member) == len(self.slots),
        }
        return [words for words, holds in checks.items() if not holds]
