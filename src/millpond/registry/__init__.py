"""Pools by name: one central place for every pool of a service, filled from a file or from code.

The names below are imported when they are asked for: who only reads a
configuration file needs no kernel for that.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from millpond.errors import MissingExtra

try:
    import pydantic  # noqa: F401 - the models need it; whoever lacks it should read why
except ModuleNotFoundError as missing:
    raise MissingExtra("config", needed_for="millpond.registry", module="pydantic") from missing

if TYPE_CHECKING:
    from millpond.registry.handle import PoolHandle
    from millpond.registry.registry import ConnectionPoolRegistry, UnknownConnection
    from millpond.registry.reload import ReloadResult
    from millpond.registry.status import RegistryStatus, VersionStatus

__all__ = [
    "ConnectionPoolRegistry",
    "PoolHandle",
    "RegistryStatus",
    "ReloadResult",
    "UnknownConnection",
    "VersionStatus",
]

_HOMES = {
    "ConnectionPoolRegistry": "millpond.registry.registry",
    "PoolHandle": "millpond.registry.handle",
    "ReloadResult": "millpond.registry.reload",
    "RegistryStatus": "millpond.registry.status",
    "UnknownConnection": "millpond.registry.registry",
    "VersionStatus": "millpond.registry.status",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return found
