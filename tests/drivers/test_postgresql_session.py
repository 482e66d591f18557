"""What a PostgreSQL session looks like to its next borrower."""

import asyncio
from collections.abc import Awaitable, Callable
from io import BytesIO
from typing import Any, NamedTuple

import asyncpg
import pytest

from millpond.driver import Verdict
from millpond.drivers._postgresql_session import CLEAN_SESSION, DEALLOCATE_PREPARED
from tests.drivers.backends import PostgreSQL, until

Opened = Callable[[Any], Awaitable[Any]]


class Leak(NamedTuple):
    """Something a borrower does, and a question that finds it out."""

    deed: str
    question: str


LEAKS = {
    "setting": Leak("SET search_path = elsewhere", "SHOW search_path"),
    "planner setting": Leak("SET enable_seqscan = off", "SHOW enable_seqscan"),
    "statement timeout": Leak("SET statement_timeout = 0", "SHOW statement_timeout"),
    "configured setting": Leak("SET work_mem = '9MB'", "SHOW work_mem"),
    "read only": Leak(
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "SHOW default_transaction_read_only"
    ),
    "role": Leak("SET ROLE pg_read_all_data", "SELECT current_user"),
    "authorization": Leak("SET SESSION AUTHORIZATION app", "SELECT session_user"),
    "temporary table": Leak("CREATE TEMP TABLE scratch (x int)", "SELECT to_regclass('pg_temp.scratch')"),
    "advisory lock": Leak(
        "SELECT pg_advisory_lock(7)",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    ),
    "listen": Leak("LISTEN news", "SELECT count(*) FROM pg_listening_channels()"),
    "cursor": Leak(
        "DECLARE held CURSOR WITH HOLD FOR SELECT 1", "SELECT count(*) FROM pg_cursors WHERE name = 'held'"
    ),
    "prepared statement": Leak(
        'PREPARE "it\'s" AS SELECT 1', "SELECT count(*) FROM pg_prepared_statements WHERE from_sql"
    ),
}


@pytest.mark.parametrize("name", LEAKS)
async def test_a_full_reset_leaves_nothing_of_the_last_borrower(
    either: PostgreSQL, opened: Opened, name: str
) -> None:
    """The next borrower finds the session as it was after connecting."""
    leak = LEAKS[name]
    driver = either.administrator(statement_timeout=20.0, server_settings={"work_mem": "5MB"})
    conn = await opened(driver)
    before = await either.value(conn, leak.question)

    await either.run(conn, leak.deed)
    meanwhile = await either.value(conn, leak.question)
    await driver.reset(conn)

    assert meanwhile != before
    assert await either.value(conn, leak.question) == before


async def test_a_full_reset_forgets_the_last_value_of_a_sequence(either: PostgreSQL, opened: Opened) -> None:
    """lastval() would tell the next borrower which row the last one wrote."""
    driver = either.driver()
    conn = await opened(driver)
    await either.run(conn, "CREATE TEMP SEQUENCE numbers; SELECT nextval('numbers')")

    await driver.reset(conn)

    with pytest.raises(either.errors, match="not yet defined"):
        await either.value(conn, "SELECT lastval()")


async def test_a_full_reset_comes_back_to_the_configured_role(either: PostgreSQL, opened: Opened) -> None:
    """A role from the configuration is part of the clean session."""
    driver = either.administrator(server_settings={"role": "app"})
    conn = await opened(driver)

    await either.run(conn, "RESET SESSION AUTHORIZATION; SET ROLE pg_read_all_data")
    await driver.reset(conn)

    assert await either.value(conn, "SELECT current_user") == "app"


async def test_a_full_reset_forgets_how_statements_were_understood(
    either: PostgreSQL, opened: Opened
) -> None:
    """A date in the text of a kept statement or function was read in the last borrower's time zone."""
    driver = either.driver()
    conn, fresh = await opened(driver), await opened(driver)
    await either.run(
        conn,
        "CREATE FUNCTION midnight() RETURNS bigint LANGUAGE plpgsql AS"
        " $$ BEGIN RETURN extract(epoch FROM timestamptz '2020-01-01 00:00'); END $$",
    )

    await either.run(conn, "SET TIME ZONE 'Pacific/Kiritimati'")
    meanwhile = await either.value(conn, "SELECT midnight()")
    await driver.reset(conn)
    afterwards = await either.value(conn, "SELECT midnight()")

    assert meanwhile != afterwards
    assert afterwards == await either.value(fresh, "SELECT midnight()")


