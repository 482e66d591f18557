"""A registry of scripted servers on the simulated loop, every pool of it audited after every step."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, Self

from millpond.drivers.kinds import AnyKind, Kinds
from millpond.errors import ConfigError
from millpond.registry import ConnectionPoolRegistry
from millpond.registry.model import ConnectionConfig, connection_config
from millpond.registry.named import Named, Version
from millpond.settings import PoolSettings
from millpond.testing import Auditor, ScriptedBackend, ScriptedDriver, run
from millpond.testing.driver import AccessDenied, ScriptedConnection

SERVERS: dict[str, ScriptedBackend] = {}
"""The servers of the world that runs, by host."""
PASSWORDS: dict[str, str] = {}
"""What each of them takes; a server without one takes anything."""


class ScriptedKind(ScriptedDriver):
    """A driver that a configuration can name: `host` says which server, and that checks the password."""

    kind: ClassVar[str] = "scripted"
    schemes: ClassVar[tuple[str, ...]] = ("scripted",)
    extra: ClassVar[str] = "none"
    default_sizes: ClassVar[tuple[int, int]] = (0, 2)
    secret_options: ClassVar[frozenset[str]] = frozenset({"password"})

    def __init__(self, *, host: str, password: str = "") -> None:
        if host == "bad":
            raise ValueError("host: there is none of this name")
        super().__init__(SERVERS.setdefault(host, ScriptedBackend()), secrets=(password,) if password else ())
        self.host, self.password = host, password

    @classmethod
    def options_from_url(cls, url: str) -> Mapping[str, Any]:
        return {"host": url.partition("://")[2]}

    def configured(self, settings: PoolSettings) -> Self:
        bound = type(self)(host=self.host, password=self.password)
        bound.level = settings.reset
        return bound

    async def connect(self) -> ScriptedConnection:
        if PASSWORDS.get(self.host, self.password) != self.password:
            raise AccessDenied(f"password {self.password} is wrong")
        return await super().connect()

    def is_permanent(self, error: BaseException) -> bool:
        return isinstance(error, AccessDenied)


class ScriptedKinds(Kinds):
    """Only the scripted kind."""

    def get(self, name: str) -> AnyKind:
        if name != "scripted":
            raise ConfigError([f"is not a known kind: {name}"])
        return ScriptedKind


def configured(name: str, **values: Any) -> ConnectionConfig:
    """One connection to a scripted server; raises as a file would."""
    pool = {"min_size": 0, "retry_delay": 0.05, "recovery_timeout": 0.5, **values.pop("pool", {})}
    given = {"type": "scripted", "host": "one", **values, "pool": pool}
    return connection_config(name, given, kinds=ScriptedKinds())


class World:
    """A registry, and what there is to see of it."""

    def __init__(self, seed: int, migration_timeout: float) -> None:
        SERVERS.clear()
        PASSWORDS.clear()
        self.rng = random.Random(seed)
        self.auditor = Auditor()
        self.registry = ConnectionPoolRegistry(migration_timeout=migration_timeout)

    def server(self, host: str) -> ScriptedBackend:
        """The server of this name."""
        return SERVERS.setdefault(host, ScriptedBackend())

    async def apply(self, *configs: ConnectionConfig, validate_only: bool = False) -> Any:
        """Make these the whole configuration."""
        return await self.registry.apply({each.name: each for each in configs}, validate_only=validate_only)

    async def borrow(self, name: str, seconds: float = 0.0) -> ScriptedConnection:
        """One lease with a request in it; the connection that it had."""
        async with self.registry.acquire(name) as conn:
            with conn.backend.using(conn):
                await conn.request("x")
            await asyncio.sleep(seconds)
            return conn  # type: ignore[no-any-return]


def in_world(
    story: Callable[[World], Awaitable[object]], *, seed: int = 0, migration_timeout: float = 300.0
) -> World:
    """Run `story`; afterwards the registry is closed, and no server has a connection left."""
    world = World(seed, migration_timeout)
    made = Named.made

    def audited(named: Named, config: ConnectionConfig, number: int) -> Version:
        version = made(named, config, number)
        world.auditor.add(version.pool)
        return version

    async def main() -> None:
        world.auditor.attach()
        await story(world)
        await world.registry.close(1.0)
        for server in SERVERS.values():
            server.check(all_closed=True)
        world.auditor.finish()

    Named.made = audited  # type: ignore[method-assign]
    try:
        run(main, seed=seed, check_timers=True)
    finally:
        Named.made = made  # type: ignore[method-assign]
    return world
