"""The files of a gateway, and how what they say is taken over while requests are served.

Both files are read and checked against each other before anything changes.
Then connections come first, hooks second, and what no hook uses any more goes
last, when the requests that began under the old hooks have ended: no request
finds its connection gone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from millpond.errors import ConfigError
from millpond.gateway.load import load_webhooks
from millpond.registry.load import load_connections
from millpond.registry.reloader import Part, Reloaded
from millpond.registry.sources import read_document
from millpond.registry.substitution import substitute

if TYPE_CHECKING:
    from millpond.gateway.app import Gateway, Hook
    from millpond.registry import ConnectionPoolRegistry
    from millpond.registry.model import ConnectionConfig

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


class GatewayFiles:
    """This reads the files of a gateway again, for a `Reloader`.

    Args:
        registry: holds the connections; made from a file.
        gateway: serves the hooks.
        webhooks: their file; None: there are no hooks.
        environ: where variables are looked up; None: the process's environment.
    """

    def __init__(
        self,
        registry: ConnectionPoolRegistry,
        gateway: Gateway,
        webhooks: Path | None,
        *,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._registry = registry
        self._gateway = gateway
        self._webhooks = webhooks
        self._environ = environ
        self._named: frozenset[Path] = self._files_of_webhooks()

    @property
    def files(self) -> frozenset[Path]:
        """Both files, and those that their values name."""
        return self._registry.files | self._named

    async def reload(self, *, connections: bool, webhooks: bool, validate_only: bool) -> Reloaded:
        """Read and take over what is asked for; see `Source`."""
        webhooks = webhooks and self._webhooks is not None
        if not connections:
            return self._hooks_alone(validate_only) if webhooks else Reloaded()
        path = self._registry.path
        if path is None:
            raise ConfigError(["the connections did not come from a file"])
        wanted = load_connections(path, environ=self._environ)
        hooks = self._load(_Wanted(wanted.configs)) if webhooks else None
        if not webhooks and self._webhooks is not None:
            self._refuse_to_strand(wanted.configs)
        if validate_only:
            checked = await self._registry.take_over(wanted, validate_only=True)
            return Reloaded(checked, None if hooks is None else self._difference(hooks))
        part: Part | None = None
        problems: tuple[str, ...] = ()

        async def before_removal(removed: Sequence[str]) -> bool:
            """Change the hooks: their connections are there now. False: they stay, with what they use."""
            nonlocal part, problems
            if hooks is None:
                return True
            try:
                # Once more: a connection that could not be taken over may still be of another kind.
                part = await self._put(self._load(self._registry), waits=bool(removed))
            except ConfigError as error:
                problems = tuple(error.problems)
                return False
            return True

        result = await self._registry.take_over(wanted, before_removal=before_removal)
        return Reloaded(result, part, problems)

    def _load(self, connections: ConnectionPoolRegistry | _Wanted) -> dict[str, Hook]:
        assert self._webhooks is not None  # noqa: S101 - asked only where there are some
        return load_webhooks(self._webhooks, connections, environ=self._environ)

    def _hooks_alone(self, validate_only: bool) -> Reloaded:
        hooks = self._load(self._registry)
        part = self._difference(hooks)
        if not validate_only:
            self._named = self._files_of_webhooks()
            self._gateway.replace(hooks)
        return Reloaded(None, part)

    async def _put(self, hooks: Mapping[str, Hook], *, waits: bool) -> Part:
        """Serve these hooks; if connections are to go, wait for requests that began under the old ones."""
        part = self._difference(hooks)
        self._named = self._files_of_webhooks()
        ended = self._gateway.replace(hooks)
        if waits:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended, _LONGEST_REQUEST_S)
        return part

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
        for hook in self._gateway.hooks.values():
            for module in hook.modules:
                name = module.connection
                if name in self._registry.names and (
                    name not in wanted or wanted[name].kind != self._registry.kind(name)
                ):
                    faults.append(f"{name}: is used by hook {hook.path}; reload the webhooks as well")
        if faults:
            raise ConfigError(list(dict.fromkeys(faults)))

    def _files_of_webhooks(self) -> frozenset[Path]:
        """The file of the hooks, and those that its values name."""
        if self._webhooks is None:
            return frozenset()
        found = frozenset({self._webhooks})
        with contextlib.suppress(ConfigError):
            found |= substitute(read_document(self._webhooks).values, self._environ).files
        return found
