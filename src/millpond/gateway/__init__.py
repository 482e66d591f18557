"""Webhooks in, rows out, through a registry's pools.

    registry = ConnectionPoolRegistry.from_file("connections.json")
    app = create_app(registry, load_webhooks("webhooks.json", registry))

`millpond serve` does just that. `Gateway` alone is an ASGI application that can
be mounted in another one. Needs the extra `millpond[web]`, and those of the
databases that are written to.
"""

from __future__ import annotations

from importlib.util import find_spec

from millpond.errors import MissingExtra

if find_spec("fastapi") is None:
    raise MissingExtra("web", needed_for="millpond.gateway", module="fastapi")

from millpond.gateway.app import Gateway, Hook
from millpond.gateway.load import WebhooksFile, load_webhooks, read_webhooks
from millpond.gateway.service import create_app

__all__ = ["Gateway", "Hook", "WebhooksFile", "create_app", "load_webhooks", "read_webhooks"]
