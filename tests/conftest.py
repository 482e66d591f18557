"""Fixtures that every test may use: private, real servers."""

import logging
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from tests import summary
from tests.servers import (
    MariaDBServer,
    MariaDBTemplate,
    PostgresServer,
    PostgresTemplate,
    RabbitMQServer,
    RedisServer,
)

_database_numbers = count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ask for gRPC last: a child of a process that has opened a channel may hang, and some tests fork."""
    items.sort(key=lambda item: item.path.name == "test_grpc.py" or "[grpc" in item.name)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a worker of pytest-xdist: pass on what there is to say."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["summary"] = dict(summary.LINES)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker has ended: what it had to say is said by all of them together."""
    summary.LINES.update(getattr(node, "workeroutput", {}).get("summary", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what the tests found worth saying."""
    if summary.LINES:
        terminalreporter.section("what was covered")
        for topic, line in sorted(summary.LINES.items()):
            terminalreporter.write_line(f"{topic}: {line}")


@pytest.fixture(autouse=True)
def _logging_stays_as_it_was() -> Iterator[None]:
    """A test that leaves a logger silent makes another one fail, or pass, in the same process."""
    known = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    loggers = [logging.root, *known]  # a library that is imported only now may set its own
    before = logging.root.manager.disable, [each.level for each in loggers]
    yield
    after = logging.root.manager.disable, [each.level for each in loggers]
    assert after == before, "the test changed logging for those that follow"


@pytest.fixture(scope="session")
def postgres_template() -> Iterator[PostgresTemplate]:
    """What `initdb` makes, once a session; every server starts from a copy."""
    template = PostgresTemplate()
    yield template
    template.close()


@pytest.fixture(scope="session")
def postgres(postgres_template: PostgresTemplate) -> Iterator[PostgresServer]:
    """A running PostgreSQL for all tests that do it no harm; for the others there is the factory."""
    with PostgresServer(postgres_template) as server:
        yield server


@pytest.fixture
def postgres_database(postgres: PostgresServer) -> Iterator[str]:
    """The name of an empty database of one's own on the shared server: `postgres.dsn(database=...)`."""
    name = f"test_{next(_database_numbers)}"
    postgres.execute(f'CREATE DATABASE "{name}" OWNER "{postgres.user}"')
    yield name
    postgres.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def postgres_server_factory(
    postgres_template: PostgresTemplate,
) -> Iterator[Callable[..., PostgresServer]]:
    """Starts servers to kill, freeze and restart; all of them end with the test.

    Takes what `PostgresServer` takes after the template: `postgres_server_factory(max_connections=5)`.
    """
    started: list[PostgresServer] = []

    def start(**options: object) -> PostgresServer:
        server = PostgresServer(postgres_template, **options)  # type: ignore[arg-type]
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.close()


@pytest.fixture(scope="session")
def mariadb_template() -> Iterator[MariaDBTemplate]:
    """The system tables, once a session; every server starts from a copy."""
    template = MariaDBTemplate()
    yield template
    template.close()


@pytest.fixture(scope="session")
def mariadb(mariadb_template: MariaDBTemplate) -> Iterator[MariaDBServer]:
    """A running MariaDB for all tests that do it no harm; for the others there is the factory."""
    with MariaDBServer(mariadb_template) as server:
        yield server


@pytest.fixture
def mariadb_server_factory(mariadb_template: MariaDBTemplate) -> Iterator[Callable[..., MariaDBServer]]:
    """Starts servers to kill, freeze and restart; all of them end with the test.

    Takes what `MariaDBServer` takes after the template: `mariadb_server_factory(max_connections=10)`.
    """
    started: list[MariaDBServer] = []

    def start(**options: object) -> MariaDBServer:
        server = MariaDBServer(mariadb_template, **options)  # type: ignore[arg-type]
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.close()


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[RabbitMQServer]:
    """A running RabbitMQ for all tests that do it no harm; for the others there is the factory."""
    with RabbitMQServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A running Redis for all tests that do it no harm; for the others there is the factory."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_server_factory() -> Iterator[Callable[..., RedisServer]]:
    """Starts servers to kill, freeze and restart; all of them end with the test.

    Takes what `RedisServer` takes: `redis_server_factory(max_connections=5)`.
    """
    started: list[RedisServer] = []

    def start(**options: object) -> RedisServer:
        server = RedisServer(**options)  # type: ignore[arg-type]
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.close()
