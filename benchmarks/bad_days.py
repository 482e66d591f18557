"""What happens when all come at once, when the server goes away, and when one connection says nothing."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.harness import Measure, Sample, percentile
from benchmarks.subjects import Cold
from millpond import ConnectionPool, PoolSettings
from millpond.drivers.postgresql import PostgreSQLDriver
from tests.servers import PostgresServer

BORROWERS: Final = 500
CONNECT_S: Final = 0.020
HOLD_S: Final = 0.001
FIRST, MIDDLE, LAST, CONNECTS = "first", "median", "last", "connects"

CONNECTIONS: Final = 10
TASKS: Final = 50
BEFORE_S, AFTER_S = 1.0, 6.0
BUCKET_S: Final = 0.1
GOOD, FULL, ERRORS = "first good answer", "full speed", "errors"
SHARE, LONGEST, CAME_BACK = "share of full speed", "longest answer", "all came back"
PATIENCE_S: Final = 0.5
HANG_S: Final = 3.0


def cold_burst(cold: Cold, moments: list[float] | None = None) -> Measure:
    """Milliseconds until the first, the median and the last of 500 are served who come at once.

    A connect takes 20 ms, a borrower holds its connection for 1 ms; how many connects were begun is counted.
    """

    async def run() -> Sample:
        opened = 0

        async def connect() -> None:
            nonlocal opened
            opened += 1
            await asyncio.sleep(CONNECT_S)

        subject = await cold(connect)
        served: list[float] = []

        async def borrow() -> None:
            async with subject.lease():
                served.append(time.perf_counter() - began)
                await asyncio.sleep(HOLD_S)

        began = time.perf_counter()
        await asyncio.gather(*(borrow() for _ in range(BORROWERS)))
        if moments is not None:
            moments[:] = sorted(served)
        result = {
            FIRST: served[0] * 1e3,
            MIDDLE: percentile(served, 0.5) * 1e3,
            LAST: max(served) * 1e3,
            CONNECTS: float(opened),
        }
        await asyncio.wait_for(subject.close(), 10)
        return result

    return run


@dataclass(slots=True)
class Patient:
    """One pool on a server that will have a bad day.

    Attributes:
        borrow: gives the pool's own `async with`.
        ask: one question on what it gives.
        pid: which process of the server this connection talks to.
        close: ends it.
        connects: counts the connects that were begun.
    """

    borrow: Callable[[], AbstractAsyncContextManager[Any]]
    ask: Callable[[Any], Awaitable[Any]]
    pid: Callable[[Any], Awaitable[int]]
    close: Callable[[], Awaitable[Any]]
    connects: list[float]


class Counting(PostgreSQLDriver):
    """Our driver, which notes when it begins to connect."""

    begun: list[float]

    async def connect(self) -> Any:
        self.begun.append(time.perf_counter())
        return await super().connect()


async def _fetch(conn: Any) -> None:
    await conn.fetchval("SELECT 1")


async def _fetch_pid(conn: Any) -> int:
    return int(conn.get_server_pid())


async def millpond(dsn: str) -> Patient:
    driver = Counting(**Counting.options_from_url(dsn))
    driver.begun = []
    settings = PoolSettings(min_size=CONNECTIONS, max_size=CONNECTIONS, eager_init=True, reset="full")
    pool: Any = ConnectionPool(driver, settings=settings)
    await pool.initialize()
    return Patient(pool.acquire, _fetch, _fetch_pid, pool.close, driver.begun)


async def asyncpg_pool(dsn: str) -> Patient:
    import asyncpg

    begun: list[float] = []

    async def connect(*arguments: Any, **options: Any) -> Any:
        begun.append(time.perf_counter())
        return await asyncpg.connect(*arguments, **options)

    pool = await asyncpg.create_pool(dsn, min_size=CONNECTIONS, max_size=CONNECTIONS, connect=connect)

    async def close() -> None:
        pool.terminate()

    return Patient(pool.acquire, _fetch, _fetch_pid, close, begun)


async def psycopg_pool(dsn: str) -> Patient:
    import psycopg
    from psycopg_pool import AsyncConnectionPool

    begun: list[float] = []

    class Noting(psycopg.AsyncConnection[Any]):
        @classmethod
        async def connect(cls, *arguments: Any, **options: Any) -> Any:
            begun.append(time.perf_counter())
            return await super().connect(*arguments, **options)

    pool = AsyncConnectionPool(
        dsn,
        connection_class=Noting,
        kwargs={"autocommit": True},
        min_size=CONNECTIONS,
        max_size=CONNECTIONS,
        open=False,
    )
    await pool.open(wait=True)

    async def ask(conn: Any) -> None:
        await (await conn.execute("SELECT 1")).fetchone()

    async def pid(conn: Any) -> int:
        return int(conn.info.backend_pid)

    return Patient(pool.connection, ask, pid, lambda: pool.close(1.0), begun)


async def sqlalchemy(dsn: str) -> Patient:
    import asyncpg
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine

    begun: list[float] = []

    async def connect() -> Any:
        begun.append(time.perf_counter())
        return await asyncpg.connect(dsn)

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        pool_size=CONNECTIONS,
        max_overflow=0,
        isolation_level="AUTOCOMMIT",
    )
    statement = text("SELECT 1")

    async def ask(conn: Any) -> None:
        await conn.execute(statement)

    async def pid(conn: Any) -> int:
        return int((await conn.get_raw_connection()).driver_connection.get_server_pid())

    async def close() -> None:
        await engine.dispose(close=False)

    return Patient(engine.connect, ask, pid, close, begun)


PATIENTS: Final = {
    "millpond": millpond,
    "asyncpg.Pool": asyncpg_pool,
    "psycopg_pool": psycopg_pool,
    "SQLAlchemy on asyncpg": sqlalchemy,
}


@dataclass(slots=True)
class Answers:
    """When questions were answered, and how many were not."""

    at: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    errors: int = 0

    def rate(self, since: float, until: float) -> float:
        """Answers a second between two instants."""
        return sum(since <= at < until for at in self.at) / (until - since)

    def curve(self, began: float, until: float) -> list[tuple[float, float]]:
        """Answers a second, by tenths of a second from `began`."""
        steps = round((until - began) / BUCKET_S)
        edges = [began + step * BUCKET_S for step in range(steps + 1)]
        return [
            (round(left - began + BUCKET_S / 2, 3), self.rate(left, right))
            for left, right in itertools.pairwise(edges)
        ]


async def asking(patient: Patient, answers: Answers, done: asyncio.Event, patience_s: float) -> None:
    """One task that asks, with its own time-out, until it is over; after an error it pauses for 10 ms."""
    while not done.is_set():
        began = time.perf_counter()
        try:
            async with asyncio.timeout(patience_s), patient.borrow() as conn:
                await patient.ask(conn)
        except Exception:
            answers.errors += 1
            await asyncio.sleep(0.01)
        else:
            answers.at.append(time.perf_counter())
            answers.took.append(answers.at[-1] - began)


async def crowd(
    patient: Patient, story: Callable[[], Awaitable[Any]], patience_s: float
) -> tuple[Answers, bool]:
    """Fifty tasks ask all through `story`; answers, and whether all of them ended soon after it."""
    answers, done = Answers(), asyncio.Event()
    tasks = [asyncio.create_task(asking(patient, answers, done, patience_s)) for _ in range(TASKS)]
    await story()
    done.set()
    _, stuck = await asyncio.wait(tasks, timeout=patience_s + 2.0)
    for task in stuck:
        task.cancel()
    if stuck:
        await asyncio.wait(stuck, timeout=2.0)
    return answers, not stuck


def restart(
    make: Callable[[str], Awaitable[Patient]], server: PostgresServer, curve: list[tuple[float, float]]
) -> Measure:
    """Stop and start the server while fifty tasks ask; the last round's answers a second go to `curve`.

    Measured in milliseconds from when it serves again: to the first good answer, and to the first tenth of
    a second at nine tenths of the rate before. Errors and connects are counted from the stop on.
    """

    async def run() -> Sample:
        patient = await make(server.dsn())
        stopped = up = began = 0.0

        async def story() -> None:
            nonlocal stopped, up, began
            began = time.perf_counter()
            await asyncio.sleep(BEFORE_S)
            stopped = time.perf_counter()
            await asyncio.to_thread(server.restart)
            up = time.perf_counter()
            await asyncio.sleep(AFTER_S)

        answers, _ = await crowd(patient, story, 5.0)
        await asyncio.wait_for(patient.close(), 15)
        before = answers.rate(began + BEFORE_S / 2, stopped)
        curve[:] = [(at - (up - began), rate) for at, rate in answers.curve(began, up + AFTER_S)]
        return {
            GOOD: (min((at for at in answers.at if at >= up), default=up + AFTER_S) - up) * 1e3,
            FULL: recovered(answers, up, before) * 1e3,
            CONNECTS: float(sum(at >= stopped for at in patient.connects)),
            ERRORS: float(answers.errors),
        }

    return run


def recovered(answers: Answers, up: float, before: float) -> float:
    """Seconds from `up` to the end of the first tenth of a second at nine tenths of the rate `before`.

    `AFTER_S` if there is none: the measurement ends there.
    """
    for step in range(1, round(AFTER_S / BUCKET_S)):
        until = up + step * BUCKET_S
        if answers.rate(until - BUCKET_S, until) >= 0.9 * before:
            return until - up
    return AFTER_S


def hanging(make: Callable[[str], Awaitable[Patient]], server: PostgresServer) -> Measure:
    """One of ten connections says nothing any more: its process is stopped; the others go on.

    Each question has half a second. Measured over three seconds: the share of the rate before, errors, the
    longest that an answered question took (milliseconds), and whether every task came back in the end (1).
    """

    async def run() -> Sample:
        patient = await make(server.dsn())
        async with patient.borrow() as conn:
            frozen = await patient.pid(conn)
        began = silent = ended = 0.0

        async def story() -> None:
            nonlocal began, silent, ended
            began = time.perf_counter()
            await asyncio.sleep(BEFORE_S)
            os.kill(frozen, signal.SIGSTOP)
            silent = time.perf_counter()
            await asyncio.sleep(HANG_S)
            ended = time.perf_counter()

        try:
            answers, all_ended = await crowd(patient, story, PATIENCE_S)
        finally:
            os.kill(frozen, signal.SIGCONT)
        try:
            await asyncio.wait_for(patient.close(), 15)
        except TimeoutError:
            all_ended = False
        before = answers.rate(began + BEFORE_S / 2, silent)
        return {
            SHARE: answers.rate(silent, ended) / before,
            ERRORS: float(answers.errors),
            LONGEST: max(answers.took) * 1e3,
            CAME_BACK: float(all_ended),
        }

    return run
