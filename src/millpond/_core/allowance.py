"""Who may open how many connections, across pools.

A pool always keeps to its own `max_size`; an `Allowance` is a further limit
that several pools share: two versions of one pool, or all that talk to one
server. No I/O and no clock; instants are passed in. Members are told through
their event loop, never from inside somebody else's bookkeeping.
"""

from __future__ import annotations

from typing import Final, Protocol

from millpond.errors import InvalidSettings, InvariantBroken
from millpond.settings import Range

_LIMITS: Final = Range(int, least=1)


class Member(Protocol):
    """A pool, as its allowance sees it. Neither call may act before the caller has returned."""

    def _place_is_free(self) -> None:
        """A place is free that you wanted: try again."""

    def _please_shed(self) -> None:
        """Somebody wants a place: close an idle connection, if `should_yield` says so."""

    def _company_changed(self) -> None:
        """Whether other pools share the allowance (`is_alone`) may be different from now on."""


class Allowance:
    """At most `limit` connections at once over all pools that share it.

    Places go first to pools whose borrowers wait, then to pools below their
    `min_size`, each in the order in which they began to want. For a waiting
    borrower any other pool gives up what it has idle; a pool with waiters of
    its own gives a returned connection up when the other has waited longer and
    holds less than an equal share, so that none starves. For somebody's
    `min_size` only what is idle above a pool's own `min_size` is given up, so
    that floors which do not fit together trade no connections.
    """

    def __init__(self, limit: int) -> None:
        if not _LIMITS.holds(limit):
            raise InvalidSettings("limit", limit, f"must be {_LIMITS}")
        self._limit = limit
        self._held: dict[Member, int] = {}
        # Since when a member wants a place; in order. A member is in one of them at most.
        self._for_waiters: dict[Member, float] = {}
        self._for_floor: dict[Member, float] = {}

    def __repr__(self) -> str:
        return f"<Allowance {self.used}/{self._limit}, {len(self._held)} pools, {len(self._line())} wanting>"

    @property
    def limit(self) -> int:
        """Most connections at once."""
        return self._limit

    @property
    def used(self) -> int:
        """Places taken now."""
        return sum(self._held.values())

    @property
    def free(self) -> int:
        """Places not taken now; negative after the limit was lowered."""
        return self._limit - self.used

    def resize(self, limit: int) -> None:
        """Set another limit; what is open above it stays until it is given back."""
        self._limit = Allowance(limit)._limit
        self._ask_to_shed()
        self._offer()

    def held_by(self, member: Member) -> int:
        """Places that `member` has."""
        return self._held.get(member, 0)

    def join(self, member: Member) -> None:
        """Make `member` known; it holds nothing yet."""
        self._held.setdefault(member, 0)
        self._tell_of_company()

    def leave(self, member: Member) -> None:
        """Forget `member`.

        Raises:
            InvariantBroken: if it still holds places.
        """
        self.no_longer_wants(member)
        if self._held.pop(member, 0):
            raise InvariantBroken("a pool left its allowance while it held places")
        self._tell_of_company()

    def forget(self, member: Member) -> None:
        """Strike out `member` and all that it holds: in the child of a fork, where that is not its own."""
        for book in (self._held, self._for_waiters, self._for_floor):
            book.pop(member, None)

    def is_alone(self, member: Member) -> bool:
        """True while no other pool shares the places: nobody needs to be asked, told or yielded to."""
        return all(each is member for each in self._held)

    def _tell_of_company(self) -> None:
        for member in self._held:
            member._company_changed()

    def try_take(self, member: Member, now: float, *, urgent: bool) -> bool:
        """Take a place if one is free for `member`; otherwise remember that it wants one.

        A place that was freed goes to those who wanted it earlier, even when
        a later one asks first.

        Args:
            member: who wants a place.
            now: since when, if it did not want one before.
            urgent: a borrower waits; False: it is for `min_size`.
        """
        wanting, other = (
            (self._for_waiters, self._for_floor) if urgent else (self._for_floor, self._for_waiters)
        )
        other.pop(member, None)
        wanting.setdefault(member, now)
        if self._line().index(member) >= self.free:
            self._ask_to_shed()
            self._offer()  # those ahead may not know: who stepped back had been told instead
            return False
        del wanting[member]
        self._held[member] += 1
        self._ask_to_shed()
        return True

    def _ask_to_shed(self) -> None:
        """When nothing is free: somebody may have idle what others want."""
        line = self._line() if self.free <= 0 else []
        for member in self._held if line else ():
            if line != [member]:
                member._please_shed()

    def _line(self) -> list[Member]:
        """Those who want a place, the next one first."""
        return [*self._for_waiters, *self._for_floor]

    def no_longer_wants(self, member: Member) -> None:
        """Take back that `member` wants a place; whoever comes next is told."""
        urgent = self._for_waiters.pop(member, None)
        if self._for_floor.pop(member, urgent) is not None:
            self._offer()

    def give_back(self, member: Member) -> None:
        """Return one place.

        Raises:
            InvariantBroken: if `member` holds none.
        """
        if self._held.get(member, 0) < 1:
            raise InvariantBroken("a place was given back that was not taken")
        self._held[member] -= 1
        self._offer()

    def should_yield(self, member: Member, waiting_since: float | None, *, above_floor: bool) -> bool:
        """True when `member` should close a returned or idle connection so that another pool gets its place.

        Args:
            member: who asks.
            waiting_since: since when its own first waiter waits; None if nobody does.
            above_floor: it has more than its `min_size`.
        """
        if self.free > 0:
            return False
        if waiting_since is None:
            nearly = above_floor and any(other is not member for other in self._for_floor)
            return nearly or any(other is not member for other in self._for_waiters)
        share = max(1, self._limit // max(1, len(self._held)))
        return any(
            other is not member and since < waiting_since and self._held[other] < share
            for other, since in self._for_waiters.items()
        )

    def _offer(self) -> None:
        for member in self._line()[: max(0, self.free)]:
            member._place_is_free()
