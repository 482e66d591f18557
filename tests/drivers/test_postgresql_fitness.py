"""A pool that is meant for a primary notices when its node is none any more."""

import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from millpond.driver import Verdict
from millpond.drivers import Unfit
from tests.drivers.backends import PostgreSQL
from tests.servers import PostgresServer, PostgresTemplate

Opened = Callable[[Any], Awaitable[Any]]


class Standby(PostgresServer):
    """A hot standby, made of the data of a primary that has been stopped."""

    primary: PostgresServer

    def prepare(self) -> None:
        subprocess.run(["cp", "-a", str(self.primary.data), str(self.data)], check=True)
        signal = self.data / "standby.signal"
        signal.touch()
        shutil.copymode(self.data / "PG_VERSION", signal)
        owner = self.data.stat()
        shutil.chown(signal, owner.st_uid, owner.st_gid)

    def is_ready(self) -> bool:
        """Also when it is open for reading only."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() in ("ready", "standby")


@pytest.fixture(scope="module")
def standby_server(postgres_template: PostgresTemplate) -> Iterator[PostgresServer]:
    """A real hot standby."""
    with PostgresServer(postgres_template) as primary:
        primary.stop()
        server = Standby(postgres_template)
        server.primary = primary
        with server:
            yield server


@pytest.fixture
def standby(standby_server: PostgresServer, either: PostgreSQL) -> PostgreSQL:
    """A backend that is a standby, with each library in turn."""
    return type(either)(standby_server, "app")


@pytest.fixture
def demotable(postgres_server_factory: Callable[..., PostgresServer], either: PostgreSQL) -> PostgreSQL:
    """A primary that may be made read-only, with each library in turn."""
    backend = type(either)(postgres_server_factory(), "app")
    backend.server.execute(f"CREATE TABLE {backend.table} (body text); GRANT ALL ON {backend.table} TO app")
    return backend


async def demote(backend: PostgreSQL, conn: Any) -> None:
    """Make the node read-only, and return when this session has heard of it."""
    backend.demote()
    while await backend.value(conn, "SHOW default_transaction_read_only") != "on":
        pass


async def refused_write(backend: PostgreSQL, conn: Any) -> Exception:
    """The error that a write ends with."""
    with pytest.raises(backend.errors, match="read-only") as caught:
        await backend.run(conn, f"INSERT INTO {backend.table} VALUES ('lost')")
    return caught.value


async def test_a_standby_is_refused_and_the_message_says_what_to_do(standby: PostgreSQL) -> None:
    """A fresh connection to the wrong node is a failed attempt, which another one may heal."""
    driver = standby.driver()

    with pytest.raises(Unfit, match=r"is a standby.* session to 'any'") as caught:
        await driver.connect()

    assert not driver.is_permanent(caught.value)
    await standby.gone()


async def test_a_standby_serves_whoever_takes_what_there_is(standby: PostgreSQL, opened: Opened) -> None:
    """A pool of replicas connects, pings, and resets; a refused write says nothing about the node."""
    driver = standby.driver(session="any")
    conn = await opened(driver)
    await driver.ping(conn)

    with pytest.raises(standby.errors, match="read-only") as caught:
        await standby.run(conn, "CREATE TABLE x ()")
    verdict = driver.after_lease(conn, caught.value)
    await driver.reset(conn)

    assert verdict is Verdict.RESET
    assert await standby.ask(conn, 1) == 1


async def test_a_write_refused_by_a_demoted_node_condemns_all(demotable: PostgreSQL, opened: Opened) -> None:
    """Every other connection of the pool leads to the same node."""
    driver = demotable.driver()
    conn = await opened(driver)
    await demote(demotable, conn)

    error = await refused_write(demotable, conn)

    assert driver.after_lease(conn, error) is Verdict.DISCARD_ALL
    assert demotable.driver(session="any").after_lease(conn, error) is Verdict.RESET


async def test_the_first_write_after_a_demotion_tells(demotable: PostgreSQL, opened: Opened) -> None:
    """The server reports its new state together with the refusal, before anybody asks."""
    driver = demotable.driver()
    conn, other = await opened(driver), await opened(driver)
    await demote(demotable, other)

    while True:  # each session hears of it in its own time
        try:
            await demotable.run(conn, f"INSERT INTO {demotable.table} VALUES ('still a primary')")
        except demotable.errors as error:
            refusal = error
            break

    assert driver.after_lease(conn, refusal) is Verdict.DISCARD_ALL


async def test_a_demotion_is_seen_through_wrapping(demotable: PostgreSQL, opened: Opened) -> None:
    """Libraries in between raise errors of their own, and task groups raise groups."""
    driver = demotable.driver()
    conn = await opened(driver)
    await demote(demotable, conn)
    refusal = await refused_write(demotable, conn)

    caused = RuntimeError("could not save")
    caused.__cause__ = refusal
    in_context = KeyError("id")
    in_context.__context__ = caused
    grouped = BaseExceptionGroup("tasks", [ValueError(), ExceptionGroup("inner", [in_context])])
    around = RuntimeError("round")
    around.__cause__ = around.__context__ = around

    assert all(
        driver.after_lease(conn, error) is Verdict.DISCARD_ALL for error in (caused, in_context, grouped)
    )
    assert driver.after_lease(conn, around) is Verdict.RESET


async def test_a_demoted_node_fails_the_ping(demotable: PostgreSQL, opened: Opened) -> None:
    """Also where nobody writes at the moment."""
    driver = demotable.driver()
    conn = await opened(driver)
    await driver.ping(conn)

    await demote(demotable, conn)

    with pytest.raises(Unfit, match="is read-only"):
        await driver.ping(conn)
    with pytest.raises(Unfit, match="is read-only"):
        await driver.connect()


async def test_a_borrowers_own_read_only_transaction_condemns_nothing(
    either: PostgreSQL, opened: Opened
) -> None:
    """A mistake in one handler must not empty the pool of a healthy primary each time."""
    driver = either.driver()
    conn = await opened(driver)

    async def write() -> None:
        async with conn.transaction():
            await either.run(conn, "SET TRANSACTION READ ONLY")
            await either.run(conn, f"INSERT INTO {either.table} VALUES ('mistake')")

    with pytest.raises(either.errors, match="read-only") as caught:
        await write()

    assert driver.after_lease(conn, caught.value) is Verdict.RESET


async def test_a_ping_costs_no_prepared_statement_where_there_are_none(
    either: PostgreSQL, opened: Opened
) -> None:
    """Behind a pooler that knows no prepared statements, the ping works all the same."""
    driver = either.driver(statement_cache_size=0)
    conn = await opened(driver)

    for _ in range(10):
        await driver.ping(conn)
        await either.ask(conn, 1)

    assert await either.value(conn, "SELECT count(*) FROM pg_prepared_statements WHERE name <> ''") == 0
