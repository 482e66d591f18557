"""Servers that may be harmed: one a kind, started once, and made good after each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from line_server import LineServer

from tests.drivers.backends import make_file
from tests.faults.subjects import MOST_CONNECTIONS, SUBJECTS, Subject
from tests.servers import (
    MariaDBServer,
    MariaDBTemplate,
    PostgresServer,
    PostgresTemplate,
    RabbitMQServer,
    RedisServer,
)
from tests.servers.grpc_server import GrpcServer


@pytest.fixture(scope="session")
def harmed_postgres(postgres_template: PostgresTemplate) -> Iterator[PostgresServer]:
    """PostgreSQL with a table to write to."""
    with PostgresServer(postgres_template, max_connections=MOST_CONNECTIONS) as server:
        server.execute("CREATE TABLE notes (body text); GRANT ALL ON notes TO app")
        yield server


@pytest.fixture(scope="session")
def harmed_mariadb(mariadb_template: MariaDBTemplate) -> Iterator[MariaDBServer]:
    """MariaDB; each test makes a database of its own."""
    with MariaDBServer(mariadb_template, max_connections=MOST_CONNECTIONS) as server:
        yield server


@pytest.fixture(scope="session")
def harmed_redis() -> Iterator[RedisServer]:
    """Redis; each test has keys of its own."""
    with RedisServer(max_connections=MOST_CONNECTIONS) as server:
        yield server


@pytest.fixture(scope="session")
def harmed_rabbitmq() -> Iterator[RabbitMQServer]:
    """RabbitMQ; each test has queues of its own."""
    with RabbitMQServer() as server:
        yield server


@pytest.fixture(scope="session")
def harmed_grpc() -> Iterator[GrpcServer]:
    """A gRPC server without a limit of calls."""
    with GrpcServer() as server:
        yield server


@pytest.fixture(scope="session")
def calm_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with a table to write to."""
    path = tmp_path_factory.mktemp("calm") / "notes.db"
    make_file(path)
    return path


@pytest.fixture(scope="session")
def calm_lines() -> Iterator[LineServer]:
    """What the functions connect to."""
    with LineServer() as server:
        yield server


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for `subject` on every backend to which its marker `needs` applies."""
    if "subject" in metafunc.fixturenames:
        needs = [name for marker in metafunc.definition.iter_markers("needs") for name in marker.args]
        fit = [name for name, kind in SUBJECTS.items() if all(getattr(kind, need) for need in needs)]
        metafunc.parametrize("subject", fit, indirect=True)


@pytest.fixture
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """A backend, each in turn, on its server that may be harmed."""
    kind = SUBJECTS[request.param]
    server = request.getfixturevalue(kind.fixture)
    found: Subject = kind(server)
    yield found
    if not kind.is_mortal:
        return
    if server.is_running:
        server.thaw()
    else:
        server.start()
    found.tidy()
