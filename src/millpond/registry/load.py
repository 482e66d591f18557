"""From a file of connections to their configurations: read, substitute, validate; all faults at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from millpond.drivers.kinds import Kinds
from millpond.errors import ConfigError, MissingExtra
from millpond.registry.model import ConnectionConfig, connection_config
from millpond.registry.sources import read_document
from millpond.registry.substitution import KeyPath, Substituted, substitute


@dataclass(frozen=True, slots=True)
class Connections:
    """What a file says, valid as a whole.

    Attributes:
        label: the file as the caller named it.
        path: the file.
        configs: its connections by name, in its order.
        files: other files whose content went into it, through `${file:...}`.
    """

    label: str
    path: Path
    configs: Mapping[str, ConnectionConfig]
    files: frozenset[Path]


def load_connections(
    path: str | os.PathLike[str], *, environ: Mapping[str, str] | None = None, kinds: Kinds | None = None
) -> Connections:
    """Read a file of connections: .json, .toml, .yaml or .yml. Opens nothing else but what it names.

    Args:
        path: the file.
        environ: where variables are looked up; None: the process's environment.
        kinds: the kinds there are; None: those that are installed now.

    Raises:
        ConfigError: with one line for each fault of the file.
        MissingExtra: it is YAML and PyYAML is not installed.
    """
    document = read_document(path)
    substituted = substitute(document.values, environ)
    kinds = kinds or Kinds()
    label = f"{document.label}: "
    problems = [f"{label}{problem}" for problem in substituted.problems]
    configs: dict[str, ConnectionConfig] = {}
    for name, values in substituted.values.items():
        try:
            configs[name] = connection_config(
                name,
                values,
                kinds=kinds,
                label=label,
                sources=_below(name, substituted),
                unresolved=[at[1:] for at in substituted.unresolved if at[0] == name],
            )
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return Connections(document.label, document.path, configs, substituted.files)


class Faults:
    """This gathers what is wrong with several files, so that all of it is told at once.

    faults = Faults()
    with faults:
        connections = load_connections(path)
    faults.tell()
    """

    def __init__(self) -> None:
        self._problems: list[str] = []

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, ConfigError):
            self._problems.extend(error.problems)
        return isinstance(error, ConfigError)

    def tell(self) -> None:
        """Raise the ConfigError with all of them, if there are any."""
        if self._problems:
            raise ConfigError(self._problems)


def files_named_by(path: str | os.PathLike[str], environ: Mapping[str, str] | None = None) -> frozenset[Path]:
    """The files that a file's `${file:...}` name, although it cannot be used as it is: one may be missing.

    None where it cannot even be read.
    """
    try:
        return substitute(read_document(path).values, environ).files
    except (ConfigError, MissingExtra):
        return frozenset()


def _below(name: str, substituted: Substituted) -> dict[KeyPath, tuple[str, ...]]:
    return {at[1:]: each for at, each in substituted.sources.items() if at[0] == name}
