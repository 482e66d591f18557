"""The private servers do what tests rely on: they start, die, freeze, come back, and never stay behind."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from tests.servers import PostgresServer, PostgresTemplate, ServerFailed, free_port, ports
from tests.servers.processes import Process

Factory = Callable[..., PostgresServer]

CRASHING_RUN = """
import json, os, signal
from tests.servers import PostgresServer, PostgresTemplate

template = PostgresTemplate()
server = PostgresServer(template)
server.start()
server.freeze()
print(json.dumps([server.pid, [str(template.directory), str(server.directory)]]), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


async def test_a_client_gets_in_with_the_right_password(postgres: PostgresServer) -> None:
    """The address that the fixture tells is one that works."""
    conn = await asyncpg.connect(postgres.dsn())
    try:
        answer = await conn.fetchval("SELECT current_user || '@' || current_database()")
    finally:
        await conn.close()

    assert answer == "app@app"


async def test_a_wrong_password_is_refused(postgres: PostgresServer) -> None:
    """Clients are really authenticated."""
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(postgres.dsn(password="wrong"))


async def test_an_unknown_database_is_refused(postgres: PostgresServer) -> None:
    """A database exists because somebody made it."""
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(postgres.dsn(database="nowhere"))


def test_execute_returns_rows_whatever_they_hold(postgres: PostgresServer) -> None:
    """Separators and line ends in values do not break rows apart."""
    rows = postgres.execute("VALUES ('a|b', E'two\\nlines'), ('ü', NULL)")

    assert rows == [("a|b", "two\nlines"), ("ü", "")]


def test_execute_says_what_the_server_said(postgres: PostgresServer) -> None:
    """A failed statement is an error with its reason."""
    with pytest.raises(ServerFailed, match='relation "nothing" does not exist'):
        postgres.execute("SELECT * FROM nothing")


async def test_connections_are_seen(postgres: PostgresServer, postgres_database: str) -> None:
    """Open clients are listed, the one that asks is not."""
    dsn = postgres.dsn(database=postgres_database)
    conn = await asyncpg.connect(dsn, server_settings={"application_name": "seen"})
    try:
        mine = [client for client in postgres.connections() if client.database == postgres_database]
        pid = conn.get_server_pid()
    finally:
        await conn.close()

    assert [(client.pid, client.user, client.application_name) for client in mine] == [(pid, "app", "seen")]


async def test_max_connections_is_what_an_application_may_open(postgres_server_factory: Factory) -> None:
    """The administrator's connections come on top, and work when the server is full."""
    server = postgres_server_factory(max_connections=2)
    conns = [await asyncpg.connect(server.dsn()) for _ in range(2)]
    try:
        with pytest.raises(asyncpg.TooManyConnectionsError):
            await asyncpg.connect(server.dsn())
        seen = len(server.connections())
    finally:
        for conn in conns:
            await conn.close()

    assert seen == 2


def test_settings_reach_the_server(postgres_server_factory: Factory) -> None:
    """Anything of postgresql.conf may be set."""
    server = postgres_server_factory(settings={"statement_timeout": "1234ms"})

    assert server.execute("SHOW statement_timeout") == [("1234ms",)]


async def test_kill_ends_connections_and_closes_the_port(postgres_server_factory: Factory) -> None:
    """A killed server is gone at once, with everybody who was connected."""
    server = postgres_server_factory()
    conn = await asyncpg.connect(server.dsn())
    backend, postmaster = Process.of(conn.get_server_pid()), Process.of(server.pid)

    server.kill()

    assert not backend.is_alive
    assert not postmaster.is_alive
    assert not ports.answers(server.port)
    assert ports.is_free(server.port)
    with pytest.raises((OSError, asyncpg.PostgresConnectionError)):
        await conn.fetchval("SELECT 1")
    conn.terminate()


def test_a_killed_server_comes_back_with_what_was_committed(postgres_server_factory: Factory) -> None:
    """A confirmed row survives a kill."""
    server = postgres_server_factory()
    port = server.port
    server.execute("CREATE TABLE kept (id int); INSERT INTO kept VALUES (1), (2)")

    server.kill()
    server.start()

    assert server.port == port
    assert server.execute("SELECT count(*) FROM kept") == [("2",)]


def test_a_restarted_server_keeps_port_and_data(postgres_server_factory: Factory) -> None:
    """A clean restart is the same server with another process."""
    server = postgres_server_factory()
    port, pid = server.port, server.pid
    server.execute("CREATE TABLE kept AS SELECT 7 AS n")

    server.restart()

    assert (server.port, server.pid == pid) == (port, False)
    assert server.execute("SELECT n FROM kept") == [("7",)]


async def test_a_frozen_server_answers_when_it_is_thawed(postgres_server_factory: Factory) -> None:
    """While it is frozen a query hangs and a new client is left waiting; afterwards both go through."""
    server = postgres_server_factory()
    conn = await asyncpg.connect(server.dsn())
    server.freeze()
    query = asyncio.create_task(conn.fetchval("SELECT 42"))
    newcomer = asyncio.create_task(asyncpg.connect(server.dsn()))

    answered, _ = await asyncio.wait({query, newcomer}, timeout=0.5)
    is_open = ports.answers(server.port)
    server.thaw()
    answer = await asyncio.wait_for(query, 10)
    late = await asyncio.wait_for(newcomer, 10)

    assert answered == set()
    assert is_open
    assert answer == 42
    await late.close()
    await conn.close()


def test_a_frozen_server_can_be_killed_and_stopped(postgres_server_factory: Factory) -> None:
    """No state of a server is a trap."""
    server = postgres_server_factory()
    server.freeze()
    server.kill()
    killed = not ports.answers(server.port)
    server.start()
    server.freeze()
    server.stop()

    assert killed
    assert not ports.answers(server.port)


def test_a_server_that_cannot_start_shows_its_log(postgres_template: PostgresTemplate) -> None:
    """The reason stands in the error, not in a file that is gone."""
    server = PostgresServer(postgres_template, settings={"no_such_setting": "1"})
    with pytest.raises(ServerFailed, match="no_such_setting"):
        server.start()
    server.close()

    assert not server.directory.exists()


def test_what_a_killed_test_run_leaves_is_ended() -> None:
    """Even a frozen server ends, and its files go, when the run that started it dies without a word."""
    root = Path(__file__).resolve().parents[1]
    run = subprocess.run(
        [sys.executable, "-c", CRASHING_RUN],
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=150,
    )
    pid, directories = json.loads(run.stdout)

    def left() -> list[str]:
        return [path for path in (f"/proc/{pid}", *directories) if Path(path).exists()]

    deadline = time.monotonic() + 10
    while left() and time.monotonic() < deadline:
        time.sleep(0.02)

    assert run.returncode == -signal.SIGKILL
    assert left() == []


def test_ports_are_handed_out_once() -> None:
    """Two servers that have not started yet do not get the same port."""
    numbers = [free_port() for _ in range(50)]

    assert len(set(numbers)) == 50
