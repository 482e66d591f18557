"""Databases and services for the gateway's tests."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import httpx2
import pytest

from tests.gateway.backends import Database, MariaDB, Postgres, Sqlite
from tests.gateway.service import Service
from tests.gateway.traffic import client_of
from tests.servers import MariaDBServer, PostgresServer

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


@pytest.fixture(scope="module")
def mariadb_backend(mariadb: MariaDBServer) -> MariaDB:
    """A database on the shared server for the tests of one module."""
    name = f"gateway_{next(_numbers)}"
    mariadb.execute(f"CREATE DATABASE {name}; GRANT ALL ON {name}.* TO {mariadb.user}@127.0.0.1")
    return MariaDB(mariadb, name)


@pytest.fixture(scope="module", params=["sqlite", "postgres", "mariadb"])
def backend(request: pytest.FixtureRequest) -> Database:
    """Each of the databases in turn."""
    found: Database = request.getfixturevalue(f"{request.param}_backend")
    return found


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A directory for a service's files."""
    return tmp_path / "service"


@pytest.fixture
def client(service: Service) -> Iterator[httpx2.Client]:
    """A client of the module's own `service`."""
    with client_of(service.url) as opened:
        yield opened
