"""Every pool of a service in one place, by name. Makes a pool when its name is first used, closes them all.

Bound to no event loop and starts nothing: each pool binds itself to the loop
in which it is first used.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from millpond._core.pool import ConnectionPool
from millpond.drivers.kinds import near
from millpond.errors import ConfigError, PoolClosed, PoolError
from millpond.registry.handle import PoolHandle
from millpond.registry.load import load_connections
from millpond.registry.model import ConnectionConfig, connection_config
from millpond.registry.named import Named
from millpond.registry.sources import name_fault
from millpond.registry.status import RegistryStatus
from millpond.registry.substitution import quoted
from millpond.settings import UNSET, Range, Timeout, invalid
from millpond.status import PoolCheck

_MOST_NAMES_LISTED: Final = 10
_SECONDS: Final = Range(float, above=0.0)


class UnknownConnection(PoolError, LookupError):
    """The registry has no connection of this name.

    Attributes:
        name: the name that was asked for.
    """

    code = "MP111"

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        self.name = name
        hint = near(str(name), known)
        if not hint:
            more = ", ..." if len(known) > _MOST_NAMES_LISTED else ""
            there_are = f"there are: {', '.join(known[:_MOST_NAMES_LISTED])}{more}"
            hint = f"; {there_are if known else 'there are none'}"
        super().__init__(f"there is no connection {quoted(name)}{hint}")


class ConnectionPoolRegistry:
    """This holds named pools: from a file with `from_file`, from code with `add` and `add_pool`.

        async with ConnectionPoolRegistry.from_file("connections.json") as registry:
            async with registry.acquire("orders") as conn:
                ...

    Args:
        migration_timeout: the longest that a pool whose configuration was replaced waits for its
            borrowers, seconds. Leases that are out longer lose their connection.

    Raises:
        InvalidSettings: `migration_timeout` is not a number above 0.
    """

    def __init__(self, *, migration_timeout: float = 300.0) -> None:
        if not _SECONDS.holds(migration_timeout):
            raise invalid("migration_timeout", migration_timeout, _SECONDS)
        self.migration_timeout = float(migration_timeout)
        self._named: dict[str, Named] = {}
        self._files: frozenset[Path] = frozenset()
        self._leaving: set[ConnectionPool[Any]] = set()
        self._closed = False

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        environ: Mapping[str, str] | None = None,
        migration_timeout: float = 300.0,
    ) -> Self:
        """A registry with the connections of a file: .json, .toml, .yaml or .yml. Opens no connection.

        Args:
            path: the file.
            environ: where `${VAR}` is looked up; None: the process's environment.
            migration_timeout: as for the class.

        Raises:
            ConfigError: the file cannot be used; one line for each fault, with the connection and the key.
            InvalidSettings: `migration_timeout` is not a number above 0.
            MissingExtra: the file is YAML and PyYAML is not installed.
        """
        registry = cls(migration_timeout=migration_timeout)
        connections = load_connections(path, environ=environ)
        for config in connections.configs.values():
            registry._add(config)
        registry._files = frozenset({connections.path, *connections.files})
        return registry

    def add(self, name: str, config: Mapping[str, Any]) -> None:
        """Add a connection; `config` has the keys that it would have in a file.

        Values are taken as they are: `${VAR}` is not looked up. What a file cannot say (a function for
        the password) goes into a pool of your own, see `add_pool`.

        Raises:
            ConfigError: the configuration cannot be used, or there is such a name already.
            PoolClosed: the registry is closed.
        """
        self._refuse_if_closed(name)
        found = connection_config(name, config)
        self._refuse_if_taken(name)
        self._add(found)

    def add_pool(self, name: str, pool: ConnectionPool[Any]) -> None:
        """Add a pool that you made; from now on the registry closes it.

        Raises:
            ConfigError: the name cannot be one, or there is such a name already.
            PoolClosed: the registry is closed.
            TypeError: it is no pool.
        """
        self._refuse_if_closed(name)
        if not isinstance(pool, ConnectionPool):
            raise TypeError(f"add_pool() needs a ConnectionPool, got {type(pool).__name__}")
        if wrong := name_fault(name):
            raise ConfigError([f"{quoted(name)}: {wrong}"])
        self._refuse_if_taken(name)
        kind = getattr(type(pool.driver), "kind", None) or pool.driver.name
        self._named[name] = Named(name, str(kind), config=None)
        self._named[name].adopt(pool)

    async def remove(self, name: str, timeout: Timeout = UNSET) -> None:
        """Take a connection out: its name is unknown at once, its pool closes as `pool.close(timeout)` does.

        Raises:
            UnknownConnection: there is none of this name.
            PoolClosed: the registry is closed.
        """
        named = self._find(name)
        del self._named[name]
        if named.current is None:
            return
        pool = named.current.pool
        # Until it is closed it is still the registry's, should that be closed meanwhile.
        self._leaving.add(pool)
        await pool.close(timeout)
        self._leaving.discard(pool)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all connections, in the order in which they came."""
        return tuple(self._named)

    @property
    def files(self) -> frozenset[Path]:
        """The files that the connections came from, those named by `${file:...}` included."""
        return self._files

    def kind(self, name: str) -> str:
        """The kind of the connection `name`: `postgresql`.

        Raises:
            UnknownConnection: there is none of this name.
        """
        found = self._named.get(name)
        if found is None:
            raise UnknownConnection(name, self.names)
        return found.kind

    def acquire(self, name: str, timeout: Timeout = UNSET) -> Any:
        """Borrow a connection: `async with registry.acquire("orders") as conn`; or `await` it.

        Args:
            name: the connection's name.
            timeout: seconds to wait; left out = the pool's setting, None = no limit, 0 = only what is idle.

        Raises:
            UnknownConnection: there is none of this name.
            PoolClosed: the registry is closed.
        """
        return self._find(name).pool().acquire(timeout)

    def get_pool(self, name: str) -> PoolHandle:
        """A handle that stays right whatever becomes of the pool behind the name.

        Raises:
            UnknownConnection: there is none of this name.
            PoolClosed: the registry is closed.
        """
        self._find(name)
        return PoolHandle(name, self._find)

    def status(self) -> RegistryStatus:
        """What every pool is doing; no I/O, makes no pool, works after `close` too."""
        return RegistryStatus(self._closed, tuple(named.status() for named in self._named.values()))

    async def check(self, name: str, timeout: float = 5.0) -> PoolCheck:
        """Whether the backend of `name` is there; opens the pool if nobody has used it yet.

        Raises:
            UnknownConnection: there is none of this name.
            PoolClosed: the registry is closed.
        """
        return await self._find(name).pool().check(timeout)

    async def close(self, timeout: float | None = None) -> None:
        """Close all pools at the same time; may be repeated.

        Newcomers are refused at once, borrowers have until the timeout to give back.

        Args:
            timeout: seconds for all; None: each pool's own `close_timeout`.

        Raises:
            WrongLoop: a pool lives in another loop; the others are closed nevertheless.
                Several such errors come as an ExceptionGroup.
        """
        self._closed = True
        pools = [named.current.pool for named in self._named.values() if named.current is not None]
        limit: Timeout = UNSET if timeout is None else timeout
        results = await asyncio.gather(
            *(pool.close(limit) for pool in dict.fromkeys([*pools, *self._leaving])), return_exceptions=True
        )
        errors = [each for each in results if isinstance(each, Exception)]
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise ExceptionGroup("closing the pools of a registry", errors)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        opened = sum(named.current is not None for named in self._named.values())
        state = "closed" if self._closed else "open"
        return f"<ConnectionPoolRegistry {state}, {len(self._named)} names, {opened} pools>"

    def _add(self, config: ConnectionConfig) -> None:
        self._named[config.name] = Named(config.name, config.kind, config)

    def _find(self, name: str) -> Named:
        """What stands behind a name, for who wants to use it."""
        self._refuse_if_closed(name)
        found = self._named.get(name)
        if found is None:
            raise UnknownConnection(name, self.names)
        return found

    def _refuse_if_closed(self, name: str) -> None:
        if self._closed:
            raise PoolClosed(name, why="the registry is closed")

    def _refuse_if_taken(self, name: str) -> None:
        if name in self._named:
            raise ConfigError([f"{name}: there is a connection of this name already"])
