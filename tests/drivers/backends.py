"""What driver tests need to know of a backend: how to be slow, how to be dirty, who is connected.

One class a backend; a test that is written against `Backend` runs on each of them.
"""

import abc
import asyncio
import sqlite3
import threading
from collections.abc import Awaitable, Mapping
from contextlib import closing
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import asyncpg
import psycopg
from aiomysql import MySQLError as AiomysqlError
from asyncmy.errors import MySQLError as AsyncmyError

from millpond.driver import Verdict
from millpond.drivers.mysql import MySQLDriver
from millpond.drivers.postgresql import PostgreSQLDriver
from millpond.drivers.sqlite import SQLiteDriver
from millpond.testing import contract
from millpond.testing.contract import until, until_quiet
from tests.servers import MariaDBServer, PostgresServer, Visitor, free_port

__all__ = [
    "DEADLINE",
    "Backend",
    "MySQL",
    "PostgreSQL",
    "Psycopg",
    "SQLite",
    "make_file",
    "until",
    "until_quiet",
    "works",
]

DEADLINE: Final = 10.0
WRONG_SECRET: Final = MappingProxyType({"password": "not-the-password"})
_numbers = count(1)


async def _failure(awaitable: Awaitable[Any]) -> Exception:
    try:
        await awaitable
    except Exception as error:
        return error
    raise AssertionError("it did not fail")


class Backend(contract.Backend):
    """One kind of backend on a real server, with a driver made for this test."""

    table = "notes"  # has one column, body, and is empty
    mark = '"'  # stands around a quoted name
    after_question: Mapping[str, Verdict] = {
        "none": Verdict.KEEP, "rollback": Verdict.KEEP, "full": Verdict.RESET,
    }  # fmt: skip
    after_failure: Mapping[str, Verdict] = {
        "none": Verdict.KEEP, "rollback": Verdict.KEEP, "full": Verdict.RESET,
    }  # fmt: skip
    after_cancel: Mapping[str, Verdict] = {
        "none": Verdict.DISCARD, "rollback": Verdict.RESET, "full": Verdict.RESET,
    }  # fmt: skip
    after_begin: Mapping[str, Verdict] = {
        "none": Verdict.DISCARD, "rollback": Verdict.RESET, "full": Verdict.RESET,
    }  # fmt: skip

    @abc.abstractmethod
    async def make_table(self, conn: Any, quoted_name: str) -> list[str]:
        """Create a table, and return the names of all tables."""


async def works(pool: Any, backend: Backend) -> bool:
    """Whether a borrower gets an answer now."""
    try:
        async with pool.acquire(timeout=0.5) as conn:
            return await backend.ask(conn, 3) == 3
    except Exception:  # whatever it is, it is not an answer
        return False


