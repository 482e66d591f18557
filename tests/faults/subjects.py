"""What the fault suite has to know of each backend: its server, its sessions by number, its transactions.

A backend that is to go through all of it gets a class here, and its place in `SUBJECTS`.
"""

import abc
import asyncio
import gc
import threading
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final

import asyncpg
from grpc import StatusCode, aio
from line_server import LineServer

from tests.drivers.backends import MySQL, PostgreSQL, Psycopg, SQLite
from tests.drivers.functions import AsyncFunctions, PlainFunctions
from tests.drivers.grpc_backend import Grpc
from tests.drivers.rabbitmq_backend import RabbitMQ
from tests.drivers.redis_backend import Redis
from tests.servers import MariaDBServer, PostgresServer, RabbitMQServer, RedisServer, ServerFailed
from tests.servers.grpc_server import GrpcServer

MOST_CONNECTIONS: Final = 20
"""How many the servers of this suite serve at most; a pool that wants more is refused."""

NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Subject(abc.ABC):
    """One backend on a server that may be harmed.

    Attributes:
        name: what the tests call it.
        fixture: which fixture starts its server, once for all tests.
        is_mortal: its server can be killed and frozen, and is reached over a network.
        has_transactions: borrowers use some, and leave some open.
        ends_sessions: the server can be told to end one session or all.
        is_limited: the server refuses more than `MOST_CONNECTIONS`, at the latest after `limit()`.
        storms: it goes through the common storm; one that does not has a storm of its own.
        on_one_socket: how many of its connections share a socket, at most.
        settings: what its pools have beyond the common.
        patience: seconds that the library may take to give up a request to a server that is silent.
        errors: what requests and connects end with, besides OSError and TimeoutError.
        backend: how to ask it, as the driver tests know it.
        server: the one that may be harmed.
    """

    name: ClassVar[str]
    fixture: ClassVar[str]
    is_mortal: ClassVar[bool] = True
    has_transactions: ClassVar[bool] = True
    ends_sessions: ClassVar[bool] = True
    is_limited: ClassVar[bool] = True
    storms: ClassVar[bool] = True
    on_one_socket: ClassVar[int] = 1
    settings: ClassVar[Mapping[str, Any]] = NOTHING
    patience: ClassVar[float] = 0.0
    errors: ClassVar[tuple[type[Exception], ...]] = ()

    backend: Any
    server: Any

    @abc.abstractmethod
    async def number(self, conn: Any) -> int:
        """What the server calls this connection."""

    @abc.abstractmethod
    async def numbers(self) -> list[int]:
        """What the server calls each of this test's connections, those that log in just now included."""

    async def end(self, number: int) -> None:
        """The server ends this session."""
        raise NotImplementedError

    async def end_all(self) -> None:
        """The server ends all sessions of this test's."""
        for number in await self.numbers():
            await self.end(number)

    def limit(self) -> None:  # noqa: B027 - most are limited from the start
        """From now on the server refuses more than `MOST_CONNECTIONS`, until `tidy()`."""

    def is_excused(self, error: BaseException) -> bool:
        """Whether the client library is known to fail a request so, now and then, for nobody's fault."""
        del error
        return False

    def tidy(self) -> None:  # noqa: B027 - most leave nothing
        """Take away what a test has left behind, when its server runs again."""

    async def transact(self, conn: Any, number: int) -> tuple[int, int]:
        """Begin a transaction, write a row in it, ask in it, and leave it open.

        Returns:
            The answer, and how many rows there were before: they would be somebody else's.
        """
        rows = await self.backend.rows(conn)
        await self.backend.begin(conn)
        return await self.backend.ask(conn, number), rows


