"""A pool that is meant for a primary notices when its node is none any more."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from millpond.driver import Verdict
from millpond.drivers import Unfit
from tests.drivers.backends import MySQL
from tests.servers import MariaDBServer, MariaDBTemplate

Opened = Callable[[Any], Awaitable[Any]]


@pytest.fixture(scope="module")
def demotable_server(mariadb_template: MariaDBTemplate) -> Iterator[MariaDBServer]:
    """A primary that may be made read-only."""
    with MariaDBServer(mariadb_template, settings={"secure-file-priv": "/proc"}) as server:
        yield server


@pytest.fixture
def demotable(demotable_server: MariaDBServer, mysql: MySQL) -> Iterator[MySQL]:
    """A backend on it, with each library in turn; afterwards the node is a primary again."""
    demotable_server.execute("SET GLOBAL read_only = 0")
    yield MySQL(demotable_server, mysql.library)
    demotable_server.execute("SET GLOBAL read_only = 0")


def demote(backend: MySQL) -> None:
    backend.server.execute("SET GLOBAL read_only = 1")


async def refused_write(backend: MySQL, conn: Any) -> Exception:
    """The error that a write ends with."""
    with pytest.raises(conn.Error, match=r"read-only|READ ONLY") as caught:
        await backend.query(conn, f"INSERT INTO {backend.table} VALUES ('lost')")
    return caught.value


async def test_a_read_only_node_is_refused_and_the_message_says_what_to_do(demotable: MySQL) -> None:
    """A fresh connection to the wrong node is a failed attempt, which another one may heal."""
    driver = demotable.driver()
    demote(demotable)

    with pytest.raises(Unfit, match=r"is read-only.* session to 'any'") as caught:
        await driver.connect()

    assert not driver.is_permanent(caught.value)
    await demotable.gone()


async def test_a_replica_serves_whoever_takes_what_there_is(demotable: MySQL, opened: Opened) -> None:
    """A pool of replicas connects, pings, and resets; a refused write says nothing about the node."""
    driver = demotable.driver(session="any")
    demote(demotable)
    conn = await opened(driver)
    await driver.ping(conn)

    error = await refused_write(demotable, conn)
    verdict = driver.after_lease(conn, error)
    await driver.reset(conn)

    assert verdict is Verdict.RESET
    assert await demotable.ask(conn, 1) == 1


async def test_a_write_refused_by_a_demoted_node_condemns_all(demotable: MySQL, opened: Opened) -> None:
    """Every other connection of the pool leads to the same node; seen through wrapping, too."""
    driver = demotable.driver()
    conn = await opened(driver)
    demote(demotable)

    error = await refused_write(demotable, conn)
    caused = RuntimeError("could not save")
    caused.__cause__ = error
    grouped = BaseExceptionGroup("tasks", [ValueError(), ExceptionGroup("inner", [caused])])

    for each in (error, caused, grouped):
        assert driver.after_lease(conn, each) is Verdict.DISCARD_ALL


async def test_a_demoted_node_fails_the_ping(demotable: MySQL, opened: Opened) -> None:
    """Also where nobody writes at the moment."""
    driver = demotable.driver()
    conn = await opened(driver)
    await driver.ping(conn)

    demote(demotable)

    with pytest.raises(Unfit, match="is read-only"):
        await driver.ping(conn)


@pytest.mark.parametrize("how", ["START TRANSACTION READ ONLY", "SET SESSION TRANSACTION READ ONLY"])
async def test_a_borrowers_own_read_only_transaction_costs_one_connection(
    mysql: MySQL, opened: Opened, how: str
) -> None:
    """A mistake in one handler must not empty a healthy pool; a new connection asks the node."""
    driver = mysql.driver()
    conn = await opened(driver)
    await mysql.query(conn, how)

    error = await refused_write(mysql, conn)

    assert error.args[0] == 1792
    assert driver.after_lease(conn, error) is Verdict.DISCARD
    assert mysql.driver(session="any").after_lease(conn, error) is Verdict.RESET


async def test_another_option_that_prevents_a_statement_condemns_nothing(
    demotable: MySQL, opened: Opened
) -> None:
    """The number of the error is the same, and only its words tell."""
    demotable.server.execute(f"GRANT FILE ON *.* TO {demotable.user}@127.0.0.1")
    driver = demotable.driver()
    conn = await opened(driver)

    with pytest.raises(conn.Error, match="secure-file-priv") as caught:
        await demotable.query(conn, "SELECT 1 INTO OUTFILE '/elsewhere/file'")

    assert caught.value.args[0] == 1290
    assert driver.after_lease(conn, caught.value) is Verdict.RESET
