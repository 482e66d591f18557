"""One name's place in a registry: the configuration it has, the pool that was made of it, since when."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from millpond._core.pool import ConnectionPool
from millpond.events import Listener
from millpond.registry.model import ConnectionConfig
from millpond.registry.status import VersionStatus


@dataclass(slots=True)
class Version:
    """A pool and the number of the configuration that it was made from."""

    number: int
    pool: ConnectionPool[Any]
    made_at: float  # time.monotonic()


@dataclass(slots=True)
class Named:
    """A name, and what stands behind it.

    The pool is made by whoever asks first. Making it is synchronous and opens
    nothing, so that however many tasks ask at once there is one pool: there is
    no await at which a second one could come in.
    """

    name: str
    kind: str
    config: ConnectionConfig | None  # None: the pool was made by somebody else
    current: Version | None = None
    listeners: list[Listener] = field(default_factory=list)

    def pool(self) -> ConnectionPool[Any]:
        """The pool in use; made now if nobody has asked before."""
        if self.current is None:
            self.current = self._made()
        return self.current.pool

    def add_listener(self, listener: Listener) -> None:
        """Tell `listener` of every event of this name's pools, those to come included."""
        self.listeners.append(listener)
        if self.current is not None:
            self.current.pool.add_listener(listener)

    def adopt(self, pool: ConnectionPool[Any]) -> None:
        """Take a pool that exists as this name's first version."""
        self.current = Version(1, pool, time.monotonic())

    def status(self) -> VersionStatus:
        """The version in use, as it is now."""
        if self.current is None:
            return VersionStatus(self.name, self.kind, version=1, age=0.0, pool=None)
        age = time.monotonic() - self.current.made_at
        return VersionStatus(self.name, self.kind, self.current.number, age, self.current.pool.status())

    def _made(self) -> Version:
        assert self.config is not None  # noqa: S101 - without one, `adopt` was the first thing that happened
        config = self.config
        pool: ConnectionPool[Any] = ConnectionPool(
            config.make_driver(), settings=config.settings, name=config.name
        )
        for listener in self.listeners:
            pool.add_listener(listener)
        return Version(1, pool, time.monotonic())