class PostgreSQLSubject(Subject):
    """PostgreSQL with asyncpg."""

    name = "postgresql"
    fixture = "harmed_postgres"
    # What asyncpg says to who asks a session of which it has heard that it ends, but not yet the end.
    errors = (*PostgreSQL.errors, asyncpg.InternalClientError)

    def __init__(self, server: PostgresServer) -> None:
        self.server, self.backend = server, self.make_backend(server)

    def make_backend(self, server: PostgresServer) -> PostgreSQL:
        """The backend, in the database where the table is."""
        return PostgreSQL(server, server.database)

    async def number(self, conn: Any) -> int:
        return int(self.backend.pid(conn))

    async def numbers(self) -> list[int]:
        return [client.pid for client in await self.backend.clients()]

    async def end(self, number: int) -> None:
        await asyncio.to_thread(self.server.execute, f"SELECT pg_terminate_backend({number})")

    async def end_all(self) -> None:
        await self.backend.end_all()


class PsycopgSubject(PostgreSQLSubject):
    """PostgreSQL with psycopg."""

    name = "psycopg"
    errors = Psycopg.errors

    def make_backend(self, server: PostgresServer) -> PostgreSQL:
        return Psycopg(server, server.database)


class MySQLSubject(Subject):
    """MariaDB; which library, its classes say."""

    fixture = "harmed_mariadb"
    errors = MySQL.errors

    def __init__(self, server: MariaDBServer) -> None:
        self.server, self.backend = server, MySQL(server, self.name)

    async def number(self, conn: Any) -> int:
        return int(conn.thread_id())

    async def numbers(self) -> list[int]:
        return [client.id for client in await self.backend.clients()]

    async def end(self, number: int) -> None:
        try:
            await asyncio.to_thread(self.server.execute, f"KILL {number}")
        except ServerFailed as error:
            if "Unknown thread id" not in str(error):  # the pool has given it up meanwhile
                raise

    async def end_all(self) -> None:
        await self.backend.end_all()


class AsyncmySubject(MySQLSubject):
    """MariaDB with asyncmy."""

    name = "asyncmy"


class AiomysqlSubject(MySQLSubject):
    """MariaDB with aiomysql."""

    name = "aiomysql"


class RedisSubject(Subject):
    """Redis; its transactions answer only when they end."""

    name = "redis"
    fixture = "harmed_redis"
    errors = Redis.errors

    def __init__(self, server: RedisServer) -> None:
        self.server, self.backend = server, Redis(server)

    async def number(self, conn: Any) -> int:
        return int(await conn.client_id())

    async def numbers(self) -> list[int]:
        return [client.id for client in await self.backend.clients()]

    async def end(self, number: int) -> None:
        await asyncio.to_thread(self.server.execute, "CLIENT KILL", "ID", number)

    async def end_all(self) -> None:
        await asyncio.to_thread(self.server.execute, "CLIENT KILL", "USER", self.server.user)

    async def transact(self, conn: Any, number: int) -> tuple[int, int]:
        rows = await self.backend.rows(conn)
        async with conn.pipeline(transaction=True) as pipe:
            _, answer = await pipe.watch(self.backend.table), await self.backend.ask(pipe, number)
        await self.backend.begin(conn)
        return answer, rows


