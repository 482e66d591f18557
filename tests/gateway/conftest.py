"""Databases and services for the gateway's tests."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.gateway.backends import Postgres, Sqlite
from tests.servers import PostgresServer

_numbers = count(1)


@pytest.fixture(scope="module")
def sqlite_backend(tmp_path_factory: pytest.TempPathFactory) -> Sqlite:
    """A SQLite file for the tests of one module."""
    return Sqlite(tmp_path_factory.mktemp("sqlite") / "events.db")


@pytest.fixture(scope="module")
def postgres_backend(postgres: PostgresServer) -> Iterator[Postgres]:
    """A database on the shared server for the tests of one module."""
    name = f"gateway_{next(_numbers)}"
    postgres.execute(f'CREATE DATABASE "{name}" OWNER "{postgres.user}"')
    yield Postgres(postgres, name)
    postgres.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> Sqlite | Postgres:
    """Each of the databases in turn."""
    found: Sqlite | Postgres = request.getfixturevalue(
        "sqlite_backend" if request.param == "sqlite" else "postgres_backend"
    )
    return found


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A directory for a service's files."""
    return tmp_path / "service"
