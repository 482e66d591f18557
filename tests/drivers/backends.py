"""What driver tests need to know of a backend: how to be slow, how to be dirty, who is connected.

One class a backend; a test that is written against `Backend` runs on each of them.
"""

import abc
import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import asyncpg
from aiomysql import MySQLError as AiomysqlError
from asyncmy.errors import MySQLError as AsyncmyError

from millpond.driver import Verdict
from millpond.drivers.mysql import MySQLDriver
from millpond.drivers.postgresql import PostgreSQLDriver
from millpond.drivers.sqlite import SQLiteDriver
from millpond.settings import PoolSettings, ResetLevel
from tests.servers import MariaDBServer, PostgresServer, Visitor

DEADLINE: Final = 10.0
_numbers = count(1)


async def until(condition: Callable[[], Awaitable[bool]], *, within: float = DEADLINE) -> None:
    """Return as soon as the condition holds.

    Raises:
        TimeoutError: it does not hold in time.
    """
    async with asyncio.timeout(within):
        while not await condition():  # noqa: ASYNC110 - it is the other side's state, nobody tells us
            await asyncio.sleep(0.005)


async def _failure(awaitable: Awaitable[Any]) -> Exception:
    try:
        await awaitable
    except Exception as error:
        return error
    raise AssertionError("it did not fail")


class Backend(abc.ABC):
    """One kind of backend on a real server, with a driver made for this test."""

    table = "notes"  # has one column, body, and is empty
    mark = '"'  # stands around a quoted name
    nowhere: Mapping[str, Any] = {"database": "no-such-place"}  # options that lead nowhere
    nowhere_said = "no-such-place"  # what the error says then
    # What the driver says, by reset level, after a question, after a statement that failed, and after one
    # that was cancelled.
    after_question: Mapping[str, Verdict] = {
        "none": Verdict.KEEP, "rollback": Verdict.KEEP, "full": Verdict.RESET,
    }  # fmt: skip
    after_failure: Mapping[str, Verdict] = {
        "none": Verdict.KEEP, "rollback": Verdict.KEEP, "full": Verdict.RESET,
    }  # fmt: skip
    after_cancel: Mapping[str, Verdict] = {
        "none": Verdict.DISCARD, "rollback": Verdict.RESET, "full": Verdict.RESET,
    }  # fmt: skip

    @abc.abstractmethod
    def driver(self, **options: Any) -> Any:
        """A driver for this backend."""

    def at_level(self, level: ResetLevel, **options: Any) -> Any:
        """A driver whose resets go to `level`."""
        return self.driver(**options).configured(PoolSettings(reset=level))

    @abc.abstractmethod
    async def sessions(self) -> int:
        """How many sessions of this test's the backend sees."""

    @abc.abstractmethod
    async def ask(self, conn: Any, number: int) -> int:
        """Ask a question whose answer is `number`."""

    @abc.abstractmethod
    async def begin(self, conn: Any) -> None:
        """Open a transaction and write a row in it."""

    @abc.abstractmethod
    async def fail(self, conn: Any) -> None:
        """Run a statement that fails; raises."""

    @abc.abstractmethod
    async def make_table(self, conn: Any, quoted_name: str) -> list[str]:
        """Create a table, and return the names of all tables."""

    @abc.abstractmethod
    async def rows(self, conn: Any) -> int:
        """How many rows the table has."""

    @abc.abstractmethod
    async def start_slow(self, conn: Any) -> asyncio.Task[Any]:
        """A task that runs a statement of half a minute or more, which the backend is working on."""

    async def cancel_slow(self, conn: Any) -> asyncio.CancelledError:
        """Cancel a slow statement in the middle, as a borrower's task would be."""
        task = await self.start_slow(conn)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError as error:
            return error
        raise AssertionError("the statement was not cancelled")

    async def given_back(self, driver: Any, conn: Any, error: BaseException | None) -> Any:
        """The connection that the next borrower gets after a lease that ended so."""
        match driver.after_lease(conn, error):
            case Verdict.RESET:
                await asyncio.wait_for(driver.reset(conn), 5.0)
            case Verdict.DISCARD | Verdict.DISCARD_ALL:
                driver.terminate(conn)
                conn = await driver.connect()
        return conn

    async def gone(self, *, left: int = 0) -> None:
        """Return when the backend sees no more sessions than `left`."""
        await until(partial(self._sees, left))

    async def _sees(self, number: int) -> bool:
        return await self.sessions() == number


