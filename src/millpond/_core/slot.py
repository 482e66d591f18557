"""A place in the pool and its connection: states, legal moves, and what is known about it."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from millpond.errors import InvariantBroken
from millpond.events import CloseReason

if TYPE_CHECKING:
    from millpond._core.lease import Hold


class SlotState(enum.Enum):
    """What is being done with a slot. The comment says what is true while it holds."""

    OPENING = "opening"  # driver.connect() is running; there is no connection yet
    IDLE = "idle"  # parked; the next borrower may take it, unless it is doomed
    BUSY = "busy"  # at least one live lease points here
    TENDING = "tending"  # driver.reset() or driver.ping() is running
    CLOSING = "closing"  # driver.close() is running; still counts against the limit
    GONE = "gone"  # terminal; the ledger has forgotten this slot

    position: int


LEGAL: Final[Mapping[SlotState, frozenset[SlotState]]] = {
    SlotState.OPENING: frozenset({SlotState.IDLE, SlotState.BUSY, SlotState.CLOSING, SlotState.GONE}),
    SlotState.IDLE: frozenset({SlotState.BUSY, SlotState.TENDING, SlotState.CLOSING, SlotState.GONE}),
    SlotState.BUSY: frozenset({SlotState.IDLE, SlotState.TENDING, SlotState.CLOSING, SlotState.GONE}),
    SlotState.TENDING: frozenset({SlotState.IDLE, SlotState.BUSY, SlotState.CLOSING, SlotState.GONE}),
    SlotState.CLOSING: frozenset({SlotState.GONE}),
    SlotState.GONE: frozenset(),
}
# OPENING -> CLOSING is a connection that nobody wants any more when it arrives.

# The same once more, by position: to hash a member of an enum is Python code, and every move asks.
_NEXT: Final = tuple(tuple(LEGAL[state]) for state in SlotState)
for _position, _state in enumerate(SlotState):
    _state.position = _position


UNFIT: Final = frozenset({
    CloseReason.BROKEN, CloseReason.SPOILED, CloseReason.DISCARDED, CloseReason.REPORTED,
    CloseReason.PING_FAILED, CloseReason.RESET_FAILED, CloseReason.FAILOVER,
})  # fmt: skip
"""For these reasons a connection is cut; for all others it is closed politely."""


class Slot:
    """One place: from the start of a connect until its connection is gone.

    Attributes:
        number: counts a pool's connections, from 1.
        generation: the pool's generation when the connect *started*.
        conn: the driver's object; None while opening.
        hold: the live lease of an exclusive pool, or None.
        sharers: the live leases of a shared pool, oldest first.
        is_new: no lease of it has ended well yet.
        uses: leases so far; counted only while `max_uses` is set.
        opened_at: when it was opened.
        returned_at: while parked, since when the short way trusts it: when it put it back, or what
            `trust_from` said; minus infinity: it does not.
        draw: a number from [0, 1): its share of the lifetime's jitter.
        retire_at: from then on it is not lent again; minus infinity once it is doomed.
        keep_until: while lent, until then the short way may put it back on the shelf.
        was_lent: it has been lent since `Ledger.note_peak` looked last; only while parked.
        doom: why it must go when its leases have ended, or None.
        needs_reset: a lease left something behind; set by `soil`.
    """

    __slots__ = (
        "_idle_since", "_proved_at", "conn", "doom", "draw", "generation", "hold", "is_new", "keep_until",
        "needs_reset", "number", "opened_at", "retire_at", "returned_at", "sharers", "state", "uses",
        "was_lent",
    )  # fmt: skip

    def __init__(self, number: int, generation: int) -> None:
        self.number = number
        self.generation = generation
        self.state = SlotState.OPENING
        self.conn: Any = None
        self.hold: Hold[Any] | None = None
        self.sharers: list[Hold[Any]] = []
        self.is_new = True
        self.was_lent = False
        self.uses = 0
        self.opened_at = 0.0
        self.draw = 0.0
        self._idle_since = 0.0
        self._proved_at = 0.0
        self.retire_at = math.inf
        self.returned_at = -math.inf
        self.keep_until = -math.inf
        self.doom: CloseReason | None = None
        self.needs_reset = False

    def __repr__(self) -> str:
        leases = len(self.leases)
        return f"<Slot {self.number} {self.state.value}, generation {self.generation}, {leases} leases>"

    @property
    def leases(self) -> Sequence[Hold[Any]]:
        """The live leases, oldest first."""
        return self.sharers if self.hold is None else (self.hold,)

    # A lease in the short way leaves one instant, which says both: alive then, and idle from then on. What
    # others say is kept beside it, and the later one holds: `trust_from` is given nothing later than either.

    @property
    def proved_at(self) -> float:
        """The instant of the last proof of life."""
        return max(self._proved_at, self.returned_at)

    @proved_at.setter
    def proved_at(self, instant: float) -> None:
        self._proved_at = instant

    @property
    def idle_since(self) -> float:
        """The instant of the end of the last lease; only while parked."""
        return max(self._idle_since, self.returned_at)

    @idle_since.setter
    def idle_since(self, instant: float) -> None:
        self._idle_since = instant

    def trust_from(self, instant: float) -> None:
        """Let the short way trust it as if it had put it back at `instant`; minus infinity: not at all."""
        self._proved_at, self._idle_since = self.proved_at, self.idle_since
        self.returned_at = instant

    def move(self, state: SlotState) -> None:
        """Enter `state`.

        Raises:
            InvariantBroken: if the move is not a legal one.
        """
        if state not in _NEXT[self.state.position]:
            raise InvariantBroken(f"connection {self.number}: {self.state.value} -> {state.value}")
        self.state = state

    def condemn(self, reason: CloseReason) -> None:
        """Make sure that it is never lent again; the first reason stays, unless the new one is graver."""
        if self.doom is None or (reason in UNFIT and self.doom not in UNFIT):
            self.doom = reason
        self.retire_at = -math.inf
        self.close_short_way()

    def close_short_way(self) -> None:
        """Whatever is done with it next needs a closer look."""
        self.trust_from(-math.inf)
        self.keep_until = -math.inf

    @property
    def is_spoiled(self) -> bool:
        """True when a lease has left it as it must not be lent again: unfit, or to be cleaned first."""
        return self.needs_reset or self.doom in UNFIT

    def soil(self) -> None:
        """Make sure that it is cleaned before the next lease."""
        self.needs_reset = True
        self.close_short_way()
