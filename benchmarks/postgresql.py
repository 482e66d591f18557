"""PostgreSQL through every pool a user would take: the same statements, ten connections, many tasks."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from benchmarks.harness import Rounds, interleave
from benchmarks.load import Client, Making, under_load
from millpond import create_pool
from millpond.drivers._postgresql_session import CLEAN_SESSION
from tests.servers import PostgresServer, PostgresTemplate

CONNECTIONS: Final = 10
ROWS: Final = 10_000
SELECT, READ, TRANSACTION = "SELECT 1", "indexed read", "small transaction"
WORKLOADS: Final = (SELECT, READ, TRANSACTION)

SCHEMA: Final = """
CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL);
INSERT INTO items SELECT n, 'item ' || n FROM generate_series(1, {rows}) AS n;
CREATE TABLE moves (id bigserial PRIMARY KEY, item int NOT NULL, amount int NOT NULL);
GRANT ALL ON ALL TABLES IN SCHEMA public TO {role};
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role};
ANALYZE items;
"""
_READ: Final = "SELECT name FROM items WHERE id = {}"
_CHANGE: Final = "UPDATE items SET name = 'item ' || id WHERE id = {}"
_NOTE: Final = "INSERT INTO moves (item, amount) VALUES ({}, 1)"

Work = Callable[[Any], Awaitable[Any]]


def some_item() -> int:
    """Which row an operation is about."""
    return random.randint(1, ROWS)


async def _asyncpg_select(conn: Any) -> None:
    await conn.fetchval("SELECT 1")


async def _asyncpg_read(conn: Any) -> None:
    await conn.fetchrow(_READ.format("$1"), some_item())


async def _asyncpg_transaction(conn: Any) -> None:
    item = some_item()
    async with conn.transaction():
        await conn.execute(_CHANGE.format("$1"), item)
        await conn.execute(_NOTE.format("$1"), item)


async def _psycopg_select(conn: Any) -> None:
    await (await conn.execute("SELECT 1")).fetchone()


async def _psycopg_read(conn: Any) -> None:
    await (await conn.execute(_READ.format("%s"), (some_item(),))).fetchone()


async def _psycopg_transaction(conn: Any) -> None:
    item = some_item()
    async with conn.transaction():
        await conn.execute(_CHANGE.format("%s"), (item,))
        await conn.execute(_NOTE.format("%s"), (item,))


ASYNCPG: Final[dict[str, Work]] = {
    SELECT: _asyncpg_select,
    READ: _asyncpg_read,
    TRANSACTION: _asyncpg_transaction,
}
PSYCOPG: Final[dict[str, Work]] = {
    SELECT: _psycopg_select,
    READ: _psycopg_read,
    TRANSACTION: _psycopg_transaction,
}


def through(borrow: Callable[[], Any], works: dict[str, Work]) -> dict[str, Callable[[], Awaitable[None]]]:
    """Each piece of work inside an `async with` of its own."""

    def operation(work: Work) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            async with borrow() as conn:
                await work(conn)

        return run

    return {name: operation(work) for name, work in works.items()}


async def millpond(dsn: str, *, reset: str, library: str = "asyncpg") -> Client:
    pool = create_pool(
        dsn,
        library=library,
        min_size=CONNECTIONS,
        max_size=CONNECTIONS,
        max_connecting=CONNECTIONS,
        acquire_timeout=60.0,
        eager_init=True,
        reset=reset,
    )
    await pool.initialize()
    works = ASYNCPG if library == "asyncpg" else PSYCOPG
    lease = None if reset == "full" else pool.acquire  # with a full reset each lease sends one
    return Client(ours(library, reset), through(pool.acquire, works), pool.close, lease, pool)


def ours(library: str, reset: str) -> str:
    """How a pool of ours is called in the report."""
    return f"millpond, {library}, reset {reset}"


ASYNCPG_FULL: Final = "asyncpg.Pool, its own reset"
ASYNCPG_SAME: Final = "asyncpg.Pool, millpond's full reset"
ASYNCPG_NONE: Final = "asyncpg.Pool, without reset"
PSYCOPG_POOL: Final = "psycopg_pool, rollback"
ALCHEMY_POOL: Final = "SQLAlchemy's pool alone, asyncpg's own calls, rollback"
ALCHEMY_CONNECTION: Final = "SQLAlchemy's pool and AsyncConnection, asyncpg's own calls, rollback"
ALCHEMY: Final = "SQLAlchemy, asyncpg, rollback"


async def asyncpg_pool(dsn: str, name: str = ASYNCPG_FULL) -> Client:
    """asyncpg.Pool as it comes, with a `reset` that does nothing, or with our full reset's statements."""
    import asyncpg

    class CleanedAsOurs(asyncpg.Connection):  # type: ignore[misc]
        """Sends what ours sends: asyncpg's own leaves the role, temporary tables and more."""

        def get_reset_query(self) -> str:
            return CLEAN_SESSION

    async def nothing(_conn: Any) -> None:
        return None

    options: dict[str, dict[str, Any]] = {
        ASYNCPG_FULL: {},
        ASYNCPG_NONE: {"reset": nothing},
        ASYNCPG_SAME: {"connection_class": CleanedAsOurs},
    }
    pool = await asyncpg.create_pool(dsn, min_size=CONNECTIONS, max_size=CONNECTIONS, **options[name])
    lease = pool.acquire if name == ASYNCPG_NONE else None
    return Client(name, through(pool.acquire, ASYNCPG), pool.close, lease)


