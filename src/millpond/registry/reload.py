"""Taking over a new configuration while the old one serves: one reload, and one connection, at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from millpond.errors import describe
from millpond.registry.named import Named, Version
from millpond.registry.plan import Plan, Running, plan
from millpond.status import PoolState

if TYPE_CHECKING:
    from millpond._core.lease import Lease
    from millpond._core.pool import ConnectionPool
    from millpond.registry.model import ConnectionConfig
    from millpond.registry.registry import ConnectionPoolRegistry

logger = logging.getLogger("millpond.registry")

_GONE: Final = "it was taken out of the registry meanwhile"
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


@dataclass(frozen=True, slots=True)
class Handover:
    """The last step of a reload, for whoever uses the connections: they may need to change with them.

    Attributes:
        removed: names that are about to be taken away.
        turned: names that are about to be of another kind, with that; proved already.
        switch: makes the turned names what they will be, at once and without an await, so that what uses
            them can be changed in the same step; it may be called again.
        overtaken: set when a later configuration has come: nothing will be removed, for that one will do
            it, and who waits here any longer keeps that one waiting.
    """

    removed: tuple[str, ...]
    turned: Mapping[str, str]
    switch: Callable[[], None]
    overtaken: asyncio.Event


HandOver: TypeAlias = Callable[[Handover], Awaitable[bool]]
"""Awaited when all else is done, also where nothing is removed or turned. False: neither is to happen."""


class _NotTaken(Exception):
    """A new version cannot take over; the text says why and holds no secret."""


@dataclass(slots=True, eq=False)
class _Successor:
    """A version that could take over now.

    Attributes:
        named: the name that it is for.
        config: what it was made from.
        version: the version; None: nobody uses the name, it is made when somebody does.
        lease: of the connection that has proved it; None: there was nothing to prove.
    """

    named: Named
    config: ConnectionConfig
    version: Version | None
    lease: Lease[Any] | None = None

    @property
    def is_of_another_kind(self) -> bool:
        return self.config.kind != self.named.kind

    def let_go(self) -> None:
        """Give the connection that has proved it back."""
        lease, self.lease = self.lease, None
        if lease is not None:
            lease.release()


class Reloads:
    """This takes over configurations, one at a time; a later one ends an earlier one's work."""

    def __init__(self, registry: ConnectionPoolRegistry) -> None:
        self._registry = registry
        self._turn = asyncio.Lock()
        self._latest = 0
        self._proof: asyncio.Task[Lease[Any]] | None = None
        self._overtaken = asyncio.Event()  # of the one under way

    def planned(self, wanted: Mapping[str, ConnectionConfig]) -> Plan:
        """What it would take for `wanted` to run."""
        running = {
            name: Running(named.config, named.settings(), named.is_declared)
            for name, named in self._registry.named.items()
            if named.config is not None
        }
        return plan(running, wanted)

    async def apply(
        self, wanted: Mapping[str, ConnectionConfig], hand_over: HandOver | None = None
    ) -> ReloadResult:
        """Take over `wanted`; see `ConnectionPoolRegistry.apply`.

        Args:
            wanted: the whole configuration.
            hand_over: see there.
        """
        self._latest += 1
        mine = self._latest
        self.overtake()
        async with self._turn:
            result = ReloadResult(superseded=True)
            if not self._is_overtaken(mine):
                self._overtaken = asyncio.Event()
                result = await self._taken_over(wanted, mine, hand_over)
        logger.log(logging.INFO if result.ok else logging.WARNING, "configuration: %s", result)
        return result

    def overtake(self) -> None:
        """End the proof under way, and the wait before the end: what they are for is no longer wanted."""
        self._overtaken.set()
        if self._proof is not None:
            self._proof.cancel()

    async def finished(self) -> None:
        """Return when no reload is under way."""
        async with self._turn:
            pass

    def _is_overtaken(self, mine: int) -> bool:
        return mine != self._latest or self._registry.is_closed

    async def _taken_over(
        self, wanted: Mapping[str, ConnectionConfig], mine: int, hand_over: HandOver | None
    ) -> ReloadResult:
        todo = self.planned(wanted)
        # What needs no connection first: it cannot fail, and nobody waits for it behind a slow backend.
        for name in todo.added:
            self._registry.enter(wanted[name], is_declared=True)
        for name in (*todo.adjusted, *todo.unchanged):
            self._adjust(self._registry.named[name], wanted[name])
        changed: list[str] = []
        removed: list[str] = []
        errors: dict[str, str] = {}
        turned: list[_Successor] = []
        try:
            for name in todo.renewed:
                if self._is_overtaken(mine):
                    break
                try:
                    successor = await self._successor(name, wanted[name])
                except _NotTaken as refusal:
                    errors[name] = str(refusal)
                    continue
                if successor is None:
                    continue
                turned.append(successor)
                if successor.is_of_another_kind:
                    # What uses the name is written for the other kind, and changes with it: see `Handover`.
                    successor.let_go()
                elif not self._is_overtaken(mine):
                    self._put_in_place(turned.pop())
                    changed.append(name)

            def switch() -> None:
                there = [each for each in turned if self._registry.named.get(each.named.name) is each.named]
                for successor in there:
                    turned.remove(successor)
                    self._put_in_place(successor)
                    changed.append(successor.named.name)

            if not self._is_overtaken(mine):
                kinds = {each.named.name: each.config.kind for each in turned}
                last = Handover(todo.removed, kinds, switch, self._overtaken)
                if hand_over is None or await hand_over(last):
                    switch()
                    if not self._is_overtaken(mine):
                        removed = [name for name in todo.removed if name in self._registry.named]
                    for name in removed:
                        self._registry.drop(name, self._registry.migration_timeout)
                else:
                    errors |= dict.fromkeys(kinds, "it would be of another kind, which its users do not fit")
        finally:
            for successor in turned:
                await self._give_up(successor)
        return ReloadResult(
            added=todo.added, removed=tuple(removed), changed=tuple(changed), adjusted=todo.adjusted,
            unchanged=todo.unchanged, errors=MappingProxyType(errors), superseded=self._is_overtaken(mine),
        )  # fmt: skip

    def _adjust(self, named: Named, config: ConnectionConfig) -> None:
        """Take over settings that a running pool can change; where nobody uses it yet, all of them."""
        if named.current is not None and named.current.pool.state not in _ENDED:
            named.apply(config.settings)
        named.config, named.is_declared = config, True

    async def _successor(self, name: str, config: ConnectionConfig) -> _Successor | None:
        """A new version, fit to take over; None: a later configuration came first.

        Raises:
            _NotTaken: it cannot be reached, or the name is gone; the version in use stays.
        """
        named = self._registry.named.get(name)
        if named is None:
            raise _NotTaken(_GONE)
        old = named.current
        if old is None or old.pool.state in _ENDED:
            return _Successor(named, config, None)
        successor = _Successor(named, config, named.made(config, named.number + 1))
        if old.pool.state is PoolState.NEW:
            # Nobody uses it, so there is nothing to lose: the new one proves itself when somebody does.
            return successor
        assert successor.version is not None  # noqa: S101 - for the type checker
        new = successor.version.pool
        is_fit, why = False, None
        try:
            successor.lease = await self._proved(new)
            is_fit = successor.lease is not None and self._registry.named.get(name) is named
            why = None if is_fit or successor.lease is None else _GONE
        except Exception as error:
            why = describe(error, new._redact)
        finally:
            if not is_fit:
                await self._give_up(successor)
        if why is not None:
            raise _NotTaken(why)
        return successor if is_fit else None

    def _put_in_place(self, successor: _Successor) -> None:
        named, config, new = successor.named, successor.config, successor.version
        old = named.current
        if old is not None and old.pool.state not in _ENDED:
            # Somebody may have begun to use it since: those who wait are served all the same.
            new = new or named.made(config, named.number + 1)
            old.pool._bequeath(new.pool)
        named.number += 1
        named.config, named.kind, named.is_declared = config, config.kind, True
        named.current = new
        if old is not None:
            self._registry.deprecate(named, old, self._registry.migration_timeout)
        successor.let_go()

    async def _give_up(self, successor: _Successor) -> None:
        """Close a version that does not take over."""
        successor.let_go()
        if successor.version is not None:
            await successor.version.pool.close(0)
            self._registry.fit_allowance(successor.named)

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
