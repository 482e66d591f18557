"""What a child process must not do with its parent's connections.

After a fork both processes hold the same sockets. The child forgets its pools'
connections, points the inherited descriptors at nothing, and keeps the objects
alive, so that no finalizer of theirs ever writes to a socket of the parent.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import TYPE_CHECKING, Any, Final

from millpond.driver import ForkAware

if TYPE_CHECKING:
    from millpond._core.pool import ConnectionPool

_pools: Final[weakref.WeakSet[Any]] = weakref.WeakSet()
_graveyard: Final[list[object]] = []


def watch(pool: ConnectionPool[Any]) -> None:
    """Empty `pool` in every child of a fork."""
    _pools.add(pool)


def forget(pool: ConnectionPool[Any]) -> None:
    """The pool is closed: there is nothing to empty."""
    _pools.discard(pool)


def bury(*objects: object) -> None:
    """Keep objects of the parent alive for ever: their finalizers must not run in the child."""
    _graveyard.extend(objects)


def close_descriptors(driver: object, connections: list[Any]) -> None:
    """Close what the connections have open in this process, without a byte on the wire.

    The descriptor is pointed at the null device rather than closed: its number
    cannot be given to another file that the connection would then close.
    """
    _graveyard.extend(connections)
    if not isinstance(driver, ForkAware) or not connections:
        return
    null = os.open(os.devnull, os.O_RDWR)
    try:
        for conn in connections:
            with contextlib.suppress(Exception):
                for descriptor in driver.filenos(conn):
                    os.dup2(null, descriptor, inheritable=False)
    finally:
        os.close(null)


def _in_child() -> None:
    for pool in list(_pools):
        pool._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
