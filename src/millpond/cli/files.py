"""The files of a service, read and checked together, so that every fault in them is told at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from millpond.gateway.load import load_webhooks
from millpond.registry import ConnectionPoolRegistry

if TYPE_CHECKING:
    from pathlib import Path

    from millpond.gateway.app import Hook


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the files say: connections, and hooks by path. Nothing is open yet."""

    registry: ConnectionPoolRegistry
    hooks: Mapping[str, Hook]


def load(connections: Path, webhooks: Path | None) -> Loaded:
    """Read both files.

    Raises:
        ConfigError: one of them cannot be used.
        MissingExtra: a client library is not installed.
    """
    registry = ConnectionPoolRegistry.from_file(connections)
    return Loaded(registry, load_webhooks(webhooks, registry) if webhooks is not None else {})
