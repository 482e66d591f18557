"""What borrowers saw, counted by themselves: to be compared with what the pools say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from millpond._core.pool import ConnectionPool


class HistoryFailure(AssertionError):
    """A history did not come out as it must, though no single step broke a guarantee."""


@dataclass(slots=True)
class Tally:
    """This counts requests and their outcomes.

    Pools tell refused from failed; to a borrower both are an error. Who was
    already told an error, or that time is up, and is cancelled before hearing
    it, counts here as cancelled.
    """

    requests: int = 0
    served: int = 0
    timed_out: int = 0
    cancelled: int = 0
    refused: int = 0

    def compare(self, pools: Iterable[ConnectionPool[Any]]) -> None:
        """Raise unless the pools count what the borrowers counted.

        Raises:
            HistoryFailure: they do not.
        """
        stats = [pool.stats() for pool in pools]
        theirs = Tally(
            requests=sum(each.requests for each in stats),
            served=sum(each.served for each in stats),
            timed_out=sum(each.timed_out for each in stats),
            cancelled=sum(each.cancelled for each in stats),
            refused=sum(each.refused + each.failed for each in stats),
        )
        mine = (self.requests, self.served, self.timed_out + self.cancelled + self.refused)
        agreed = (theirs.requests, theirs.served, theirs.timed_out + theirs.cancelled + theirs.refused)
        if mine != agreed or theirs.cancelled > self.cancelled:
            raise HistoryFailure(f"the borrowers count {self}, the pools {theirs}")
