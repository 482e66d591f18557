"""A place in the pool and its connection: states, legal moves, and what is known about it."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
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


LEGAL: Final[Mapping[SlotState, frozenset[SlotState]]] = {
    SlotState.OPENING: frozenset({SlotState.IDLE, SlotState.BUSY, SlotState.CLOSING, SlotState.GONE}),
    SlotState.IDLE: frozenset({SlotState.BUSY, SlotState.TENDING, SlotState.CLOSING, SlotState.GONE}),
    SlotState.BUSY: frozenset({SlotState.IDLE, SlotState.TENDING, SlotState.CLOSING, SlotState.GONE}),
    SlotState.TENDING: frozenset({SlotState.IDLE, SlotState.BUSY, SlotState.CLOSING, SlotState.GONE}),
    SlotState.CLOSING: frozenset({SlotState.GONE}),
    SlotState.GONE: frozenset(),
}
# OPENING -> CLOSING is a connection that nobody wants any more when it arrives.


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
        leases: the live leases, oldest first; exclusive pools have at most one.
        uses: leases so far.
        opened_at, idle_since, proved_at: instants; `proved_at` is the last proof of life.
        draw: a number from [0, 1): its share of the lifetime's jitter.
        retire_at: from then on it is not lent again; minus infinity once it is doomed.
        fresh_until: until then, and while parked, it may be lent without a ping.
        doom: why it must go when its leases have ended, or None.
        needs_reset: a lease left something behind; set by `soil`.
        plain_uses: below so many uses the short way back to the shelf is open.
    """

    __slots__ = (
        "conn", "doom", "draw", "fresh_until", "generation", "idle_since", "leases", "needs_reset", "number",
        "opened_at", "plain_uses", "proved_at", "retire_at", "state", "uses",
    )  # fmt: skip

    def __init__(self, number: int, generation: int) -> None:
        self.number = number
        self.generation = generation
        self.state = SlotState.OPENING
        self.conn: Any = None
        self.leases: list[Hold[Any]] = []
        self.uses = 0
        self.opened_at = 0.0
        self.draw = 0.0
        self.idle_since = 0.0
        self.proved_at = 0.0
        self.retire_at = math.inf
        self.fresh_until = math.inf
        self.doom: CloseReason | None = None
        self.needs_reset = False
        self.plain_uses = 0

    def __repr__(self) -> str:
        leases = len(self.leases)
        return f"<Slot {self.number} {self.state.value}, generation {self.generation}, {leases} leases>"

    def move(self, state: SlotState) -> None:
        """Enter `state`.

        Raises:
            InvariantBroken: if the move is not a legal one.
        """
        if state not in LEGAL[self.state]:
            raise InvariantBroken(f"connection {self.number}: {self.state.value} -> {state.value}")
        self.state = state

    def condemn(self, reason: CloseReason) -> None:
        """Make sure that it is never lent again; the first reason stays, unless the new one is graver."""
        if self.doom is None or (reason in UNFIT and self.doom not in UNFIT):
            self.doom = reason
        self.retire_at = self.fresh_until = -math.inf

    @property
    def is_spoiled(self) -> bool:
        """True when a lease has left it as it must not be lent again: unfit, or to be cleaned first."""
        return self.needs_reset or self.doom in UNFIT

    def soil(self) -> None:
        """Make sure that it is cleaned before the next lease."""
        self.needs_reset = True
        self.plain_uses = 0