@pytest.mark.parametrize(
    ("deed", "last"), [("SELECT 1", CLEAN_SESSION), ("PREPARE one AS SELECT 1", DEALLOCATE_PREPARED)]
)
async def test_a_full_reset_is_one_round_trip_unless_sql_has_prepared_something(
    either: PostgreSQL, opened: Opened, deed: str, last: str
) -> None:
    """Deallocating what is not there would take the server as long as all the rest."""
    driver = either.driver()
    conn = await opened(driver)

    await either.run(conn, deed)
    await driver.reset(conn)

    (client,) = await either.clients()
    assert client.query == last


async def test_a_full_reset_keeps_what_asyncpg_has_prepared(postgresql: PostgreSQL, opened: Opened) -> None:
    """Preparing every statement again after each lease would cost more than the lease."""
    driver = postgresql.driver()
    conn = await opened(driver)
    prepared = "SELECT name FROM pg_prepared_statements WHERE statement = 'SELECT $1::int' AND NOT from_sql"
    await postgresql.ask(conn, 1)
    before = await conn.fetchval(prepared)

    await driver.reset(conn)
    await postgresql.ask(conn, 2)

    assert before is not None
    assert await conn.fetchval(prepared) == before


async def test_a_full_reset_removes_listeners(postgresql: PostgreSQL, opened: Opened) -> None:
    """The last borrower hears nothing more, also when the next one listens to the same channel."""
    driver = postgresql.driver()
    conn = await opened(driver)
    heard: list[str] = []
    heard_by_next: asyncio.Queue[str] = asyncio.Queue()
    await conn.add_listener("news", lambda *news: heard.append(news[-1]))

    await driver.reset(conn)
    await conn.add_listener("news", lambda *news: heard_by_next.put_nowait(news[-1]))
    await conn.execute("NOTIFY news, 'one'")
    news = await asyncio.wait_for(heard_by_next.get(), 5.0)

    assert news == "one"
    assert heard == []


async def test_the_rollback_level_keeps_settings(either: PostgreSQL, opened: Opened) -> None:
    """Who chooses it is told so: it ends transactions and nothing else."""
    driver = either.at_level("rollback")
    conn = await opened(driver)
    await either.run(conn, "SET work_mem = '9MB'")
    await either.begin(conn)

    await driver.reset(conn)

    assert await either.value(conn, "SHOW work_mem") == "9MB"
    assert not either.is_in_transaction(conn)


async def test_the_rollback_level_sends_nothing_when_there_is_nothing_to_do(
    either: PostgreSQL, opened: Opened
) -> None:
    """A clean session goes straight to the next borrower."""
    driver = either.at_level("rollback")
    conn = await opened(driver)

    async with conn.transaction():
        await either.run(conn, f"INSERT INTO {either.table} VALUES ('kept')")

    assert driver.after_lease(conn, None) is Verdict.KEEP


@pytest.mark.parametrize("level", ["rollback", "full"])
async def test_a_failed_transaction_is_rolled_back(either: PostgreSQL, opened: Opened, level: Any) -> None:
    """PostgreSQL refuses everything but a rollback then."""
    driver = either.at_level(level)
    conn = await opened(driver)
    await either.begin(conn)

    with pytest.raises(either.errors, match="does not exist") as caught:
        await either.fail(conn)
    verdict = driver.after_lease(conn, caught.value)
    await driver.reset(conn)

    assert verdict is Verdict.RESET
    assert await either.rows(conn) == 0


@pytest.mark.parametrize("level", ["rollback", "full"])
async def test_a_transaction_that_asyncpg_only_believes_in_is_forgotten(
    postgresql: PostgreSQL, opened: Opened, level: Any
) -> None:
    """Or the next borrower's transaction would be a savepoint in none."""
    driver = postgresql.at_level(level)
    conn = await opened(driver)
    await conn.transaction().start()
    await conn.execute("COMMIT")

    verdict = driver.after_lease(conn, None)
    await driver.reset(conn)
    transaction = conn.transaction()
    await transaction.start()
    await conn.execute(f"INSERT INTO {postgresql.table} VALUES ('next')")
    await transaction.rollback()

    assert verdict is Verdict.RESET
    assert await postgresql.rows(conn) == 0


