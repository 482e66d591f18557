"""Fixtures of the driver tests: each backend, and connections that are gone at the end."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from millpond import ConnectionPool, PoolSettings
from tests.drivers.backends import Backend, MySQL, PostgreSQL, Psycopg, SQLite, make_file
from tests.drivers.rabbitmq_backend import RabbitMQ
from tests.drivers.redis_backend import Redis
from tests.servers import MariaDBServer, PostgresServer, RabbitMQServer, RedisServer

Pools = Callable[..., Any]


@pytest.fixture(scope="session")
def drivers_database(postgres: PostgresServer) -> str:
    """One database for all driver tests: making one for each takes longer than most of the tests."""
    postgres.execute(f"CREATE DATABASE drivers OWNER {postgres.user}")
    return "drivers"


@pytest.fixture
def postgresql(postgres: PostgresServer, drivers_database: str) -> PostgreSQL:
    """PostgreSQL with nothing but a table to write to, spoken to with asyncpg."""
    return emptied(PostgreSQL(postgres, drivers_database))


@pytest.fixture
def psycopg(postgres: PostgresServer, drivers_database: str) -> Psycopg:
    """The same, spoken to with psycopg."""
    return emptied(Psycopg(postgres, drivers_database))


@pytest.fixture(params=["postgresql", "psycopg"])
def either(request: pytest.FixtureRequest) -> PostgreSQL:
    """PostgreSQL with each library in turn."""
    found: PostgreSQL = request.getfixturevalue(request.param)
    return found


def emptied(backend: PostgreSQL) -> Any:
    """The backend, with nothing but a table to write to."""
    postgres = backend.server
    postgres.execute(
        "SET client_min_messages = warning; DROP SCHEMA public CASCADE; CREATE SCHEMA public;"
        f"GRANT ALL ON SCHEMA public TO {postgres.user};"
        f"CREATE TABLE {backend.table} (body text); GRANT ALL ON {backend.table} TO {postgres.user};",
        database=backend.database,
    )
    return backend


@pytest.fixture
def sqlite(tmp_path: Path) -> SQLite:
    """SQLite with a table to write to."""
    make_file(tmp_path / "notes.db")
    return SQLite(tmp_path / "notes.db")


@pytest.fixture
def asyncmy(mariadb: MariaDBServer) -> MySQL:
    """MariaDB, spoken to with asyncmy."""
    return MySQL(mariadb, "asyncmy")


@pytest.fixture
def aiomysql(mariadb: MariaDBServer) -> MySQL:
    """MariaDB, spoken to with aiomysql."""
    return MySQL(mariadb, "aiomysql")


@pytest.fixture(params=["asyncmy", "aiomysql"])
def mysql(request: pytest.FixtureRequest) -> MySQL:
    """MariaDB with each library in turn."""
    found: MySQL = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def redis(redis_server: RedisServer) -> Redis:
    """Redis with keys of this test's own."""
    return Redis(redis_server)


@pytest.fixture
def rabbitmq(rabbitmq_server: RabbitMQServer) -> Iterator[RabbitMQ]:
    """RabbitMQ with queues of this test's own."""
    backend = RabbitMQ(rabbitmq_server)
    yield backend
    backend.tidy()


SQL = ["postgresql", "psycopg", "sqlite", "asyncmy", "aiomysql"]


@pytest.fixture(params=SQL)
def sql(request: pytest.FixtureRequest) -> Backend:
    """Each backend that speaks SQL in turn."""
    found: Backend = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["postgresql", "psycopg", "asyncmy", "aiomysql", "redis", "rabbitmq"])
def server_backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend that is a server, in turn."""
    found: Backend = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=[*SQL, "redis", "rabbitmq"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend in turn."""
    found: Backend = request.getfixturevalue(request.param)
    return found


@pytest.fixture
async def opened() -> AsyncIterator[Callable[[Any], Awaitable[Any]]]:
    """Opens a connection of a driver; all of them are terminated at the end."""
    connections: list[tuple[Any, Any]] = []

    async def open_one(driver: Any) -> Any:
        conn = await driver.connect()
        connections.append((driver, conn))
        return conn

    yield open_one
    for driver, conn in connections:
        driver.terminate(conn)
    connections.clear()


@pytest.fixture
async def pools() -> AsyncIterator[Pools]:
    """Makes pools of a driver; all of them are closed at the end, and quickly."""
    made: list[Any] = []

    def make(driver: Any, **settings: Any) -> Any:
        defaults = {
            "min_size": 0,
            "max_size": 4,
            "acquire_timeout": 5.0,
            "retry_delay": 0.02,
            "recovery_timeout": 0.1,
        }
        pool = ConnectionPool(driver, settings=PoolSettings(**{**defaults, **settings}), name="tested")
        made.append(pool)
        return pool

    yield make
    for pool in made:
        await pool.close(timeout=1.0)