async def works(pool: Any, backend: Backend) -> bool:
    """Whether a borrower gets an answer now."""
    try:
        async with pool.acquire(timeout=0.5) as conn:
            return await backend.ask(conn, 3) == 3
    except Exception:  # whatever it is, it is not an answer
        return False


async def until_quiet(pool: Any) -> None:
    """Return when nothing is opening, borrowed, being reset or closing."""

    async def is_quiet() -> bool:
        status = pool.status()
        return bool(status.total == status.idle)

    await until(is_quiet)


class PostgreSQL(Backend):
    """A database of its own on the private server."""

    def __init__(self, server: PostgresServer, database: str) -> None:
        self.server, self.database = server, database
        self.application_name = f"driver-test-{next(_numbers)}"

    @property
    def options(self) -> dict[str, Any]:
        """What leads to it."""
        return {
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

    errors = (asyncpg.PostgresError, asyncpg.InterfaceError)

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
        while await conn.fetchval("SHOW default_transaction_read_only") != "on":
            pass
        return await _failure(conn.execute(f"INSERT INTO {self.table} VALUES ('lost')"))

    async def clients(self) -> list[Any]:
        """The sessions of this test's, as the server sees them."""
        seen = await asyncio.to_thread(self.server.connections)
        return [each for each in seen if each.application_name == self.application_name]

    async def sessions(self) -> int:
        return len(await self.clients())

    async def start_slow(self, conn: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(conn.fetchval("SELECT pg_sleep(30)"))
        await until(self.is_slow)
        return task

    async def is_slow(self) -> bool:
        """Whether the server is working on a slow statement of this test's."""
        return any(each.state == "active" and "pg_sleep" in each.query for each in await self.clients())

    async def ask(self, conn: Any, number: int) -> int:
        return await conn.fetchval("SELECT $1::int", number)

    async def begin(self, conn: Any) -> None:
        await conn.execute("BEGIN")
        await conn.execute(f"INSERT INTO {self.table} VALUES ('unconfirmed')")

    async def fail(self, conn: Any) -> None:
        await conn.execute("SELECT * FROM no_such_table")

    async def make_table(self, conn: Any, quoted_name: str) -> list[str]:
        await conn.execute(f"CREATE TABLE {quoted_name} (x int)")
        return [row[0] for row in await conn.fetch("SELECT tablename FROM pg_tables")]

    async def rows(self, conn: Any) -> int:
        return await conn.fetchval(f"SELECT count(*) FROM {self.table}")


class MySQL(Backend):
    """An account and a database of its own on the private MariaDB server."""

    mark = "`"
    # A procedure may have failed in a transaction that it began: that is rolled back where it can be.
    after_failure: Mapping[str, Verdict] = {
        "none": Verdict.KEEP, "rollback": Verdict.RESET, "full": Verdict.RESET,
    }  # fmt: skip
    after_cancel: Mapping[str, Verdict] = dict.fromkeys(("none", "rollback", "full"), Verdict.DISCARD)

    def __init__(self, server: MariaDBServer, library: str) -> None:
        self.server, self.library = server, library
        self.user = self.database = f"test_{next(_numbers)}"
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

    async def gone(self, *, left: int = 0) -> None:
        # The server does not notice that a client has gone before its statement ends. This ends the
        # statement, not the session: one whose client is still there stays, and is seen.
        for client in await self.clients():
            if "SLEEP" in client.statement:
                await asyncio.to_thread(self.server.execute, f"KILL QUERY {client.id}")
        await super().gone(left=left)

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
