"""What the user of a scripted backend did wrong: the backend records it and goes on."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class FaultKind(enum.Enum):
    """What must not happen to a connection."""

    TWO_BORROWERS = "two borrowers"  # more users at once than max_borrowers
    WRONG_ANSWER = "wrong answer"  # somebody read the answer to another's request
    LENT_DIRTY = "lent dirty"  # with an unread answer, an open transaction or session state of another
    LENT_CONDEMNED = "lent condemned"  # after the driver's verdict DISCARD or DISCARD_ALL
    LENT_CLOSED = "lent closed"  # ended by this side, or known to be dead since an earlier instant
    NOT_BORROWED = "not borrowed"  # given back by who does not have it
    TENDED_WHILE_LENT = "tended while lent"  # pinged, reset or closed while a borrower has it
    TENDED_TWICE = "tended twice"  # two pings, resets or closes at once
    USED_AFTER_END = "used after end"  # any use after close or terminate
    POLITE_TO_BROKEN = "polite to broken"  # close() on a connection known to be dead, or condemned
    CLOSED_TWICE = "closed twice"
    CLOSED_AFTER_TERMINATE = "closed after terminate"
    TERMINATED_TWICE = "terminated twice"
    TERMINATED_AFTER_CLOSE = "terminated after close"
    FOREIGN = "foreign"  # a connection of another backend


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        kind: what went wrong.
        at: when, seconds on the loop's clock.
        connection: number of the connection.
        detail: more words.
    """

    kind: FaultKind
    at: float
    connection: int
    detail: str

    def __str__(self) -> str:
        return f"{self.at:.6f} connection {self.connection}: {self.kind.value}: {self.detail}"


class FaultsFound(AssertionError):
    """A scripted backend was mistreated, or connections were left open.

    Attributes:
        faults: what was recorded.
    """

    def __init__(self, faults: tuple[Fault, ...], left_open: tuple[int, ...], story: str) -> None:
        self.faults = faults
        self.left_open = left_open
        lines = [f"\n  {fault}" for fault in faults]
        if left_open:
            lines.append(f"\n  never closed: connections {', '.join(map(str, left_open))}")
        super().__init__(f"the backend was mistreated:{''.join(lines)}\nlast events:\n{story}")
