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
        """Somebody wants a place: close an idle connection above min_size, if there is one."""


class Allowance:
    """At most `limit` connections at once over all pools that share it.

    Places go to those who want one in the order in which they began to want.
    A pool with waiters gives a returned connection up when another pool has
    waited longer and holds less than an equal share, so that none starves.
    """

    def __init__(self, limit: int) -> None:
        if not _LIMITS.holds(limit):
            raise InvalidSettings("limit", limit, f"must be {_LIMITS}")
        self._limit = limit
        self._held: dict[Member, int] = {}
        self._wanting: dict[Member, float] = {}  # member -> since when; in order

    def __repr__(self) -> str:
        return f"<Allowance {self.used}/{self._limit}, {len(self._held)} pools, {len(self._wanting)} wanting>"

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
        self._offer()

    def held_by(self, member: Member) -> int:
        """Places that `member` has."""
        return self._held.get(member, 0)

    def join(self, member: Member) -> None:
        """Make `member` known; it holds nothing yet."""
        self._held.setdefault(member, 0)

    def leave(self, member: Member) -> None:
        """Forget `member`.

        Raises:
            InvariantBroken: if it still holds places.
        """
        self.no_longer_wants(member)
        if self._held.pop(member, 0):
            raise InvariantBroken("a pool left its allowance while it held places")

    def try_take(self, member: Member, now: float) -> bool:
        """Take a place if one is free for `member`; otherwise remember that it wants one.

        A place that was freed goes to those who wanted it earlier, even when
        a later one asks first.
        """
        self._wanting.setdefault(member, now)
        ahead = list(self._wanting).index(member)
        if ahead >= self.free:
            if self.free <= 0:
                for other in self._held:
                    if other is not member:
                        other._please_shed()
            return False
        del self._wanting[member]
        self._held[member] += 1
        return True

    def no_longer_wants(self, member: Member) -> None:
        """Take back that `member` wants a place; whoever comes next is told."""
        if self._wanting.pop(member, None) is not None:
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

    def should_yield(self, member: Member, waiting_since: float | None) -> bool:
        """True when `member` should close a returned connection so that another pool gets its place.

        Args:
            member: who asks.
            waiting_since: since when its own first waiter waits; None if nobody does.
        """
        if self.free > 0 or not self._wanting:
            return False
        share = max(1, self._limit // max(1, len(self._held)))
        return any(
            other is not member
            and (waiting_since is None or since < waiting_since)
            and (waiting_since is None or self._held[other] < share)
            for other, since in self._wanting.items()
        )

    def _offer(self) -> None:
        for member in list(self._wanting)[: max(0, self.free)]:
            member._place_is_free()