async def psycopg_pool(dsn: str) -> Client:
    """psycopg_pool, which rolls back what is open; autocommit, as ours has it."""
    from psycopg_pool import AsyncConnectionPool

    pool = AsyncConnectionPool(
        dsn,
        kwargs={"autocommit": True},
        min_size=CONNECTIONS,
        max_size=CONNECTIONS,
        timeout=60.0,
        open=False,
    )
    await pool.open(wait=True)
    return Client(PSYCOPG_POOL, through(pool.connection, PSYCOPG), pool.close, pool.connection)


def _engine(dsn: str, **options: Any) -> Any:
    from sqlalchemy.ext.asyncio import create_async_engine

    address = dsn.replace("postgresql://", "postgresql+asyncpg://", 1)
    return create_async_engine(address, pool_size=CONNECTIONS, max_overflow=0, pool_timeout=60.0, **options)


async def sqlalchemy_pool(dsn: str) -> Client:
    """SQLAlchemy's pool alone: what runs inside is asyncpg's own call, so that pools are compared."""
    from sqlalchemy.util import greenlet_spawn

    engine = _engine(dsn, isolation_level="AUTOCOMMIT")
    check_out = engine.sync_engine.raw_connection

    class Borrowed:
        """The smallest way to the pool below the engine: it has no `async with` of its own."""

        __slots__ = ("_record",)

        async def __aenter__(self) -> Any:
            self._record = await greenlet_spawn(check_out)
            return self._record.driver_connection

        async def __aexit__(self, *_: object) -> None:
            await greenlet_spawn(self._record.close)

    return Client(ALCHEMY_POOL, through(Borrowed, ASYNCPG), engine.dispose, Borrowed)


async def sqlalchemy_connection(dsn: str) -> Client:
    """The same with what `engine.connect()` puts around it: an `AsyncConnection` for each lease."""
    engine = _engine(dsn, isolation_level="AUTOCOMMIT")

    def inside(work: Work) -> Work:
        async def run(conn: Any) -> None:
            await work((await conn.get_raw_connection()).driver_connection)

        return run

    works = {name: inside(work) for name, work in ASYNCPG.items()}
    return Client(ALCHEMY_CONNECTION, through(engine.connect, works), engine.dispose, engine.connect)


async def sqlalchemy(dsn: str) -> Client:
    """SQLAlchemy as it is used: `text` on an autocommitting connection, `begin()` for a transaction."""
    from sqlalchemy import text

    engine = _engine(dsn)
    reading = engine.execution_options(isolation_level="AUTOCOMMIT")
    select, read = text("SELECT 1"), text(_READ.format(":item"))
    change, note = text(_CHANGE.format(":item")), text(_NOTE.format(":item"))

    async def run_select() -> None:
        async with reading.connect() as conn:
            (await conn.execute(select)).scalar()

    async def run_read() -> None:
        async with reading.connect() as conn:
            (await conn.execute(read, {"item": some_item()})).one()

    async def run_transaction() -> None:
        values = {"item": some_item()}
        async with engine.begin() as conn:
            await conn.execute(change, values)
            await conn.execute(note, values)

    operations = {SELECT: run_select, READ: run_read, TRANSACTION: run_transaction}
    return Client(ALCHEMY, operations, engine.dispose)


