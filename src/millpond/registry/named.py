"""One name of a registry: its configuration, the pool in use, and older ones that are ending."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from millpond._core.allowance import Allowance
from millpond._core.pool import ConnectionPool
from millpond.events import Listener
from millpond.registry.model import ConnectionConfig
from millpond.registry.status import VersionStatus
from millpond.settings import Change, PoolSettings

if TYPE_CHECKING:
    import asyncio


@dataclass(slots=True, eq=False)
class Version:
    """A pool and the number of the configuration that it was made from.

    Attributes:
        name: the connection's name.
        kind: the connection's kind at that time.
        number: counts up from 1.
        pool: the pool.
        made_at: when, on the clock of `time.monotonic`.
        ending: once it is deprecated: the task that closes it.
    """

    name: str
    kind: str
    number: int
    pool: ConnectionPool[Any]
    made_at: float
    ending: asyncio.Task[Exception | None] | None = None

    def status(self) -> VersionStatus:
        """What it is doing now."""
        age = time.monotonic() - self.made_at
        return VersionStatus(self.name, self.kind, self.number, age, self.pool.status())


@dataclass(slots=True)
class Named:
    """A name, and what stands behind it.

    The pool is made by whoever asks first. Making it is synchronous and opens
    nothing, so that however many tasks ask at once there is one pool: there is
    no await at which a second one could come in.

    Attributes:
        name: the name.
        kind: the kind of its backend.
        config: what the pool in use was, or will be, made from; None: somebody else made the pool.
        number: the version in use, or that will be when somebody asks.
        is_declared: it came from a file, or from a whole configuration that was applied.
        current: the version in use; None: nobody has asked yet.
        older: deprecated versions that are not closed yet, oldest first.
        listeners: told of the events of every version's pool.
        allowance: the limit that all versions share; None before the first one, and for another's pool.
    """

    name: str
    kind: str
    config: ConnectionConfig | None
    number: int = 1
    is_declared: bool = False
    current: Version | None = None
    older: list[Version] = field(default_factory=list)
    listeners: list[Listener] = field(default_factory=list)
    allowance: Allowance | None = None

    @classmethod
    def of(cls, config: ConnectionConfig, *, number: int = 1, is_declared: bool = False) -> Named:
        """A name that nobody has used yet."""
        return cls(config.name, config.kind, config, number, is_declared)

    def succeed(self, gone: Named) -> None:
        """Share the places of `gone`, which was taken away under this name: its versions are older ones."""
        self.older, self.allowance = gone.older, gone.allowance

    def pool(self) -> ConnectionPool[Any]:
        """The pool in use; made now if nobody has asked before."""
        if self.current is None:
            assert self.config is not None  # noqa: S101 - without one, `adopt` was the first thing that happened
            self.current = self.made(self.config, self.number)
        return self.current.pool

    def pools(self) -> list[ConnectionPool[Any]]:
        """Every pool there is, the one in use first."""
        versions = [*([] if self.current is None else [self.current]), *reversed(self.older)]
        return [version.pool for version in versions]

    def add_listener(self, listener: Listener) -> None:
        """Tell `listener` of every event of this name's pools, those to come included."""
        self.listeners.append(listener)
        for pool in self.pools():
            pool.add_listener(listener)

    def adopt(self, pool: ConnectionPool[Any]) -> None:
        """Take a pool that exists as this name's first version."""
        self.current = Version(self.name, self.kind, self.number, pool, time.monotonic())

    def made(self, config: ConnectionConfig, number: int) -> Version:
        """A new version, that shares its places with all others there are; it opens nothing."""
        if self.allowance is None:
            self.allowance = Allowance(config.settings.max_size)
        pool: ConnectionPool[Any] = ConnectionPool(
            config.make_driver(), settings=config.settings, name=config.name, allowance=self.allowance
        )
        self.fit_allowance(pool)
        for listener in self.listeners:
            pool.add_listener(listener)
        return Version(config.name, config.kind, number, pool, time.monotonic())

    def fit_allowance(self, *more: ConnectionPool[Any]) -> None:
        """All versions together may have as many connections as the largest of them alone.

        Args:
            more: pools that are not yet, or no longer, a version in use.
        """
        sizes = [pool.settings.max_size for pool in (*self.pools(), *more)]
        if self.allowance is not None and sizes and max(sizes) != self.allowance.limit:
            self.allowance.resize(max(sizes))

    def apply(self, settings: PoolSettings) -> Change:
        """Change the settings of the pool in use, those that can be changed in place."""
        change = self.pool().apply(settings)
        self.fit_allowance()
        return change

    def settings(self) -> PoolSettings:
        """How the pool in use behaves, or would if somebody asked for it."""
        if self.current is not None:
            return self.current.pool.settings
        assert self.config is not None  # noqa: S101 - as above
        return self.config.settings

    def status(self) -> VersionStatus:
        """The version in use, as it is now."""
        if self.current is None:
            return VersionStatus(self.name, self.kind, self.number, age=0.0, pool=None)
        return self.current.status()
