"""Which connection the next channel goes on. Pure: no I/O, no await, no clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

L = TypeVar("L")


@dataclass(eq=False, slots=True)
class Berths(Generic[L]):
    """The channels that one connection carries, or is about to carry.

    Attributes:
        line: the connection.
        capacity: how many channels it may carry.
        taken: how many it carries, those that are opening included.
        leaving: how many are being closed; they take no berth, but the connection waits for them.
        is_condemned: it takes no more; it goes with its last channel.
    """

    line: L
    capacity: int
    taken: int = 0
    leaving: int = 0
    is_condemned: bool = False

    @property
    def has_room(self) -> bool:
        """One more channel may board."""
        return not self.is_condemned and self.taken < self.capacity


@dataclass(slots=True)
class Harbour(Generic[L]):
    """This assigns channels to connections.

    A further connection is opened while there are fewer than `least`, or when
    all are full; else the channel boards the one that carries the fewest. So
    at no time has a harbour of n channels opened more connections than
    max(`least`, n / capacity, rounded up), but for condemned ones.

    Attributes:
        least: how many connections the channels are spread over, if there are that many channels.
        lines: the connections, the oldest first.
    """

    least: int = 1
    lines: list[Berths[L]] = field(default_factory=list)

    def board(self, new: Callable[[], Berths[L]]) -> Berths[L]:
        """Take a berth, on a connection that `new` makes where one is needed."""
        serving = [each for each in self.lines if not each.is_condemned]
        roomy = [each for each in serving if each.has_room]
        if roomy and len(serving) >= self.least:
            chosen = min(roomy, key=lambda each: each.taken)
        else:
            chosen = new()
            self.lines.append(chosen)
        chosen.taken += 1
        return chosen

    def depart(self, berths: Berths[L]) -> None:
        """Give a berth back for a channel that is not closed yet."""
        berths.taken -= 1
        berths.leaving += 1

    def leave(self, berths: Berths[L]) -> bool:
        """A channel that departed is closed; True when it was the last, and the connection is to close."""
        berths.leaving -= 1
        if berths.taken or berths.leaving:
            return False
        self.strike(berths)
        return True

    def strike(self, berths: Berths[L]) -> None:
        """Nothing boards this connection any more."""
        berths.is_condemned = True
        if berths in self.lines:
            self.lines.remove(berths)
