"""What a registry says of itself: frozen snapshots, made when asked for; no secret can stand in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from millpond.status import BreakerState, PoolStatus

NOT_OPENED: Final = "not opened"
"""The state of a connection that nobody has used yet: it has no pool."""


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """One version of one named connection.

    Attributes:
        name: the connection's name.
        kind: its kind.
        version: counts up from 1 with every configuration that needed a new pool.
        age: seconds since the pool was made; 0 when there is none yet.
        pool: the pool's status; None when nobody has used the connection yet.
    """

    name: str
    kind: str
    version: int
    age: float
    pool: PoolStatus | None

    @property
    def state(self) -> str:
        """The pool's state, or `not opened`."""
        return NOT_OPENED if self.pool is None else self.pool.state.value

    @property
    def leases(self) -> int:
        """How many borrowers there are now."""
        return 0 if self.pool is None else self.pool.leases

    @property
    def healthy(self) -> bool:
        """Nothing is known to be wrong; true of a connection that nobody has used."""
        return self.pool is None or self.pool.healthy

    @property
    def breaker(self) -> BreakerState:
        """What the pool's circuit breaker does; closed while there is no pool."""
        return BreakerState.CLOSED if self.pool is None else self.pool.breaker

    def as_dict(self) -> dict[str, Any]:
        """All of it by name; ready for JSON."""
        return {
            "name": self.name,
            "kind": self.kind,
            "version": self.version,
            "state": self.state,
            "age": self.age,
            "leases": self.leases,
            "healthy": self.healthy,
            "pool": None if self.pool is None else self.pool.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class RegistryStatus:
    """What a registry holds at one instant.

    Attributes:
        closed: the registry lends nothing any more.
        active: the version in use of every name, in the order in which the names came.
        deprecated: older versions whose leases have not all ended.
    """

    closed: bool
    active: tuple[VersionStatus, ...]
    deprecated: tuple[VersionStatus, ...] = ()

    @property
    def healthy(self) -> bool:
        """Every active pool is healthy, and the registry is open."""
        return not self.closed and all(each.healthy for each in self.active)

    def as_dict(self) -> dict[str, Any]:
        """All of it by name; ready for JSON."""
        return {
            "closed": self.closed,
            "healthy": self.healthy,
            "active": [each.as_dict() for each in self.active],
            "deprecated": [each.as_dict() for each in self.deprecated],
        }
