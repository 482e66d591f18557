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
from typing import Any, Final

from millpond.drivers.postgresql import PostgreSQLDriver
from millpond.drivers.sqlite import SQLiteDriver
from millpond.settings import PoolSettings, ResetLevel
from tests.servers import PostgresServer

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


class Backend(abc.ABC):
    """One kind of backend on a real server, with a driver made for this test."""

    table = "notes"  # has one column, body, and is empty

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

    async def gone(self, *, left: int = 0) -> None:
        """Return when the backend sees no more sessions than `left`."""
        await until(partial(self._sees, left))

    async def _sees(self, number: int) -> bool:
        return await self.sessions() == number


class PostgreSQL(Backend):
    """A database of its own on the private server."""

    def __init__(self, server: PostgresServer, database: str) -> None:
        self.server, self.database = server, database
        self.application_name = f"driver-test-{next(_numbers)}"

    def driver(self, *, server_settings: Mapping[str, str] | None = None, **options: Any) -> PostgreSQLDriver:
        return PostgreSQLDriver(**{
            # Or the server would not notice before its statement ends that a client has gone.
            "server_settings": {"client_connection_check_interval": "50", **(server_settings or {})},
            "host": self.server.host, "port": self.server.port, "database": self.database,
            "user": self.server.user, "password": self.server.password,
            "application_name": self.application_name, **options,
        })  # fmt: skip

    def administrator(self, **options: Any) -> PostgreSQLDriver:
        """A driver that comes as the superuser, over the Unix socket."""
        return self.driver(**{
            "host": str(self.server.directory), "user": "postgres", "password": None, **options,
        })  # fmt: skip

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


class SQLite(Backend):
    """A database file of its own."""

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