async def test_what_the_last_borrower_still_holds_is_refused(postgresql: PostgreSQL, opened: Opened) -> None:
    """Its transaction object must not end the next borrower's transaction."""
    driver = postgresql.driver()
    conn = await opened(driver)
    stale = conn.transaction()
    await stale.start()
    await driver.reset(conn)

    await postgresql.begin(conn)

    with pytest.raises(asyncpg.InterfaceError):
        await stale.rollback()
    assert conn.is_in_transaction()


@pytest.mark.parametrize("level", ["rollback", "full"])
async def test_a_statement_that_timed_out_is_waited_for(
    postgresql: PostgreSQL, opened: Opened, level: Any
) -> None:
    """Asyncpg's own timeout leaves a query to be cancelled, as a cancellation does."""
    driver = postgresql.at_level(level)
    conn = await opened(driver)

    with pytest.raises(TimeoutError) as caught:
        await conn.fetchval("SELECT pg_sleep(30)", timeout=0.05)
    verdict = driver.after_lease(conn, caught.value)
    await asyncio.wait_for(driver.reset(conn), 5.0)

    assert verdict is Verdict.RESET
    assert await postgresql.ask(conn, 5) == 5


@pytest.mark.parametrize("rows", [1, 500_000])
@pytest.mark.parametrize("ending", [OSError, asyncio.CancelledError], ids=["failed", "cancelled"])
@pytest.mark.parametrize("level", ["none", "rollback", "full"])
async def test_a_copy_whose_taker_failed_costs_the_connection(
    postgresql: PostgreSQL, opened: Opened, level: Any, ending: Any, rows: int
) -> None:
    """After the last row asyncpg would wait for ever for an answer that it has had."""
    driver = postgresql.at_level(level)
    conn = await opened(driver)

    async def take(_: bytes) -> None:
        raise ending

    with pytest.raises(ending) as caught:
        await conn.copy_from_query(f"SELECT generate_series(1, {rows})", output=take)
    verdict = driver.after_lease(conn, caught.value)

    assert verdict is Verdict.DISCARD
    with pytest.raises(asyncpg.InterfaceError, match="given up in the middle"):
        await asyncio.wait_for(driver.reset(conn), 5.0)


async def test_a_copy_that_the_server_refuses_costs_nothing(postgresql: PostgreSQL, opened: Opened) -> None:
    """Its error is an answer like any other."""
    driver = postgresql.driver()
    conn = await opened(driver)
    taken = BytesIO()
    await conn.copy_from_query("SELECT 7", output=taken)

    with pytest.raises(asyncpg.UndefinedTableError) as caught:
        await conn.copy_from_table("nowhere", output=BytesIO())

    assert taken.getvalue() == b"7\n"
    assert driver.after_lease(conn, caught.value) is Verdict.RESET
    await driver.reset(conn)


async def test_the_servers_statement_timeout_holds(either: PostgreSQL, opened: Opened) -> None:
    """The server ends a statement by itself; the connection lives."""
    driver = either.driver(statement_timeout=0.05)
    conn = await opened(driver)

    with pytest.raises(either.errors, match="statement timeout") as caught:
        await either.run(conn, "SELECT pg_sleep(30)")

    assert driver.after_lease(conn, caught.value) is Verdict.RESET


async def test_a_session_killed_while_idle_is_known_to_be_gone(either: PostgreSQL, opened: Opened) -> None:
    """Without any traffic: asyncpg hears the server hang up, for psycopg the kernel is asked."""
    driver = either.driver()
    conn = await opened(driver)

    await either.end(conn)

    async def is_closed() -> bool:
        return driver.is_closed(conn)

    await until(is_closed)
    assert driver.after_lease(conn, None) is Verdict.DISCARD


