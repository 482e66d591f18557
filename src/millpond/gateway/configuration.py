"""The files of a gateway, and how what they say is taken over while requests are served.

Both files are read and checked against each other before anything changes.
Then connections come first, hooks second, in one step with connections that
become of another kind; and what no hook uses any more goes last, when the
requests that began under the old hooks have ended: no request finds its
connection gone, and none finds one of a kind that its hook is not written for.

A reload that is overtaken by one of the connections alone leaves it its hooks:
whoever wanted them has not taken them back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from millpond.errors import ConfigError
from millpond.gateway.load import read_webhooks
from millpond.registry.load import Faults, files_named_by, load_connections
from millpond.registry.reloader import Part, Reloaded

if TYPE_CHECKING:
    from pathlib import Path

    from millpond.gateway.app import Gateway, Hook
    from millpond.gateway.load import WebhooksFile
    from millpond.registry import ConnectionPoolRegistry
    from millpond.registry.model import ConnectionConfig
    from millpond.registry.reload import Handover

_LONGEST_REQUEST_S: Final = 60.0
"""How long (seconds) connections are kept for requests that began under the old hooks."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The connections that there will be."""

    configs: Mapping[str, ConnectionConfig]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.configs)

    def kind(self, name: str) -> str:
        return self.configs[name].kind


@dataclass(frozen=True, slots=True)
class _Turned:
    """The connections that there are, once some have become of another kind."""

    registry: ConnectionPoolRegistry
    kinds: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        return self.registry.names

    def kind(self, name: str) -> str:
        return self.kinds.get(name) or self.registry.kind(name)


class GatewayFiles:
    """This reads the files of a gateway again, for a `Reloader`.

    Args:
        registry: holds the connections; made from a file.
        gateway: serves the hooks.
        webhooks: the file of the hooks that the gateway serves; None: they came from none.
        environ: where variables are looked up; None: the process's environment.
    """

    def __init__(
        self,
        registry: ConnectionPoolRegistry,
        gateway: Gateway,
        webhooks: WebhooksFile | None,
        *,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._registry = registry
        self._gateway = gateway
        self._webhooks = webhooks
        self._environ = environ
        # Read by a reload that is under way, or that was overtaken and left it to the next one.
        self._coming: WebhooksFile | None = None
        self._in_vain: frozenset[Path] = frozenset()

    @property
    def files(self) -> frozenset[Path]:
        """Both files, and those that their values name."""
        found = self._registry.files | self._in_vain
        return found if self._webhooks is None else found | self._webhooks.files | {self._webhooks.path}

    def is_of(self, registry: ConnectionPoolRegistry) -> bool:
        """Whether this is the registry that takes the connections over."""
        return registry is self._registry

    async def reload(self, *, connections: bool, webhooks: bool, validate_only: bool) -> Reloaded:
        """Read and take over what is asked for; see `Source`."""
        try:
            reloaded = await self._reload(connections, webhooks, validate_only)
        except ConfigError:
            # A secret that is mounted after the file that names it: when it is there it is time to try again.
            paths = (self._registry.path, None if self._webhooks is None else self._webhooks.path)
            named = [files_named_by(path, self._environ) for path in paths if path is not None]
            self._in_vain = frozenset().union(*named)
            raise
        self._in_vain = frozenset()
        return reloaded

    async def _reload(self, connections: bool, webhooks: bool, validate_only: bool) -> Reloaded:
        if not connections:
            return self._hooks_alone(validate_only) if webhooks and self._webhooks else Reloaded()
        path = self._registry.path
        if path is None:
            raise ConfigError(["the connections did not come from a file"])
        faults, wanted, file = Faults(), None, self._coming
        with faults:
            wanted = load_connections(path, environ=self._environ)
        with faults:
            file = self._read() if webhooks else self._coming
        faults.tell()
        assert wanted is not None  # noqa: S101 - for the type checker
        hooks = None if file is None else file.hooks(_Wanted(wanted.configs))
        if file is None:
            self._refuse_to_strand(wanted.configs)
        if validate_only:
            checked = await self._registry.take_over(wanted, validate_only=True)
            return Reloaded(checked, None if hooks is None else self._difference(hooks))
        part: Part | None = None
        problems: tuple[str, ...] = ()

        async def hand_over(last: Handover) -> bool:
            """Change the hooks with what they use. False: they stay, with what they use."""
            nonlocal part, problems
            if self._coming is not None:
                try:
                    # Once more: a connection that could not be taken over may still be of another kind.
                    hooks = self._coming.hooks(_Turned(self._registry, last.turned))
                except ConfigError as error:
                    problems = tuple(error.problems)
                    return False
                part = self._difference(hooks)
                last.switch()
                self._webhooks = self._coming
                self._gateway.replace(hooks)
            if last.removed:
                await self._quiet(last.overtaken)
            return True

        before, self._coming = self._coming, file
        try:
            result = await self._registry.take_over(wanted, hand_over=hand_over)
        except ConfigError:
            self._coming = before
            raise
        if not result.superseded:
            self._coming = None
        return Reloaded(result, part, problems)

    async def _quiet(self, overtaken: asyncio.Event) -> None:
        """Return when the requests that began under hooks of before, and may use what goes, have ended.

        After a minute at the latest; and when a later reload has come, which then waits for them.
        """
        ends = [asyncio.create_task(each) for each in (self._gateway.quiet(), overtaken.wait())]
        try:
            await asyncio.wait(ends, timeout=_LONGEST_REQUEST_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in ends:
                each.cancel()

    def _read(self) -> WebhooksFile | None:
        """The file of the hooks as it is now."""
        return None if self._webhooks is None else read_webhooks(self._webhooks.path, environ=self._environ)

    def _hooks_alone(self, validate_only: bool) -> Reloaded:
        file = self._read()
        assert file is not None  # noqa: S101 - asked only where there is one
        hooks = file.hooks(self._registry)
        part = self._difference(hooks)
        if not validate_only:
            self._webhooks = file
            if self._coming is not None:
                self._coming = file
            self._gateway.replace(hooks)
        return Reloaded(None, part)

    def _difference(self, hooks: Mapping[str, Hook]) -> Part:
        before = self._gateway.hooks
        return Part(
            added=tuple(path for path in hooks if path not in before),
            removed=tuple(path for path in before if path not in hooks),
            kept=tuple(path for path in hooks if path in before),
        )

    def _refuse_to_strand(self, wanted: Mapping[str, ConnectionConfig]) -> None:
        """The hooks stay as they are: then what they use must stay too.

        Raises:
            ConfigError: a hook would be left without its connection, or with one of another kind.
        """
        faults: list[str] = []
        how = "reload the webhooks as well" if self._webhooks else "which came from no file"
        for hook in self._gateway.hooks.values():
            for module in hook.modules:
                name = module.connection
                if name in self._registry.names and (
                    name not in wanted or wanted[name].kind != self._registry.kind(name)
                ):
                    faults.append(f"{name}: is used by hook {hook.path}; {how}")
        if faults:
            raise ConfigError(list(dict.fromkeys(faults)))