def clients(dsn: str) -> Making:
    """How every pool is opened, with its ten connections."""
    making: dict[str, Callable[[], Awaitable[Client]]] = {
        ours(library, reset): partial(millpond, dsn, reset=reset, library=library)
        for library, reset in (("asyncpg", "full"), ("asyncpg", "none"), ("asyncpg", "rollback"),
                               ("psycopg", "rollback"))
    }  # fmt: skip
    making |= {name: partial(asyncpg_pool, dsn, name) for name in (ASYNCPG_FULL, ASYNCPG_SAME, ASYNCPG_NONE)}
    making |= {
        ALCHEMY_POOL: partial(sqlalchemy_pool, dsn),
        ALCHEMY_CONNECTION: partial(sqlalchemy_connection, dsn),
        ALCHEMY: partial(sqlalchemy, dsn),
        PSYCOPG_POOL: partial(psycopg_pool, dsn),
    }
    order = [name for pair in PAIRS for name in pair]  # ours beside those that it is compared with
    return {name: making[name] for name in dict.fromkeys(order)}


@contextmanager
def server(**options: Any) -> Iterator[PostgresServer]:
    """A private server with the tables of the workloads."""
    template = PostgresTemplate()
    try:
        with PostgresServer(template, max_connections=200, **options) as running:
            running.execute(SCHEMA.format(role=running.user, rows=ROWS))
            yield running
    finally:
        template.close()


PAIRS: Final = (
    (ours("asyncpg", "full"), ASYNCPG_SAME),
    (ours("asyncpg", "full"), ASYNCPG_FULL),
    (ours("asyncpg", "none"), ASYNCPG_NONE),
    (ours("psycopg", "rollback"), PSYCOPG_POOL),
    (ours("asyncpg", "rollback"), ALCHEMY_POOL),
    (ours("asyncpg", "rollback"), ALCHEMY_CONNECTION),
    (ours("asyncpg", "rollback"), ALCHEMY),
)
"""Ours, and whom it is compared with: the same driver at the same reset level."""


COUNTS: Final = {TRANSACTION: 500}
"""Operations of a round where a round takes long."""


async def measure(
    everyone: list[Client], workload: str, tasks: int, rounds: int, *, count: int | None = None
) -> Rounds:
    """One workload with so many tasks, interleaved over all pools.

    Args:
        everyone: the pools.
        workload: what is asked.
        tasks: how many ask.
        rounds: how many are counted; a short one before only warms up.
        count: operations of a round; left out: a thousand or less, but two for each task at least.
    """
    some = count or max(COUNTS.get(workload, 1000), 2 * tasks)
    warm = {one.name: under_load(one.operations[workload], CONNECTIONS, 20 * CONNECTIONS) for one in everyone}
    tried = await interleave(warm, rounds=1, is_cold=False)
    found = await interleave(
        {
            one.name: under_load(one.operations[workload], tasks, some)
            for one in everyone
            if one.name not in tried.failed
        },
        rounds=rounds,
        is_cold=False,
    )
    found.failed |= tried.failed
    return found


TARGET_COUNT: Final = 2000
"""Operations in a round of `measure_target`. In a pool that starves, some wait as long as a round is: a third
of them would show a third of its p99."""
CLOSE: Final = frozenset({ours("asyncpg", "full"), ASYNCPG_SAME, ASYNCPG_FULL})
"""Those that are so alike that nine rounds leave it to luck which of them is faster."""


async def measure_target(everyone: list[Client], tasks: int, rounds: int) -> Rounds:
    """`SELECT 1`, as the targets have it: `rounds` of it, and three times as many of those in `CLOSE`.

    These are interleaved with each other only, as those that are compared are all of one group.
    """
    found = Rounds()
    for group, times in ((True, 3 * rounds), (False, rounds)):
        some = [one for one in everyone if (one.name in CLOSE) is group]
        more = await measure(some, SELECT, tasks, times, count=TARGET_COUNT)
        found.samples |= more.samples
        found.failed |= more.failed
    return found