async def test_a_session_killed_in_the_middle_of_a_statement_is_discarded(
    either: PostgreSQL, opened: Opened
) -> None:
    """The borrower gets the error, the pool gets rid of the connection."""
    driver = either.driver()
    conn = await opened(driver)
    task = await either.start_slow(conn)

    await either.end(conn)
    (error,) = await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 5.0)

    assert isinstance(error, either.errors)
    assert driver.after_lease(conn, error) is Verdict.DISCARD


@pytest.mark.parametrize(
    ("timeout", "is_in_transaction"),
    [("idle_session_timeout", False), ("idle_in_transaction_session_timeout", True)],
    ids=["57P05", "25P03"],
)
async def test_a_session_that_was_idle_for_too_long_is_discarded(
    either: PostgreSQL, opened: Opened, timeout: str, is_in_transaction: bool
) -> None:
    """The server ends it with an error of its own, which nobody has asked for."""
    driver = either.driver(server_settings={timeout: "20ms"})
    conn = await opened(driver)
    if is_in_transaction:
        await either.run(conn, "BEGIN")

    async def is_closed() -> bool:
        return driver.is_closed(conn)

    await until(is_closed)
    with pytest.raises((OSError, *either.errors)) as caught:
        await either.ask(conn, 1)

    assert driver.after_lease(conn, caught.value) is Verdict.DISCARD


@pytest.mark.parametrize("code", ["08006", "57P01", "57P05", "25P03"])
async def test_an_error_that_says_the_connection_is_gone_is_believed(
    either: PostgreSQL, opened: Opened, code: str
) -> None:
    """Whatever the library has noticed so far; a proxy between may say it for the server."""
    driver = either.driver()
    conn = await opened(driver)

    with pytest.raises(either.errors) as caught:
        await either.run(conn, f"DO $$ BEGIN RAISE 'gone' USING ERRCODE = '{code}'; END $$")

    assert not driver.is_closed(conn)
    assert driver.after_lease(conn, caught.value) is Verdict.DISCARD


@pytest.mark.parametrize("code", ["57014", "40001", "40P01", "23505", "53200", "0A000"])
async def test_an_error_of_a_statement_says_nothing_of_the_connection(
    either: PostgreSQL, opened: Opened, code: str
) -> None:
    """Cancelled, in conflict, a duplicate, out of memory: the next statement works."""
    driver = either.driver()
    conn = await opened(driver)

    with pytest.raises(either.errors) as caught:
        await either.run(conn, f"DO $$ BEGIN RAISE 'no' USING ERRCODE = '{code}'; END $$")

    assert driver.after_lease(conn, caught.value) is Verdict.RESET
    await driver.reset(conn)
    assert await either.ask(conn, 3) == 3


@pytest.mark.parametrize("by_hand", [True, False])
async def test_a_reset_of_an_open_transaction_disturbs_nobody(
    postgresql: PostgreSQL, opened: Opened, by_hand: bool
) -> None:
    """Asyncpg's own reset would complain to the loop's exception handler."""
    driver = postgresql.driver()
    conn = await opened(driver)
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    if by_hand:
        await conn.execute("BEGIN")
    else:
        await conn.transaction().start()

    await driver.reset(conn)

    assert not complaints
    assert not conn.is_in_transaction()


async def test_a_session_that_lost_its_prepared_statements_is_discarded(
    postgresql: PostgreSQL, opened: Opened
) -> None:
    """After DISCARD ALL asyncpg counts on statements that are no more."""
    driver = postgresql.driver()
    conn = await opened(driver)
    await postgresql.ask(conn, 1)
    await conn.execute("DISCARD ALL")

    with pytest.raises(asyncpg.InvalidSQLStatementNameError) as caught:
        await postgresql.ask(conn, 2)

    assert driver.after_lease(conn, caught.value) is Verdict.DISCARD


async def test_two_tasks_on_one_connection_make_its_reset_fail(
    postgresql: PostgreSQL, opened: Opened
) -> None:
    """A task that the borrower left running on it keeps the connection from the next one."""
    driver = postgresql.driver()
    conn = await opened(driver)
    forgotten = await postgresql.start_slow(conn)

    with pytest.raises(asyncpg.InterfaceError, match="another operation"):
        await driver.reset(conn)

    driver.terminate(conn)
    await asyncio.gather(forgotten, return_exceptions=True)
