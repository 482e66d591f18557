"""Pools from a URL: the driver is told by its scheme. The one place where kernel and drivers meet."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from millpond._core.pool import ConnectionPool
from millpond.drivers.kinds import AnyKind, Kinds, near, scheme_of, settings_for
from millpond.errors import ConfigError
from millpond.settings import PoolSettings, setting_fields

T = TypeVar("T")

_SETTINGS = frozenset(each.name for each in setting_fields())


def create_pool(
    url: str,
    *,
    name: str | None = None,
    settings: PoolSettings | None = None,
    allowance: Any = None,
    on_connect: Any = None,
    **more: Any,
) -> ConnectionPool[Any]:
    """A pool for the backend that `url` names; opens nothing.

        pool = create_pool("postgresql://miller@db/mill", password=ask_the_vault, max_size=20)

    Args:
        url: what the driver's `options_from_url` documents.
        name: the pool's name; None: its kind.
        settings: how the pool behaves; None: the defaults, with the kind's default sizes.
        allowance: as for `ConnectionPool`.
        on_connect: as for `ConnectionPool`.
        more: fields of `PoolSettings`, which go before `settings`, and options of the driver, which go
            before what the URL says. A name that is both is the pool's.

    Raises:
        ConfigError: no driver takes such a URL, or the URL or an option is not right; names what.
        InvalidSettings: a setting is out of its range.
        MissingExtra: the driver's client library is not installed.
        TypeError: an argument is neither a setting nor an option of this driver, or `settings` is no
            `PoolSettings`.
    """
    kind = _kind_of(url)
    if settings is not None and not isinstance(settings, PoolSettings):
        raise TypeError(
            f"settings must be PoolSettings, got {type(settings).__name__}; "
            "single ones go as keywords: max_size=5"
        )
    changes = {key: value for key, value in more.items() if key in _SETTINGS}
    options = {key: value for key, value in more.items() if key not in _SETTINGS}
    _refuse_unknown(kind, options)
    options = {**_made(kind.options_from_url, url), **options}
    driver = _made(kind, **options)
    chosen = settings_for(kind, changes, options) if settings is None else settings.changed(**changes)
    return ConnectionPool(
        driver, settings=chosen, name=name or kind.kind, allowance=allowance, on_connect=on_connect
    )


def _kind_of(url: str) -> AnyKind:
    if not isinstance(url, str):
        raise ConfigError([f"the URL must be a text, got {type(url).__name__}"])
    faults: tuple[str, ...] = ()
    try:
        return Kinds().of_scheme(scheme_of(url))
    except ConfigError as error:
        faults = error.problems
    raise ConfigError([f"the URL {fault}" for fault in faults])


def _made(make: Callable[..., T], *args: Any, **options: Any) -> T:
    """What a driver's class makes of what was given; what it refuses is a fault of the configuration."""
    try:
        return make(*args, **options)
    except ValueError as error:
        fault = str(error)
    # Raised out here: what hangs on a driver's error may hold the URL.
    raise ConfigError([fault])


def _refuse_unknown(kind: AnyKind, options: dict[str, Any]) -> None:
    parameters = inspect.signature(kind).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return
    for key in options:
        if key not in parameters:
            # Its value is not repeated: it may be a secret under a misspelled name.
            hint = near(key, [*parameters, *sorted(_SETTINGS)])
            raise TypeError(
                f"create_pool() has no argument {key!r}: neither a setting of the pool "
                f"nor an option of kind {kind.kind!r}{hint}"
            )
