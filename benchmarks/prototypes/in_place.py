"""A plugin for pytest: the C prototype in the place of the short way, in every pool of the tests.

    PYTHONPATH=. .venv/bin/python -m pytest -p benchmarks.prototypes.in_place tests/kernel

Tests that count instructions, or put an instrument of their own into `Slot`, cannot pass.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks.prototypes.build import c_extension
from benchmarks.prototypes.graft import place_type, prepared
from millpond import UNSET, ConnectionPool

_KERNEL: Final = prepared(c_extension(Path(tempfile.mkdtemp(prefix="millpond-prototype-"))))
_DESK: Final = "_desk_of_prototype"
_acquire: Final[Any] = ConnectionPool.acquire
_refresh_plain: Final = ConnectionPool._refresh_plain
_leases = 0


def _compiled_acquire(pool: Any, timeout: Any = UNSET) -> Any:
    global _leases
    if pool._announcer.is_heard:  # another class of leases, which the prototype does not have
        return _acquire(pool, timeout)
    _leases += 1
    desk = vars(pool).get(_DESK)
    if desk is None:
        desk = vars(pool)[_DESK] = _KERNEL.Desk(pool)
    return desk.acquire(timeout)


def _refresh(pool: Any) -> None:
    _refresh_plain(pool)
    if (desk := vars(pool).get(_DESK)) is not None:
        desk.sync()


def pytest_configure() -> None:
    """Put it in place."""
    ledger: Any = importlib.import_module("millpond._core.ledger")
    ledger.Slot = place_type(_KERNEL.Slot)
    kind: Any = ConnectionPool
    kind.acquire, kind._refresh_plain = _compiled_acquire, _refresh


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say that it was there."""
    terminalreporter.write_line(f"leases asked of the prototype: {_leases}")
