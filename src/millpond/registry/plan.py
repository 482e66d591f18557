"""The difference between what runs and what is wanted: pure, decided before anything is touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from millpond.registry.fingerprint import fingerprint
from millpond.settings import difference

if TYPE_CHECKING:
    from millpond.registry.model import ConnectionConfig
    from millpond.settings import PoolSettings


@dataclass(frozen=True, slots=True)
class Running:
    """A connection as it is now.

    Attributes:
        config: what it was made from.
        settings: how its pool behaves now, whoever changed it last.
        is_declared: it came from a file, so that a file without it takes it away.
    """

    config: ConnectionConfig
    settings: PoolSettings
    is_declared: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What has to be done so that what is wanted runs; names, in the order of the configuration.

    Attributes:
        added: not there yet.
        removed: no longer wanted.
        renewed: need a new version: another pool.
        adjusted: only settings differ that a running pool can change.
        unchanged: run as they are wanted.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    renewed: tuple[str, ...] = ()
    adjusted: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()


def plan(running: Mapping[str, Running], wanted: Mapping[str, ConnectionConfig]) -> Plan:
    """Sort every name by what it needs.

    Args:
        running: what is there, by name.
        wanted: the whole of the new configuration, by name.
    """
    sorted_names: dict[str, list[str]] = {"renewed": [], "adjusted": [], "unchanged": []}
    for name, config in wanted.items():
        if name in running:
            sorted_names[_need(running[name], config)].append(name)
    return Plan(
        added=tuple(name for name in wanted if name not in running),
        removed=tuple(name for name, each in running.items() if each.is_declared and name not in wanted),
        **{need: tuple(names) for need, names in sorted_names.items()},
    )


def _need(runs: Running, wanted: ConnectionConfig) -> str:
    change = difference(runs.settings, wanted.settings)
    if change.needs_new_pool or fingerprint(runs.config) != fingerprint(wanted):
        return "renewed"
    return "adjusted" if change else "unchanged"
