"""What is done with a request: one file a kind of backend, loaded when a hook uses that kind."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final, Protocol, cast

from millpond.gateway.model import RowModule
from millpond.gateway.pointer import Received
from millpond.gateway.refusals import NotStored

_MODULES: Final = {
    "mysql": ("millpond.gateway.modules.mysql", "MySQLRows"),
    "postgresql": ("millpond.gateway.modules.postgresql", "PostgreSQLRows"),
    "sqlite": ("millpond.gateway.modules.sqlite", "SQLiteRows"),
}

KINDS: Final[tuple[str, ...]] = tuple(_MODULES)
"""The kinds of connection that a hook can write to."""


class Module(Protocol):
    """One step of a hook: it puts a request where it belongs, through one connection."""

    connection: str
    """Name of the connection in the registry."""
    timeout: float
    """Longest that `store` may take, seconds."""

    async def store(self, conn: Any, received: Received) -> None:
        """Store the request; when this returns, it is committed.

        Raises:
            NoRow: nothing failed, and nothing was stored.
            Exception: whatever the client library raises; the lease has to see it.
        """
        ...

    def explain(self, error: Exception) -> NotStored:
        """What an error of the client library means."""
        ...


def make(model: RowModule, kind: str) -> Module:
    """The module that does what `model` says.

    Args:
        model: checked already.
        kind: its `type`, one of `KINDS`.

    Raises:
        ValueError: a name cannot be used with this kind; the text begins with the key.
        MissingExtra: the kind's client library is not installed.
    """
    place, name = _MODULES[kind]
    return cast("Module", getattr(import_module(place), name)(model))
