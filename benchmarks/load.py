"""Tasks that do one operation after another: how many a second, and how long each took."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.harness import COST, Measure, Sample, percentile, reason
from benchmarks.subjects import Lease
from millpond import ConnectionPool

Operation = Callable[[], Awaitable[Any]]
RATE, P50, P99, P999 = "rate", "p50", "p99", "p99.9"
QUANTITIES: Final = (RATE, P50, P99, P999)
_OPEN_S: Final = 60.0
_CLOSE_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Client:
    """One way to reach a server.

    Attributes:
        name: of pool and reset level, as a reader should see it.
        operations: what can be asked through it, each from acquire to release, by the workload's name.
        close: ends it.
        lease: an `async with` that does nothing but borrow.
        pool: ours, if it is ours.
    """

    name: str
    operations: dict[str, Operation]
    close: Callable[[], Awaitable[Any]]
    lease: Lease | None = None
    pool: ConnectionPool[Any] | None = None


Making = Mapping[str, Callable[[], Awaitable[Client]]]
"""How each client is made, by its name."""


async def opened(making: Making) -> tuple[list[Client], dict[str, str]]:
    """Every client that can be made, and why the others cannot: one that breaks takes nobody with it."""
    clients: list[Client] = []
    missing: dict[str, str] = {}
    for name, make in making.items():
        try:
            async with asyncio.timeout(_OPEN_S):
                clients.append(await make())
        except Exception as error:
            missing[name] = reason(error)
    return clients, missing


async def close(clients: list[Client]) -> dict[str, str]:
    """End all of them; answers who could not be ended, and why."""
    failed: dict[str, str] = {}
    for one in clients:
        try:
            async with asyncio.timeout(_CLOSE_S):
                await one.close()
        except Exception as error:
            failed[one.name] = reason(error)
    return failed


def under_load(operation: Operation, tasks: int, count: int) -> Measure:
    """What `count` operations cost that `tasks` tasks share among them.

    The sample holds operations a second, and percentiles of the time from asking for a connection to having
    given it back, in milliseconds.
    """

    async def run() -> Sample:
        left = count
        took: list[float] = []
        clock = time.perf_counter

        async def work() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                began = clock()
                await operation()
                took.append(clock() - began)

        began = clock()
        await asyncio.gather(*(work() for _ in range(tasks)))
        whole = clock() - began
        return {
            COST: whole / count,
            RATE: count / whole,
            P50: percentile(took, 0.5) * 1e3,
            P99: percentile(took, 0.99) * 1e3,
            P999: percentile(took, 0.999) * 1e3,
        }

    return run
