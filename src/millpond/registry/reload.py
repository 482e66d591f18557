"""Taking over a new configuration while the old one serves: one reload, and one connection, at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from millpond.errors import describe
from millpond.registry.named import Named, Version
from millpond.registry.plan import Plan, Running, plan
from millpond.status import PoolState

if TYPE_CHECKING:
    from millpond._core.lease import Lease
    from millpond._core.pool import ConnectionPool
    from millpond.registry.model import ConnectionConfig

logger = logging.getLogger("millpond.registry")

_ENDED: Final = frozenset({PoolState.CLOSING, PoolState.CLOSED})


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """What became of a new configuration; names of connections, in the order of the configuration.

    Attributes:
        added: new names; nobody has used them yet, so nothing was opened.
        removed: names that are gone; their leases end as they would have.
        changed: names with a new version: another pool has taken over.
        adjusted: names whose running pool took the new settings.
        unchanged: names that ran as wanted.
        errors: why a name could not be taken over, by name; it goes on as it was.
        superseded: a later configuration came before this one was taken over whole.
        validated_only: nothing was done; this is what would be.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    adjusted: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    errors: Mapping[str, str] = field(default_factory=dict)
    superseded: bool = False
    validated_only: bool = False

    @property
    def ok(self) -> bool:
        """All of it runs as wanted (or would, when it was only validated)."""
        return not self.errors and not self.superseded

    def as_dict(self) -> dict[str, Any]:
        """All of it by name; ready for JSON."""
        names = ("added", "removed", "changed", "adjusted", "unchanged")
        return {
            "ok": self.ok,
            **{name: list(getattr(self, name)) for name in names},
            "errors": dict(self.errors),
            "superseded": self.superseded,
            "validated_only": self.validated_only,
        }

    def __str__(self) -> str:
        names = ("added", "removed", "changed", "adjusted")
        words = [f"{name} {', '.join(found)}" for name in names if (found := getattr(self, name))]
        words += [f"failed {name}: {why}" for name, why in self.errors.items()]
        words += ["superseded by a later one"] if self.superseded else []
        return "; ".join(words) or "nothing changed"


class Holding(Protocol):
    """What a reload needs of the registry."""

    migration_timeout: float

    @property
    def is_closed(self) -> bool:
        """It lends nothing any more."""

    @property
    def named(self) -> Mapping[str, Named]:
        """What stands behind each name."""

    def enter(self, config: ConnectionConfig, *, is_declared: bool) -> None:
        """Add a name."""

    def drop(self, name: str, timeout: float) -> None:
        """Take a name away; its pools close in the background."""

    def deprecate(self, named: Named, version: Version, timeout: float) -> None:
        """Close a version that is no longer in use, in the background."""


BeforeRemoval: TypeAlias = Callable[[Sequence[str]], Awaitable[bool]]
"""Asked, with their names, before connections are taken away (also when there are none to take away):
whoever uses them may need to be told first."""


class _NotTaken(Exception):
    """A new version cannot take over; the text says why and holds no secret."""


