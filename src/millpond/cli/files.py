"""The files of a service, read and checked together, so that every fault in them is told at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from millpond.gateway.load import WebhooksFile, read_webhooks
from millpond.registry import ConnectionPoolRegistry
from millpond.registry.load import Faults
from millpond.registry.reloader import seconds_of, watch_settings

if TYPE_CHECKING:
    from pathlib import Path

    from millpond.gateway.app import Hook


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the files and the environment say. Nothing is open yet.

    Attributes:
        registry: the connections.
        hooks: by path.
        webhooks: the file that they came from.
        watching: files are to be read again when they change.
        debounce: how long they must have been at rest before that, seconds.
    """

    registry: ConnectionPoolRegistry
    hooks: Mapping[str, Hook]
    webhooks: WebhooksFile | None
    watching: bool
    debounce: float


def load(connections: Path, webhooks: Path | None) -> Loaded:
    """Read both files.

    Raises:
        ConfigError: one of them, or a variable of the environment, cannot be used.
        MissingExtra: a client library is not installed.
    """
    watching, debounce = watch_settings(os.environ)
    migration_timeout = seconds_of(os.environ, "CONFIG_POOL_MIGRATION_TIMEOUT", 300.0)
    faults, registry, file = Faults(), None, None
    with faults:
        registry = ConnectionPoolRegistry.from_file(connections, migration_timeout=migration_timeout)
    with faults:
        file = None if webhooks is None else read_webhooks(webhooks)
    faults.tell()
    assert registry is not None  # noqa: S101 - for the type checker
    hooks = {} if file is None else file.hooks(registry)
    return Loaded(registry, hooks, file, watching, debounce)
