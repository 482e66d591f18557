"""Fixtures of the driver tests: each backend, and connections that are gone at the end."""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.drivers.backends import Backend, PostgreSQL, SQLite
from tests.servers import PostgresServer


@pytest.fixture(scope="session")
def drivers_database(postgres: PostgresServer) -> str:
    """One database for all driver tests: making one for each takes longer than most of the tests."""
    postgres.execute(f"CREATE DATABASE drivers OWNER {postgres.user}")
    return "drivers"


@pytest.fixture
def postgresql(postgres: PostgresServer, drivers_database: str) -> PostgreSQL:
    """PostgreSQL with nothing but a table to write to."""
    backend = PostgreSQL(postgres, drivers_database)
    postgres.execute(
        "SET client_min_messages = warning; DROP SCHEMA public CASCADE; CREATE SCHEMA public;"
        f"GRANT ALL ON SCHEMA public TO {postgres.user};"
        f"CREATE TABLE {backend.table} (body text); GRANT ALL ON {backend.table} TO {postgres.user};",
        database=drivers_database,
    )
    return backend


@pytest.fixture
def sqlite(tmp_path: Path) -> SQLite:
    """SQLite with a table to write to."""
    backend = SQLite(tmp_path / "notes.db")
    file = sqlite3.connect(backend.path)
    file.execute(f"CREATE TABLE {backend.table} (body text)")
    file.close()
    return backend


@pytest.fixture(params=["postgresql", "sqlite"])
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