class Reloads:
    """This takes over configurations, one at a time; a later one ends an earlier one's work."""

    def __init__(self, registry: Holding) -> None:
        self._registry = registry
        self._turn = asyncio.Lock()
        self._latest = 0
        self._proof: asyncio.Task[Lease[Any]] | None = None

    def planned(self, wanted: Mapping[str, ConnectionConfig]) -> Plan:
        """What it would take for `wanted` to run."""
        running = {
            name: Running(named.config, named.settings(), named.is_declared)
            for name, named in self._registry.named.items()
            if named.config is not None
        }
        return plan(running, wanted)

    async def apply(
        self, wanted: Mapping[str, ConnectionConfig], before_removal: BeforeRemoval | None = None
    ) -> ReloadResult:
        """Take over `wanted`; see `ConnectionPoolRegistry.apply`.

        Args:
            wanted: the whole configuration.
            before_removal: awaited when all else is done; False: remove nothing.
        """
        self._latest += 1
        mine = self._latest
        self.overtake()
        async with self._turn:
            result = ReloadResult(superseded=True)
            if not self._is_overtaken(mine):
                result = await self._taken_over(wanted, mine, before_removal)
        logger.log(logging.INFO if result.ok else logging.WARNING, "configuration: %s", result)
        return result

    def overtake(self) -> None:
        """End the proof under way: whatever it was for is no longer wanted."""
        if self._proof is not None:
            self._proof.cancel()

    async def finished(self) -> None:
        """Return when no reload is under way."""
        async with self._turn:
            pass

    def _is_overtaken(self, mine: int) -> bool:
        return mine != self._latest or self._registry.is_closed

    async def _taken_over(
        self, wanted: Mapping[str, ConnectionConfig], mine: int, before_removal: BeforeRemoval | None
    ) -> ReloadResult:
        todo = self.planned(wanted)
        # What needs no connection first: it cannot fail, and nobody waits for it behind a slow backend.
        for name in todo.added:
            self._registry.enter(wanted[name], is_declared=True)
        for name in (*todo.adjusted, *todo.unchanged):
            self._adjust(self._registry.named[name], wanted[name])
        changed: list[str] = []
        errors: dict[str, str] = {}
        for name in todo.renewed:
            if self._is_overtaken(mine):
                break
            try:
                if await self._renew(name, wanted[name], mine):
                    changed.append(name)
            except _NotTaken as refusal:
                errors[name] = str(refusal)
        removed: list[str] = []
        if not self._is_overtaken(mine) and (before_removal is None or await before_removal(todo.removed)):
            removed = [name for name in todo.removed if name in self._registry.named]
            for name in removed:
                self._registry.drop(name, self._registry.migration_timeout)
        return ReloadResult(
            added=todo.added, removed=tuple(removed), changed=tuple(changed), adjusted=todo.adjusted,
            unchanged=todo.unchanged, errors=MappingProxyType(errors), superseded=self._is_overtaken(mine),
        )  # fmt: skip

    def _adjust(self, named: Named, config: ConnectionConfig) -> None:
        """Take over settings that a running pool can change; where nobody uses it yet, all of them."""
        if named.current is not None and named.current.pool.state not in _ENDED:
            named.apply(config.settings)
        named.config, named.is_declared = config, True

    async def _renew(self, name: str, config: ConnectionConfig, mine: int) -> bool:
        """Put a new version in the place of the one in use; False: a later configuration came first.

        Raises:
            _NotTaken: it cannot be reached, or not be put there; the version in use stays.
        """
        named = self._registry.named[name]
        old = named.current
        if old is None or old.pool.state in _ENDED:
            self._put_in_place(named, config, None)
            return True
        new = named.made(config, named.number + 1)
        if old.pool.state is PoolState.NEW:
            # Nobody uses it, so there is nothing to lose: the new one proves itself when somebody does.
            old.pool._bequeath(new.pool)
            self._put_in_place(named, config, new)
            return True
        lease: Lease[Any] | None = None
        why: str | None = None
        try:
            lease = await self._proved(new.pool)
            is_wanted = lease is not None and not self._is_overtaken(mine)
            if is_wanted and self._registry.named.get(name) is named:
                if old.pool.state not in _ENDED:
                    old.pool._bequeath(new.pool)
                self._put_in_place(named, config, new)
        except Exception as error:
            why = describe(error, new.pool._redact)
        finally:
            if lease is not None:
                lease.release()
            if named.current is not new:
                await new.pool.close(0)
                named.fit_allowance()
        if why is not None:
            raise _NotTaken(why)
        return named.current is new

    def _put_in_place(self, named: Named, config: ConnectionConfig, new: Version | None) -> None:
        old = named.current
        named.number += 1
        named.config, named.kind, named.is_declared = config, config.kind, True
        named.current = new
        if old is not None:
            self._registry.deprecate(named, old, self._registry.migration_timeout)

    async def _proved(self, pool: ConnectionPool[Any]) -> Lease[Any] | None:
        """A lease of the new pool's first connection, which answers; None: a later configuration came.

        Raises:
            Exception: it cannot be had, or does not answer.
        """
        self._proof = asyncio.create_task(self._prove(pool), name=f"millpond {pool.name}: proof")
        try:
            await asyncio.wait([self._proof])
            return None if self._proof.cancelled() else self._proof.result()
        except asyncio.CancelledError:
            self._proof.cancel()
            await asyncio.wait([self._proof])
            if not self._proof.cancelled() and self._proof.exception() is None:
                self._proof.result().release()
            raise
        finally:
            self._proof = None

    async def _prove(self, pool: ConnectionPool[Any]) -> Lease[Any]:
        lease = await pool.lease(timeout=self._registry.migration_timeout)
        try:
            async with asyncio.timeout(pool.settings.health_check_timeout):
                await pool.driver.ping(lease.connection)
        except TimeoutError:
            lease.discard()
            raise TimeoutError("its first connection does not answer a ping") from None
        except BaseException:
            lease.discard()
            raise
        return lease
