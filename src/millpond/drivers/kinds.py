"""Which kinds of backend there are, by name and by URL scheme. A driver is loaded only when it is asked for.

Millpond's own kinds stand in a table here, so that they are found without
reading any package's metadata; others come from the entry point group
`millpond.drivers`, which any installed package may add to.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, NamedTuple, TypeAlias, cast

from millpond.driver import Kind
from millpond.errors import ConfigError, MissingExtra, describe
from millpond.settings import PoolSettings

GROUP: Final = "millpond.drivers"
"""The entry point group in which a package registers its kinds."""

AnyKind: TypeAlias = type[Kind[Any]]

# What a class must have to be a kind, besides the methods of a driver.
_DECLARED: Final = ("kind", "schemes", "extra", "default_sizes", "secret_options", "options_from_url")


class _Own(NamedTuple):
    module: str
    name: str
    extra: str
    schemes: tuple[str, ...]


_OWN: Final[Mapping[str, _Own]] = {
    "grpc": _Own("millpond.drivers.grpc", "GrpcDriver", "grpc", ("grpc", "grpcs")),
    "postgresql": _Own(
        "millpond.drivers.postgresql", "PostgreSQLDriver", "postgresql", ("postgresql", "postgres")
    ),
    "mysql": _Own("millpond.drivers.mysql", "MySQLDriver", "mysql", ("mysql", "mariadb")),
    "rabbitmq": _Own("millpond.drivers.rabbitmq", "RabbitMQDriver", "rabbitmq", ("amqp", "amqps")),
    "redis": _Own(
        "millpond.drivers.redis", "RedisDriver", "redis", ("redis", "rediss", "valkey", "valkeys", "unix")
    ),
    "sqlite": _Own("millpond.drivers.sqlite", "SQLiteDriver", "sqlite", ("sqlite",)),
}


class Kinds:
    """This finds driver classes by kind or by URL scheme.

    Entry points are read once, when a name is asked for that is not
    Millpond's own; make a new object to see packages installed since. A name
    of Millpond's own always means Millpond's driver.
    """

    def __init__(self) -> None:
        self._others: dict[str, list[EntryPoint]] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Every kind there is, sorted, whether or not its client library is installed."""
        return tuple(sorted({*_OWN, *self._registered()}))

    def get(self, name: str) -> AnyKind:
        """The driver class of the kind `name`.

        Raises:
            ConfigError: there is no such kind, or its package is broken.
            MissingExtra: the kind is Millpond's own and its client library is not installed.
        """
        if name in _OWN:
            return _load_own(name, _OWN[name])
        found = self._registered().get(name)
        if found is None:
            known = ", ".join(self.names)
            raise ConfigError([f"is not a known kind{near(name, self.names)}; known: {known}"])
        return _load_registered(name, found)

    def of_scheme(self, scheme: str) -> AnyKind:
        """The driver class that takes URLs of this scheme.

        Raises:
            ConfigError: no kind does; the text does not repeat the scheme, which
                may be the first part of a password.
            MissingExtra: the kind is Millpond's own and its client library is not installed.
        """
        for name, own in _OWN.items():
            if scheme in own.schemes:
                return self.get(name)
        schemes = {each for own in _OWN.values() for each in own.schemes}
        for name, found in self._registered().items():
            try:
                kind = _load_registered(name, found)
            except ConfigError:
                continue  # a package that is broken says so when it is asked for by its name
            if scheme in kind.schemes:
                return kind
            schemes.update(kind.schemes)
        raise ConfigError([f"has no known URL scheme; known: {', '.join(sorted(schemes))}"])

    def _registered(self) -> Mapping[str, list[EntryPoint]]:
        if self._others is None:
            self._others = {}
            for entry in entry_points(group=GROUP):
                if entry.name not in _OWN:
                    found = self._others.setdefault(entry.name, [])
                    # One package seen twice on the path (an editable install and its source) is one.
                    if entry.value not in [each.value for each in found]:
                        found.append(entry)
        return self._others


def scheme_of(url: str) -> str:
    """The scheme of `url` in lower case; empty when it has none."""
    scheme, colon_slashes, _ = url.partition("://")
    return scheme.lower() if colon_slashes else ""


def settings_for(
    kind: AnyKind, given: Mapping[str, Any], options: Mapping[str, Any] | None = None
) -> PoolSettings:
    """Pool settings with the kind's default sizes where `given` names none.

    A default bends to what was given, so that it cannot make a right
    configuration wrong: with only `max_size`, or only `max_idle`, given below
    the default `min_size`, that is lowered; with only `min_size` given above
    the default `max_size`, that is raised.

    A kind may count its sizes in something that gives several places: a
    connection of RabbitMQ carries many channels, and channels are what a pool
    lends. Its `places_option` names the option that says how many; `max_size`
    and `max_idle` are multiplied by that.

    Args:
        kind: the driver's class.
        given: fields of `PoolSettings`.
        options: the driver's options, as far as they are given.

    Raises:
        InvalidSettings: a value is out of its range, or there is no such field.
    """
    min_size, max_size = kind.default_sizes
    least, most, idle = given.get("min_size"), given.get("max_size"), given.get("max_idle")
    if isinstance(least, int):
        max_size = max(max_size, least)
    min_size = min(min_size, *(each for each in (most, idle) if isinstance(each, int)), max_size)
    sizes = {"min_size": min_size, "max_size": max_size}
    # Only kinds whose connections can be shared say how many may share one.
    sizes["max_leases_per_connection"] = getattr(kind, "default_leases", 1)
    return PoolSettings().changed(**_in_places(kind, {**sizes, **given}, options or {}))


def _in_places(kind: AnyKind, sizes: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    option: str | None = getattr(kind, "places_option", None)
    if option is None:
        return dict(sizes)
    places = options.get(option, inspect.signature(kind).parameters[option].default)
    return {
        name: size * places if name in ("max_size", "max_idle") and isinstance(size, int) else size
        for name, size in sizes.items()
    }


def near(name: str, known: Iterable[str]) -> str:
    """`; did you mean '...'?` with the known name nearest to `name`, or nothing."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def _load_own(name: str, own: _Own) -> AnyKind:
    missing = None
    try:
        return cast("AnyKind", getattr(import_module(own.module), own.name))
    except ModuleNotFoundError as error:
        missing = error.name or own.module
    # Raised here and not above, so that the error is all there is to read.
    raise MissingExtra(own.extra, needed_for=f"kind {name!r}", module=missing)


def _load_registered(name: str, found: list[EntryPoint]) -> AnyKind:
    if len(found) > 1:
        packages = ", ".join(sorted(each.dist.name if each.dist else each.value for each in found))
        raise ConfigError([f"kind {name!r} is registered by several packages: {packages}"])
    entry = found[0]
    fault = ""
    try:
        kind = entry.load()
    except Exception as error:  # another package's module may raise anything
        fault = describe(error)
    if fault:
        raise ConfigError([f"kind {name!r} ({entry.value}) cannot be loaded: {fault}"])
    lacks = [each for each in _DECLARED if not hasattr(kind, each)]
    if not isinstance(kind, type) or lacks:
        raise ConfigError([
            f"kind {name!r} ({entry.value}) is not a driver class with {', '.join(lacks or _DECLARED)}"
        ])  # fmt: skip
    return cast("AnyKind", kind)
