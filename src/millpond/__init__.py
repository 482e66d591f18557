"""Millpond: connection pooling for Python services.

`import millpond` brings the pool and its vocabulary, and nothing but the
standard library; the registry and `create_pool` are imported when first used.
"""

from typing import TYPE_CHECKING, Any

from millpond._core.allowance import Allowance
from millpond._core.lease import Acquire, Lease
from millpond._core.pool import ConnectionPool
from millpond.driver import Driver, Verdict
from millpond.errors import (
    CircuitOpen,
    ConfigError,
    ConnectFailed,
    Holder,
    InvalidSettings,
    InvariantBroken,
    MissingExtra,
    PoolClosed,
    PoolError,
    PoolExhausted,
    PoolTimeout,
    ReleaseError,
    TimeoutCause,
    WrongLoop,
)
from millpond.events import CloseReason, Event, EventKind
from millpond.settings import UNSET, Change, PoolSettings, Reload
from millpond.status import BreakerState, PoolCheck, PoolState, PoolStats, PoolStatus

if TYPE_CHECKING:
    from millpond._create import create_pool as create_pool
    from millpond.registry import ConnectionPoolRegistry as ConnectionPoolRegistry

__version__ = "0.1.0"

_LAZY = {"ConnectionPoolRegistry": "millpond.registry", "create_pool": "millpond._create"}

# Not in it: what is imported lazily. `import *` must not need an extra, and would load everything.
__all__ = [
    "UNSET",
    "Acquire",
    "Allowance",
    "BreakerState",
    "Change",
    "CircuitOpen",
    "CloseReason",
    "ConfigError",
    "ConnectFailed",
    "ConnectionPool",
    "Driver",
    "Event",
    "EventKind",
    "Holder",
    "InvalidSettings",
    "InvariantBroken",
    "Lease",
    "MissingExtra",
    "PoolCheck",
    "PoolClosed",
    "PoolError",
    "PoolExhausted",
    "PoolSettings",
    "PoolState",
    "PoolStats",
    "PoolStatus",
    "PoolTimeout",
    "ReleaseError",
    "Reload",
    "TimeoutCause",
    "Verdict",
    "WrongLoop",
    "__version__",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