class RabbitMQSubject(Subject):
    """Channels, two on each connection; the server ends connections, and with them both."""

    name = "rabbitmq"
    fixture = "harmed_rabbitmq"
    has_transactions = False
    storms = False  # tests/drivers/test_rabbitmq_storm.py: publishes and gets
    on_one_socket = 2
    # What aiormq tells those who wait is the reason that the connection ended.
    errors = (*RabbitMQ.errors, RuntimeError)

    def __init__(self, server: RabbitMQServer) -> None:
        self.server, self.backend = (
            server,
            RabbitMQ(server, options={"channels_per_connection": self.on_one_socket}),
        )
        self._marks = count(1)

    async def number(self, conn: Any) -> int:
        # A mark that the server shows; the address may be a proxy's.
        mark = next(self._marks)
        await conn.set_qos(prefetch_count=mark)
        ports = await self._ports()
        (found,) = [each for each in await self.backend.channels() if each.prefetch == mark]
        return _numbered(ports[found.connection], found.number)

    async def numbers(self) -> list[int]:
        ports = await self._ports()
        return [
            _numbered(ports.get(each.connection, 0), each.number) for each in await self.backend.channels()
        ]

    def limit(self) -> None:
        # Not from the start: the server counts those that the network has swallowed.
        self.server.limit_vhost("/", connections=MOST_CONNECTIONS // self.on_one_socket)

    def tidy(self) -> None:
        self.server.limit_vhost("/", connections=None)

    async def _ports(self) -> dict[str, int]:
        return {each.pid: each.port for each in await asyncio.to_thread(self.server.connections)}

    async def end(self, number: int) -> None:
        for each in await asyncio.to_thread(self.server.connections):
            if each.port == number // _MOST_CHANNELS:
                await asyncio.to_thread(self.server.close_connection, each)

    async def end_all(self) -> None:
        await self.backend.end_all()


_MOST_CHANNELS: Final = 65536


def _numbered(port: int, channel: int) -> int:
    return port * _MOST_CHANNELS + channel


class GrpcSubject(Subject):
    """Channels, each shared by a few calls; the server cannot tell them apart."""

    name = "grpc"
    fixture = "harmed_grpc"
    has_transactions = False
    ends_sessions = False
    is_limited = False  # gRPC limits calls, not connections: test_grpc.py
    settings = MappingProxyType({"max_leases_per_connection": 3})
    errors = (aio.AioRpcError, aio.UsageError)

    def __init__(self, server: GrpcServer) -> None:
        self.server, self.backend = server, Grpc(server)

    def is_excused(self, error: BaseException) -> bool:
        """Among thousands of cancelled calls a second gRPC ends a few others with CANCELLED, in bursts."""
        return isinstance(error, aio.AioRpcError) and error.code() is StatusCode.CANCELLED

    def tidy(self) -> None:
        # gRPC holds the connection of a closed channel while the object of one of its calls lives, and
        # those of calls that failed live in cycles.
        gc.collect()

    async def number(self, conn: Any) -> int:
        await self.backend.ask(conn, 1)
        return 0

    async def numbers(self) -> list[int]:
        self.tidy()
        return [0] * await self.backend.sessions()


class SQLiteSubject(Subject):
    """A file: nobody could be killed; a session is a thread."""

    name = "sqlite"
    fixture = "calm_file"
    is_mortal = False

    def __init__(self, path: Path) -> None:
        self.backend = SQLite(path)

    async def number(self, conn: Any) -> int:
        return int(await conn.run(threading.get_ident))

    async def numbers(self) -> list[int]:
        return [each.ident or 0 for each in threading.enumerate() if each.name == "millpond-sqlite"]


class FunctionsSubject(Subject):
    """`from_factory` with async functions, to a server of lines; a session is a client's port."""

    name = "from_factory"
    fixture = "calm_lines"
    is_mortal = False

    def __init__(self, server: LineServer) -> None:
        self.server, self.backend = server, self.make_backend(server)

    def make_backend(self, server: LineServer) -> AsyncFunctions:
        """The backend, with the functions."""
        return AsyncFunctions(server)

    async def number(self, conn: Any) -> int:
        return int(conn.writer.get_extra_info("sockname")[1])

    async def numbers(self) -> list[int]:
        return [each.transport.get_extra_info("peername")[1] for each in tuple(self.server.sessions)]


class BlockingFunctionsSubject(FunctionsSubject):
    """`from_factory` with functions that are called in threads, where nobody can cancel them."""

    name = "from_factory, blocking"
    has_transactions = False

    def make_backend(self, server: LineServer) -> AsyncFunctions:
        return PlainFunctions(server, blocking=True)

    async def number(self, conn: Any) -> int:
        return int(conn.socket.getsockname()[1])


SUBJECTS: Final[Mapping[str, type[Any]]] = {
    subject.name: subject
    for subject in (
        PostgreSQLSubject,
        PsycopgSubject,
        AsyncmySubject,
        AiomysqlSubject,
        RedisSubject,
        RabbitMQSubject,
        GrpcSubject,
        SQLiteSubject,
        FunctionsSubject,
        BlockingFunctionsSubject,
    )
}
