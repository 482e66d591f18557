"""Fixtures that every test may use: private, real servers."""

from collections.abc import Callable, Iterator
from itertools import count

import pytest

from tests.servers import PostgresServer, PostgresTemplate

_database_numbers = count(1)


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
