"""Every pool of a service in one place, by name. Makes a pool when its name is first used, closes them all.

Bound to no event loop and starts nothing: each pool binds itself to the loop
in which it is first used.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from millpond._core.pool import ConnectionPool
from millpond.drivers.kinds import near
from millpond.errors import ConfigError, PoolClosed, PoolError
from millpond.registry.handle import PoolHandle
from millpond.registry.load import Connections, load_connections
from millpond.registry.model import ConnectionConfig, connection_config
from millpond.registry.named import Named, Version
from millpond.registry.reload import HandOver, ReloadResult, Reloads
from millpond.registry.sources import name_fault
from millpond.registry.status import RegistryStatus
from millpond.registry.substitution import quoted
from millpond.settings import UNSET, Range, Timeout, invalid
from millpond.status import PoolCheck, PoolState

_log = logging.getLogger("millpond.registry")
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
        self._path: str | os.PathLike[str] | None = None
        self._environ: Mapping[str, str] | None = None
        self._numbers: dict[str, int] = {}  # the last version of names that were taken away
        self._gone: dict[str, Named] = {}  # names that were taken away and have versions that are ending
        self._ending: list[Version] = []  # deprecated, not closed yet; of names that are gone, too
        self._cut: list[Version] = []  # closed, though borrowers have not given everything back
        self._reloads = Reloads(self)
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
            registry.enter(config, is_declared=True)
        registry._path, registry._environ = path, environ
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
        self.enter(found, is_declared=False)

    def add_pool(self, name: str, pool: ConnectionPool[Any]) -> None:
        """Add a pool that you made; from now on the registry closes it.

        Raises:
            ConfigError: the name cannot be one, or there is such a name already.
            PoolClosed: the registry is closed, or the pool is closed or closing.
            TypeError: it is no pool.
        """
        self._refuse_if_closed(name)
        if not isinstance(pool, ConnectionPool):
            raise TypeError(f"add_pool() needs a ConnectionPool, got {type(pool).__name__}")
        if wrong := name_fault(name):
            raise ConfigError([f"{quoted(name)}: {wrong}"])
        self._refuse_if_taken(name)
        if pool.state in (PoolState.CLOSING, PoolState.CLOSED):
            raise PoolClosed(name, why=f"the pool to add is {pool.state.value} already")
        kind = getattr(type(pool.driver), "kind", None) or pool.driver.name
        self._named[name] = Named(name, str(kind), config=None, number=self._next_number(name))
        self._named[name].adopt(pool)

    async def remove(self, name: str, timeout: Timeout = UNSET) -> None:
        """Take a connection out: its name is unknown at once, its pool closes as `pool.close(timeout)` does.

        Raises:
            UnknownConnection: there is none of this name.
            PoolClosed: the registry is closed.
        """
        named = self._find(name)
        self.drop(name, timeout)
        # Who stops waiting does not stop the pools from closing.
        tasks = [version.ending for version in named.older if version.ending is not None]
        errors = [each for each in await asyncio.shield(asyncio.gather(*tasks)) if each is not None]
        if errors:
            raise errors[0]

    async def apply(
        self,
        new_config: Connections | Mapping[str, Any] | str | os.PathLike[str],
        *,
        validate_only: bool = False,
    ) -> ReloadResult:
        """Make this the configuration of all connections, while they serve.

        Names whose configuration is the same stay as they are. Settings that a
        running pool can change are changed in it. Anything else makes a new
        version: its first connection, on a place of the old version's, proves
        that the backend is there and takes it; then those who wait move to it,
        in order, and the old version ends with its last lease, or at
        `migration_timeout`. When the proof fails the old version goes on, and
        the result says why; applying again tries again. Both versions together
        never have more connections than the larger `max_size`.

        Names that are missing are removed, unless they came by `add` or
        `add_pool`. A call that comes while another is under way ends that one,
        which reports `superseded`.

        Args:
            new_config: all connections by name, as a file would have them (values are taken as they
                are, like those of `add`), or the path of a file.
            validate_only: change nothing, and say what would be.

        Raises:
            ConfigError: the configuration cannot be used; nothing was changed.
            MissingExtra: the file is YAML and PyYAML is not installed.
            PoolClosed: the registry is closed.
        """
        return await self.take_over(new_config, validate_only=validate_only)

    async def take_over(
        self,
        new_config: Connections | Mapping[str, Any] | str | os.PathLike[str],
        *,
        validate_only: bool = False,
        hand_over: HandOver | None = None,
    ) -> ReloadResult:
        """What `apply` does; for who has to change with names that are taken away or become of another kind.

        Args:
            new_config: as for `apply`.
            validate_only: as for `apply`.
            hand_over: awaited when all else is done, with what is left to do; False: that is not to be done.
        """
        self._refuse_if_closed(None)
        if isinstance(new_config, (str, os.PathLike)):
            new_config = load_connections(new_config, environ=self._environ)
        configs = _configs(new_config)
        own = [name for name in configs if name in self._named and self._named[name].config is None]
        if own:
            raise ConfigError([f"{name}: a pool of this name was added by the program" for name in own])
        if validate_only:
            todo = self._reloads.planned(configs)
            return ReloadResult(
                todo.added, todo.removed, todo.renewed, todo.adjusted, todo.unchanged, validated_only=True
            )
        if isinstance(new_config, Connections):
            self._files = frozenset({new_config.path, *new_config.files})
        return await self._reloads.apply(configs, hand_over)

    async def reload(self, *, validate_only: bool = False) -> ReloadResult:
        """Read the file that this registry came from once more, and apply it.

        Raises:
            ConfigError: the file cannot be used, nothing was changed; or the registry came from none.
            MissingExtra: the file is YAML and PyYAML is not installed.
            PoolClosed: the registry is closed.
        """
        self._refuse_if_closed(None)
        if self._path is None:
            raise ConfigError(["the registry did not come from a file; use apply() with a configuration"])
        return await self.apply(self._path, validate_only=validate_only)

    async def wait_closed(self, name: str, version: int) -> None:
        """Return when this version of `name` is gone: after its last lease, or at `migration_timeout`.

        Raises:
            ValueError: it is the version in use, or one that has not been made yet.
        """
        found = self._deprecated(name, version)
        if found is not None and found.ending is not None:
            await asyncio.shield(found.ending)
            return
        named = self._named.get(name)
        last = self._numbers.get(name, 0) if named is None else named.number - 1
        if not 1 <= version <= last:
            raise ValueError(f"version {version} of {quoted(name)} is not a deprecated one")

    async def close_version(self, name: str, version: int, timeout: Timeout = UNSET) -> None:
        """Close a deprecated version sooner than its migration would.

        Args:
            name: the connection's name.
            version: the version's number.
            timeout: seconds that its borrowers have; left out: the pool's `close_timeout`.

        Raises:
            LookupError: there is no such version that is ending.
        """
        found = self._deprecated(name, version)
        if found is None:
            raise LookupError(f"there is no deprecated version {version} of {quoted(name)}")
        await found.pool.close(timeout)
        if found.ending is not None:
            await asyncio.shield(found.ending)

    # -- what a reload does here ------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        """It lends nothing any more."""
        return self._closed

    @property
    def named(self) -> Mapping[str, Named]:
        """What stands behind each name."""
        return self._named

    def enter(self, config: ConnectionConfig, *, is_declared: bool) -> None:
        """Add a name that nobody uses yet; one that was there shares its places with what is left of it."""
        named = Named.of(config, number=self._next_number(config.name), is_declared=is_declared)
        if config.name in self._gone:
            named.succeed(self._gone[config.name])
        self._named[config.name] = named

    def drop(self, name: str, timeout: Timeout) -> None:
        """Take a name away; its pools close in the background, the one in use within `timeout` seconds."""
        named = self._named.pop(name)
        self._numbers[name] = named.number
        current, named.current = named.current, None
        if current is not None:
            self.deprecate(named, current, timeout)
        if named.older and named.allowance is not None:
            self._gone[name] = named

    def deprecate(self, named: Named, version: Version, timeout: Timeout) -> None:
        """Close a version that is no longer in use in the background, within `timeout` seconds."""

        async def end() -> Exception | None:
            try:
                await version.pool.close(timeout)
            except PoolError as error:  # it lives in another loop, or that has ended
                _log.warning("%s: version %d could not be closed: %s", version.name, version.number, error)
                return error
            finally:
                named.older.remove(version)
                self._ending.remove(version)
                if version.pool._is_owed:
                    self._cut.append(version)
                self.fit_allowance(named)
                if (gone := self._gone.get(version.name)) is not None and not gone.older:
                    del self._gone[version.name]
            return None

        named.older.append(version)
        self._ending.append(version)
        version.ending = asyncio.create_task(
            end(), name=f"millpond {version.name}: end of version {version.number}"
        )

    def fit_allowance(self, named: Named) -> None:
        """As `Named.fit_allowance`, also where the name was taken away and has come back since."""
        now = self._named.get(named.name)
        (now if now is not None and now.older is named.older else named).fit_allowance()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all connections, in the order in which they came."""
        return tuple(self._named)

    @property
    def path(self) -> Path | None:
        """The file that the connections came from; None: they came from the program."""
        return None if self._path is None else Path(self._path)

    @property
    def environ(self) -> Mapping[str, str] | None:
        """Where variables of that file are looked up; None: the process's environment."""
        return self._environ

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
        return PoolHandle(name, self._find, self._owner)

    def status(self) -> RegistryStatus:
        """What every pool is doing; no I/O, makes no pool, works after `close` too."""
        return RegistryStatus(
            self._closed,
            active=tuple(named.status() for named in self._named.values()),
            deprecated=tuple(version.status() for version in self._ending),
        )

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
        self._reloads.overtake()
        versions = [named.current for named in self._named.values() if named.current is not None]
        versions += self._ending
        loop = asyncio.get_running_loop()
        endings = [version.ending for version in versions if version.ending is not None]
        limit: Timeout = UNSET if timeout is None else timeout
        results = await asyncio.gather(
            *(version.pool.close(limit) for version in versions),
            *(ending for ending in endings if ending.get_loop() is loop),
            self._reloads.finished(),
            return_exceptions=True,
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

    def _next_number(self, name: str) -> int:
        return self._numbers.get(name, 0) + 1

    def _deprecated(self, name: str, number: int) -> Version | None:
        """The version of this number that is ending, if it is."""
        return next((each for each in self._ending if (each.name, each.number) == (name, number)), None)

    def _owner(self, name: str, conn: Any) -> ConnectionPool[Any]:
        """The pool that lent `conn`, of whichever version, even if the name or the registry has ended since.

        The pool in use, if it was none of them: it will say that the connection is not on loan.
        """
        self._cut = [version for version in self._cut if version.pool._is_owed]
        versions = [version for version in (*self._ending, *self._cut) if version.name == name]
        named = self._named.get(name)
        if named is not None and named.current is not None:
            versions.insert(0, named.current)
        found = next((version.pool for version in versions if version.pool._owns(conn)), None)
        return self._find(name).pool() if found is None else found

    def _find(self, name: str) -> Named:
        """What stands behind a name, for who wants to use it."""
        self._refuse_if_closed(name)
        found = self._named.get(name)
        if found is None:
            raise UnknownConnection(name, self.names)
        return found

    def _refuse_if_closed(self, name: str | None) -> None:
        if self._closed:
            raise PoolClosed(name, why="the registry is closed")

    def _refuse_if_taken(self, name: str) -> None:
        if name in self._named:
            raise ConfigError([f"{name}: there is a connection of this name already"])


def _configs(given: Connections | Mapping[str, Any]) -> dict[str, ConnectionConfig]:
    """Every connection's configuration, valid as a whole."""
    if isinstance(given, Connections):
        return dict(given.configs)
    if not isinstance(given, Mapping):
        raise TypeError(f"a configuration must be a mapping or a path, got {type(given).__name__}")
    configs: dict[str, ConnectionConfig] = {}
    problems: list[str] = []
    for name, values in given.items():
        try:
            configs[name] = (
                values if isinstance(values, ConnectionConfig) else connection_config(name, values)
            )
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return configs
