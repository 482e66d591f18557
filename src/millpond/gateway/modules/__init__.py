"""What is done with a request: one file a kind of backend, loaded when a hook uses that kind."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final, Protocol, cast

from millpond.gateway.idempotency import Keeping
from millpond.gateway.module_models import AnyModule, LogModule
from millpond.gateway.pointer import Received
from millpond.gateway.refusals import NotStored, Outcome

_MODULES: Final = {
    "log": ("millpond.gateway.modules.log", "LogLine"),
    "mysql": ("millpond.gateway.modules.mysql", "MySQLRows"),
    "postgresql": ("millpond.gateway.modules.postgresql", "PostgreSQLRows"),
    "rabbitmq": ("millpond.gateway.modules.rabbitmq", "RabbitMQMessages"),
    "redis": ("millpond.gateway.modules.redis", "RedisWrites"),
    "sqlite": ("millpond.gateway.modules.sqlite", "SQLiteRows"),
}

KINDS: Final[tuple[str, ...]] = tuple(_MODULES)
"""The types of module; all but `log` are kinds of connection."""


class Module(Protocol):
    """One step of a hook: it puts a request where it belongs, through one connection."""

    kind: str
    """Its type, which is the kind of its connection."""
    connection: str | None
    """Name of the connection in the registry; None: it needs none."""
    timeout: float
    """Longest that `store` may take, seconds."""

    async def store(self, conn: Any, received: Received) -> Outcome:
        """Store the request, unless it is known by its key; when this returns, it is safe.

        Raises:
            NotStored: it cannot be stored, and the client library has no part in that.
            NoRow: nothing failed, and nothing was stored.
            Exception: whatever the client library raises; the lease has to see it.
        """
        ...

    def explain(self, error: Exception) -> NotStored:
        """What an error of the client library means."""
        ...


def make(model: AnyModule, keeping: Keeping | None = None) -> Module:
    """The module that does what `model` says.

    Args:
        model: checked already.
        keeping: how it keeps keys of requests; None: it does not.

    Raises:
        ValueError: a name cannot be used with this kind; the text begins with the key.
        MissingExtra: the kind's client library is not installed.
    """
    place, name = _MODULES[model.type]
    made = getattr(import_module(place), name)
    return cast("Module", made(model) if isinstance(model, LogModule) else made(model, keeping))
