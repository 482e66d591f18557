"""Pools of ours whose short way is a compiled one: everything else is the package's own."""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

from benchmarks.subjects import Connection, NullDriver, Subject, nobody
from millpond import ConnectionPool, PoolSettings, Verdict
from millpond._core import lease
from millpond._core.slot import Slot, SlotState
from millpond.settings import UNSET

SIZE: Final = 10
Answers = tuple[Callable[[Any], bool], Callable[..., Verdict]]
"""A driver's `is_closed` and `after_lease`."""


def place_type(base: type) -> type:
    """A `Slot` whose fields are those of `base`: the methods are the package's, the memory is not."""
    methods = {
        name: what
        for name, what in vars(Slot).items()
        if isinstance(what, property) or (callable(what) and name not in ("__new__", "__class__"))
    }
    return type("Place", (base,), {"__slots__": (), **methods})


def prepared(extension: ModuleType) -> ModuleType:
    """The C extension, told what the short way compares with and calls.

    Raises:
        TypeError: the package's own leases or places have got a field that the extension does not have.
    """
    for ours, theirs in ((lease.Hold, extension.Acquire), (Slot, extension.Slot)):
        missing = [name for name in ours.__slots__ if not hasattr(theirs, name)]
        if missing:
            raise TypeError(f"{ours.__name__} of the prototypes has no {', '.join(missing)}; millpond's has")
    extension.prepare({
        "unasked": lease.UNASKED, "spent": lease._SPENT, "unset": UNSET, "noted": lease.NOTED,
        "busy": SlotState.BUSY, "idle": SlotState.IDLE, "keep": Verdict.KEEP,
        "begin": lease.Hold.begin, "begin_bare": lease.Hold._begin,
        "current_tasks": asyncio.tasks._current_tasks,  # type: ignore[attr-defined]
        "cancelled_error": asyncio.CancelledError, "monotonic": time.monotonic,
    })  # fmt: skip
    for name in ("number", "number_now", "close_books", "is_out"):
        setattr(extension.Acquire, name, vars(lease.Hold)[name])
    extension.Acquire._end = extension.Acquire.__aexit__  # for pool.release()
    return extension


class GraftedPool(ConnectionPool[Connection]):
    """A pool that tells a compiled desk whenever it looks whether the short way is open."""

    desk: Any = None

    def _refresh_plain(self) -> None:
        super()._refresh_plain()
        if self.desk is not None:
            self.desk.sync()


async def open_pool(answers: Answers | None = None) -> GraftedPool:
    """A pool over connections that cost nothing, open; `answers` stand in for those of the driver."""
    driver: Any = NullDriver(nobody)
    if answers is not None:
        driver.is_closed, driver.after_lease = answers
    settings = PoolSettings(min_size=SIZE, max_size=SIZE, max_connecting=SIZE, eager_init=True)
    pool = GraftedPool(driver, settings=settings)
    await pool.initialize()
    return pool


async def grafted(name: str, kernel: Any, place: type, answers: Answers | None = None) -> Subject:
    """A pool whose leases are `kernel`'s, on places that are `place`s."""
    ledger: Any = importlib.import_module("millpond._core.ledger")
    original, ledger.Slot = ledger.Slot, place
    try:
        pool = await open_pool(answers)
    finally:
        ledger.Slot = original
    pool.desk = kernel.Desk(pool)
    return Subject(name, pool.desk.acquire, pool.close, is_compiled=True)