class PostgreSQL(Backend):
    """A database of its own on the private server."""

    library = "asyncpg"
    wrong_secret = WRONG_SECRET
    # asyncpg drops a future of its own when a connect is cancelled at the very moment of success.
    noise = ("unexpected connection_lost() call",)
    # Below "full" it depends on whether the server has confirmed the cancellation by then.
    after_cancel: Mapping[str, Verdict] = {"full": Verdict.RESET}

    def __init__(self, server: PostgresServer, database: str) -> None:
        self.server, self.database = server, database
        self.unreachable = {"port": free_port()}
        self.application_name = f"driver-test-{next(_numbers)}"

    @property
    def options(self) -> dict[str, Any]:
        """What leads to it."""
        return {
            "library": self.library,
            "host": self.server.host, "port": self.server.port, "database": self.database,
            "user": self.server.user, "password": self.server.password,
            "application_name": self.application_name,
        }  # fmt: skip

    def driver(self, *, server_settings: Mapping[str, str] | None = None, **options: Any) -> PostgreSQLDriver:
        # Or the server would not notice before its statement ends that a client has gone.
        settings = {"client_connection_check_interval": "50", **(server_settings or {})}
        return PostgreSQLDriver(**{**self.options, "server_settings": settings, **options})

    def administrator(self, **options: Any) -> PostgreSQLDriver:
        """A driver that comes as the superuser, over the Unix socket."""
        return self.driver(**{
            "host": str(self.server.directory), "user": "postgres", "password": None, **options,
        })  # fmt: skip

    errors: tuple[type[Exception], ...] = (asyncpg.PostgresError, asyncpg.InterfaceError)

    async def run(self, conn: Any, statement: str) -> None:
        """Run statements without values."""
        await conn.execute(statement)

    async def value(self, conn: Any, question: str) -> Any:
        """The first value of the answer."""
        return await conn.fetchval(question)

    async def query(self, conn: Any, question: str) -> list[tuple[Any, ...]]:
        """The rows of the answer."""
        return [tuple(row) for row in await conn.fetch(question)]

    def pid(self, conn: Any) -> int:
        """The server's process."""
        return conn.get_server_pid()

    async def end(self, conn: Any) -> None:
        """The server ends one session."""
        await asyncio.to_thread(self.server.execute, f"SELECT pg_terminate_backend({self.pid(conn)})")

    def is_in_transaction(self, conn: Any) -> bool:
        """Whether the client believes to be in a transaction."""
        return conn.is_in_transaction()

    async def end_all(self) -> None:
        """The server ends every session of this test's."""
        await asyncio.to_thread(
            self.server.execute,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE application_name = '{self.application_name}'",
        )

    def demote(self) -> None:
        """Make the whole node read-only."""
        self.server.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        self.server.execute("SELECT pg_reload_conf()")

    def promote(self) -> None:
        """Undo it."""
        self.server.execute("ALTER SYSTEM RESET default_transaction_read_only")
        self.server.execute("SELECT pg_reload_conf()")

    async def refused_write(self, conn: Any) -> Exception:
        """The error that a write ends with once the session has heard of the demotion."""
        while await self.value(conn, "SHOW default_transaction_read_only") != "on":
            pass
        return await _failure(self.run(conn, f"INSERT INTO {self.table} VALUES ('lost')"))

    async def clients(self) -> list[Any]:
        """The sessions of this test's, as the server sees them."""
        seen = await asyncio.to_thread(self.server.connections)
        return [each for each in seen if each.application_name == self.application_name]

    async def sessions(self) -> int:
        return len(await self.clients())

    async def start_slow(self, conn: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(self.value(conn, "SELECT pg_sleep(30)"))
        await until(self.is_slow)
        return task

    async def is_slow(self) -> bool:
        """Whether the server is working on a slow statement of this test's."""
        return any(each.state == "active" and "pg_sleep" in each.query for each in await self.clients())

    async def ask(self, conn: Any, number: int) -> int:
        return await conn.fetchval("SELECT $1::int", number)

    async def begin(self, conn: Any) -> None:
        await self.run(conn, "BEGIN")
        await self.run(conn, f"INSERT INTO {self.table} VALUES ('unconfirmed')")

    async def fail(self, conn: Any) -> None:
        await self.run(conn, "SELECT * FROM no_such_table")

    async def make_table(self, conn: Any, quoted_name: str) -> list[str]:
        await self.run(conn, f"CREATE TABLE {quoted_name} (x int)")
        return [row[0] for row in await self.query(conn, "SELECT tablename FROM pg_tables")]

    async def rows(self, conn: Any) -> int:
        return await self.value(conn, f"SELECT count(*) FROM {self.table}")

    async def change(self, conn: Any) -> None:
        await self.run(
            conn,
            "SET search_path = elsewhere; CREATE TEMP TABLE scratch (x int);"
            "SELECT pg_advisory_lock(7); LISTEN news; PREPARE one AS SELECT 1",
        )

    async def state(self, conn: Any) -> tuple[Any, ...]:
        (found,) = await self.query(
            conn,
            "SELECT current_setting('search_path'), to_regclass('pg_temp.scratch')::text,"
            " ARRAY(SELECT pg_listening_channels()),"
            " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),"
            " (SELECT count(*) FROM pg_prepared_statements WHERE from_sql)",
        )
        return found


class Psycopg(PostgreSQL):
    """The same server, spoken to with psycopg."""

    library = "psycopg"
    # Nothing is unread when a cancelled statement has ended, and it ends before the borrower hears of it.
    after_cancel: Mapping[str, Verdict] = Backend.after_question
    noise = ()
    errors = (psycopg.Error,)

    async def run(self, conn: Any, statement: str) -> None:
        await conn.execute(statement)

    async def value(self, conn: Any, question: str) -> Any:
        return (await (await conn.execute(question)).fetchone())[0]

    async def query(self, conn: Any, question: str) -> list[tuple[Any, ...]]:
        return await (await conn.execute(question)).fetchall()

    def pid(self, conn: Any) -> int:
        return conn.info.backend_pid

    def is_in_transaction(self, conn: Any) -> bool:
        return conn.info.transaction_status.name in ("INTRANS", "INERROR")

    async def ask(self, conn: Any, number: int) -> int:
        return (await (await conn.execute("SELECT %s::int", (number,))).fetchone())[0]


class MySQL(Backend):
    """An account and a database of its own on the private MariaDB server."""

    mark = "`"
    wrong_secret = WRONG_SECRET
    # A procedure may have failed in a transaction that it began: that is rolled back where it can be.
    after_failure: Mapping[str, Verdict] = {
        "none": Verdict.KEEP, "rollback": Verdict.RESET, "full": Verdict.RESET,
    }  # fmt: skip
    after_cancel: Mapping[str, Verdict] = dict.fromkeys(("none", "rollback", "full"), Verdict.DISCARD)

    def __init__(self, server: MariaDBServer, library: str) -> None:
        self.server, self.library = server, library
        self.user = self.database = f"test_{next(_numbers)}"
        self.unreachable = {"port": free_port()}
        server.execute(
            f"CREATE DATABASE {self.database} CHARACTER SET utf8mb4;"
            f"CREATE USER {self.user}@127.0.0.1 IDENTIFIED BY '{server.password}';"
            f"CREATE USER {self.user}@localhost IDENTIFIED BY '{server.password}';"
            f"GRANT ALL ON {self.database}.* TO {self.user}@127.0.0.1, {self.user}@localhost;"
            f"CREATE TABLE {self.database}.{self.table} (body text) ENGINE=InnoDB"
        )

    @property
    def options(self) -> dict[str, Any]:
        """What leads to it."""
        return {
            "library": self.library, "host": self.server.host, "port": self.server.port,
            "database": self.database, "user": self.user, "password": self.server.password,
        }  # fmt: skip

    def driver(self, **options: Any) -> MySQLDriver:
        return MySQLDriver(**{**self.options, **options})

    errors = (AsyncmyError, AiomysqlError)

    async def end_all(self) -> None:
        """The server ends every session of this test's."""
        await asyncio.to_thread(self.server.execute, f"KILL USER {self.user}@127.0.0.1")

    def demote(self) -> None:
        """Make the whole node read-only."""
        self.server.execute("SET GLOBAL read_only = 1")

    def promote(self) -> None:
        """Undo it."""
        self.server.execute("SET GLOBAL read_only = 0")

    async def refused_write(self, conn: Any) -> Exception:
        """The error that a write ends with."""
        return await _failure(self.query(conn, f"INSERT INTO {self.table} VALUES ('lost')"))

    async def clients(self) -> list[Visitor]:
        """The sessions of this test's, as the server sees them; also those that are just logging in."""
        seen = await asyncio.to_thread(self.server.connections)
        return [each for each in seen if each.user in (self.user, "unauthenticated user")]

    async def sessions(self) -> int:
        return len(await self.clients())

    async def gone(self, *, left: int = 0, within: float = DEADLINE) -> None:
        # The server does not notice that a client has gone before its statement ends. This ends the
        # statement, not the session: one whose client is still there stays, and is seen.
        for client in await self.clients():
            if "SLEEP" in client.statement:
                await asyncio.to_thread(self.server.execute, f"KILL QUERY {client.id}")
        await super().gone(left=left, within=within)

    async def query(self, conn: Any, statement: str, *values: Any) -> list[Any]:
        """The rows of a statement."""
        async with conn.cursor() as cursor:
            await cursor.execute(statement, values or None)
            return list(await cursor.fetchall())

    async def start_slow(self, conn: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(self.query(conn, "SELECT SLEEP(30)"))
        await until(self.is_slow)
        return task

    async def is_slow(self) -> bool:
        """Whether the server is working on a slow statement of this test's."""
        return any("SLEEP" in each.statement for each in await self.clients())

    async def ask(self, conn: Any, number: int) -> int:
        ((answer,),) = await self.query(conn, "SELECT %s", number)
        return answer

    async def begin(self, conn: Any) -> None:
        if not conn.get_transaction_status():  # or it would commit the one before
            await conn.begin()
        await self.query(conn, f"INSERT INTO {self.table} VALUES ('unconfirmed')")

    async def fail(self, conn: Any) -> None:
        await self.query(conn, "SELECT * FROM no_such_table")

    async def make_table(self, conn: Any, quoted_name: str) -> list[str]:
        await self.query(conn, f"CREATE TABLE {quoted_name} (x int)")
        return [row[0] for row in await self.query(conn, "SHOW TABLES")]

    async def rows(self, conn: Any) -> int:
        ((rows,),) = await self.query(conn, f"SELECT count(*) FROM {self.table}")
        return rows

    async def change(self, conn: Any) -> None:
        await self.query(conn, "SET @mine = 1, time_zone = '+05:00'")
        await self.query(conn, f"CREATE TEMPORARY TABLE {self.database}.scratch (x int)")
        await self.query(conn, "SELECT GET_LOCK(%s, 0)", self.database)
        await self.query(conn, "USE information_schema")

    async def state(self, conn: Any) -> tuple[Any, ...]:
        (found,) = await self.query(
            conn, "SELECT @mine, @@time_zone, DATABASE(), IS_USED_LOCK(%s) <=> CONNECTION_ID()", self.database
        )
        try:
            await self.query(conn, f"SELECT * FROM {self.database}.scratch")
        except self.errors:
            return (*found, "no temporary table")
        return found


def make_file(path: Path) -> None:
    """A new SQLite database with nothing but the table."""
    with closing(sqlite3.connect(path)) as file:
        file.execute(f"CREATE TABLE {Backend.table} (body text)")


class SQLite(Backend):
    """A database file of its own."""

    nowhere = MappingProxyType({"database": "no-such-place", "create": False})

    def __init__(self, path: Path) -> None:
        self.path = path

    def driver(self, **options: Any) -> SQLiteDriver:
        return SQLiteDriver(**{"database": str(self.path), **options})

    async def sessions(self) -> int:
        return sum(thread.name == "millpond-sqlite" for thread in threading.enumerate())

    async def start_slow(self, conn: Any) -> asyncio.Task[Any]:
        began = asyncio.Event()
        loop = asyncio.get_running_loop()

        def began_now() -> int:
            loop.call_soon_threadsafe(began.set)
            return 1

        await conn.create_function("began", 0, began_now)
        task = asyncio.create_task(
            conn.execute_fetchall(
                "WITH RECURSIVE n(x) AS (SELECT began() UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"
            )
        )
        await asyncio.wait_for(began.wait(), DEADLINE)
        return task

    async def ask(self, conn: Any, number: int) -> int:
        ((answer,),) = await conn.execute_fetchall("SELECT ?", (number,))
        return answer

    async def begin(self, conn: Any) -> None:
        await conn.execute("BEGIN")
        await conn.execute(f"INSERT INTO {self.table} VALUES ('unconfirmed')")

    async def fail(self, conn: Any) -> None:
        await conn.execute("SELECT * FROM no_such_table")

    async def make_table(self, conn: Any, quoted_name: str) -> list[str]:
        await conn.execute(f"CREATE TABLE {quoted_name} (x int)")
        return [row[0] for row in await conn.execute_fetchall("SELECT name FROM sqlite_schema")]

    async def rows(self, conn: Any) -> int:
        ((rows,),) = await conn.execute_fetchall(f"SELECT count(*) FROM {self.table}")
        return rows

    async def change(self, conn: Any) -> None:
        await conn.execute("PRAGMA recursive_triggers = 1")
        await conn.execute("ATTACH ':memory:' AS other")
        await conn.execute("CREATE TEMP TABLE scratch (x)")

    async def state(self, conn: Any) -> list[Any]:
        return [
            list(await conn.execute_fetchall(question))
            for question in (
                "PRAGMA recursive_triggers", "SELECT name FROM pragma_database_list WHERE name <> 'temp'",
                "SELECT name FROM sqlite_temp_schema",
            )
        ]  # fmt: skip
