"""What a MySQL session looks like to its next borrower."""

import asyncio
import warnings
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest

from millpond.driver import Verdict
from millpond.drivers.mysql import CannotReset
from tests.drivers.backends import MySQL, until

Opened = Callable[[Any], Awaitable[Any]]


class Leak(NamedTuple):
    """Something a borrower does, and a question that finds it out."""

    deed: str
    question: str


LEAKS = {
    "setting": Leak("SET sql_mode = ''", "SELECT @@sql_mode"),
    "configured setting": Leak("SET time_zone = '+05:00'", "SELECT @@time_zone"),
    "statement timeout": Leak("SET max_statement_time = 0", "SELECT @@max_statement_time"),
    "autocommit": Leak("SET autocommit = 0", "SELECT @@autocommit"),
    "isolation": Leak("SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SELECT @@tx_isolation"),
    "read only": Leak("SET SESSION TRANSACTION READ ONLY", "SELECT @@tx_read_only"),
    "clock": Leak("SET timestamp = 1", "SELECT NOW() < '1990-01-01'"),
    "character set": Leak("SET NAMES latin1", "SELECT @@character_set_client, @@collation_connection"),
    "user variable": Leak("SET @grain = 'rye'", "SELECT @grain"),
    "initialized variable": Leak("SET @mill = 'other'", "SELECT @mill"),
    "temporary table": Leak("CREATE TEMPORARY TABLE scratch (x int)", "SELECT EXISTS(SELECT 1 FROM information_schema.tables WHERE table_name = 'scratch')"),  # noqa: E501
    "prepared statement": Leak("PREPARE grind FROM 'SELECT 1'", "SHOW STATUS LIKE 'Prepared_stmt_count'"),
    "current database": Leak("USE information_schema", "SELECT DATABASE()"),
    "role": Leak("SET ROLE {role}", "SELECT CURRENT_ROLE()"),
    "last number": Leak("SELECT LAST_INSERT_ID(77)", "SELECT LAST_INSERT_ID()"),
    "transaction": Leak("START TRANSACTION", "SELECT @@in_transaction"),
    "read-only transaction": Leak("START TRANSACTION READ ONLY", "SELECT @@in_transaction"),
    "distributed transaction": Leak("XA START 'sack'", "SELECT @@in_transaction"),
    "lock": Leak("SELECT GET_LOCK('{lock}', 5)", "SELECT IS_USED_LOCK('{lock}')"),
}  # fmt: skip


@pytest.fixture
def names(mysql: MySQL) -> dict[str, str]:
    """Names of this test's own: locks and roles are the whole server's."""
    role = f"role_{mysql.user}"
    mysql.server.execute(f"CREATE ROLE {role}; GRANT {role} TO {mysql.user}@127.0.0.1")
    return {"role": role, "lock": f"lock_{mysql.user}"}


@pytest.mark.parametrize("name", LEAKS)
async def test_a_full_reset_leaves_nothing_of_the_last_borrower(
    mysql: MySQL, opened: Opened, names: dict[str, str], name: str
) -> None:
    """The next borrower finds the session as it was after connecting."""
    deed, question = (text.format(**names) for text in LEAKS[name])
    driver = mysql.driver(
        statement_timeout=20.0,
        server_settings={"time_zone": "+01:00"},
        init_statements=["SET @mill = 'wind'"],
    )
    conn = await opened(driver)
    before = await mysql.query(conn, question)

    await mysql.query(conn, deed)
    meanwhile = await mysql.query(conn, question)
    await driver.reset(conn)
    after = await mysql.query(conn, question)

    if name != "temporary table":  # information_schema shows none; what follows would fail
        assert meanwhile != before
    assert after == before
    if name == "temporary table":
        with pytest.raises(conn.ProgrammingError):
            await mysql.query(conn, "SELECT * FROM scratch")


async def test_locked_tables_are_free_after_a_full_reset(mysql: MySQL, opened: Opened) -> None:
    """Or everybody else would wait for a borrower who has long gone home."""
    driver = mysql.driver()
    holder, other = await opened(driver), await opened(driver)
    await mysql.query(holder, f"LOCK TABLES {mysql.table} WRITE")
    writes = asyncio.create_task(mysql.query(other, f"INSERT INTO {mysql.table} VALUES ('at last')"))

    await driver.reset(holder)
    await asyncio.wait_for(writes, 5.0)

    assert await mysql.rows(holder) == 1


async def test_a_full_reset_comes_back_to_the_role_of_the_login(
    mysql: MySQL, opened: Opened, names: dict[str, str]
) -> None:
    """A default role is part of the clean session; the server itself leaves the role as it is."""
    mysql.server.execute(f"SET DEFAULT ROLE {names['role']} FOR {mysql.user}@127.0.0.1")
    driver = mysql.driver()
    conn = await opened(driver)

    await mysql.query(conn, "SET ROLE NONE")
    await driver.reset(conn)

    assert await mysql.query(conn, "SELECT CURRENT_ROLE()") == [(names["role"],)]


async def test_without_a_database_there_is_no_way_back_from_use(mysql: MySQL, opened: Opened) -> None:
    """The server cannot unselect one, so the connection goes."""
    driver = mysql.driver(database=None)
    conn = await opened(driver)
    await driver.reset(conn)

    await mysql.query(conn, f"USE {mysql.database}")

    with pytest.raises(ConnectionError, match="database"):
        await driver.reset(conn)


async def test_the_client_encodes_as_the_server_decodes(mysql: MySQL, opened: Opened) -> None:
    """The library's own idea of the character set is set back together with the server's."""
    driver = mysql.driver()
    conn = await opened(driver)
    conn._charset, conn._encoding = "latin1", "cp1252"

    await driver.reset(conn)

    assert await mysql.query(conn, "SELECT %s", "\u6c34") == [("\u6c34",)]
    assert conn.character_set_name() == "utf8mb4"


async def test_a_server_that_cannot_reset_says_so_when_connecting(mysql: MySQL) -> None:
    """An old server, or a proxy: told at once, not by a connection lost after every lease."""
    driver = mysql.driver()
    connections = driver._connection_class

    class Old(connections):  # type: ignore[misc,valid-type]
        """Sends a command that no server knows."""

        async def start_over(self) -> None:
            await self._execute_command(0x6F, b"")
            await self._read_ok_packet()

    driver._connection_class = Old

    with pytest.raises(CannotReset, match="set reset to 'rollback'") as caught:
        await driver.connect()

    assert driver.is_permanent(caught.value)
    bound = mysql.at_level("rollback")
    bound._connection_class = Old
    conn = await bound.connect()
    await bound.reset(conn)
    bound.terminate(conn)


async def test_the_rollback_level_keeps_settings(mysql: MySQL, opened: Opened) -> None:
    """Who chooses it is told so: it ends transactions and nothing else."""
    driver = mysql.at_level("rollback")
    conn = await opened(driver)
    await mysql.query(conn, "SET @grain = 'rye'")
    await mysql.begin(conn)

    await driver.reset(conn)

    assert await mysql.query(conn, "SELECT @grain, @@in_transaction") == [("rye", 0)]


async def test_the_rollback_level_sends_nothing_when_there_is_nothing_to_do(
    mysql: MySQL, opened: Opened
) -> None:
    """A clean session goes straight to the next borrower."""
    driver = mysql.at_level("rollback")
    conn = await opened(driver)

    await mysql.begin(conn)
    await mysql.query(conn, "COMMIT")
    await mysql.rows(conn)

    assert driver.after_lease(conn, None) is Verdict.KEEP


@pytest.mark.parametrize(("level", "verdict"), [("none", Verdict.DISCARD), ("rollback", Verdict.RESET)])
async def test_autocommit_that_was_switched_off_is_noticed(
    mysql: MySQL, opened: Opened, level: Any, verdict: Verdict
) -> None:
    """Or the next borrower's rows would be rolled back without a word; asyncmy itself does not notice."""
    driver = mysql.at_level(level)
    conn = await opened(driver)

    await mysql.query(conn, "SET autocommit = 0")
    after_setting = driver.after_lease(conn, None)
    await mysql.rows(conn)
    after_reading = driver.after_lease(conn, None)
    await driver.reset(conn)

    assert after_setting is after_reading is verdict
    assert driver.after_lease(conn, None) is Verdict.KEEP
    assert await mysql.query(conn, "SELECT @@autocommit") == [(1,)]


@pytest.mark.parametrize(("level", "verdict"), [("none", Verdict.DISCARD), ("rollback", Verdict.RESET)])
@pytest.mark.parametrize("fetching", ["buffered", "unbuffered"])
async def test_a_transaction_that_a_query_began_is_noticed(
    mysql: MySQL, opened: Opened, level: Any, verdict: Verdict, fetching: str
) -> None:
    """Without autocommit a SELECT holds its snapshot; aiomysql itself does not notice."""
    driver = mysql.at_level(level, autocommit=False)
    conn = await opened(driver)
    fresh = driver.after_lease(conn, None)

    if fetching == "buffered":
        await mysql.rows(conn)
    else:
        await read_unbuffered(mysql, conn, f"SELECT count(*) FROM {mysql.table}", rows=2)
    after_reading = driver.after_lease(conn, None)
    await conn.commit()

    assert fresh is Verdict.KEEP
    assert after_reading is verdict
    assert driver.after_lease(conn, None) is Verdict.KEEP


async def read_unbuffered(backend: MySQL, conn: Any, statement: str, *, rows: int) -> Any:
    """Begin to read a result that is not buffered; the cursor stays open."""
    module = __import__(f"{backend.library}.cursors", fromlist=["SSCursor"])
    made = conn.cursor(module.SSCursor)
    cursor = await made if backend.library == "aiomysql" else made
    await cursor.execute(statement)
    for _ in range(rows):
        await cursor.fetchone()
    return cursor


@pytest.mark.parametrize("level", ["rollback", "full"])
async def test_a_procedure_that_fails_in_its_own_transaction_leaves_none(
    mysql: MySQL, opened: Opened, level: Any
) -> None:
    """The error says nothing of the transaction that is now open."""
    driver = mysql.at_level(level)
    conn = await opened(driver)
    await mysql.query(
        conn,
        f"CREATE PROCEDURE grind() BEGIN START TRANSACTION; INSERT INTO {mysql.table} VALUES ('lost');"
        " SIGNAL SQLSTATE '45000'; END",
    )

    with pytest.raises(conn.Error) as caught:
        await mysql.query(conn, "CALL grind()")
    assert driver.after_lease(conn, caught.value) is Verdict.RESET
    assert driver.after_lease(conn, None) is Verdict.RESET
    await driver.reset(conn)

    assert await mysql.query(conn, "SELECT @@in_transaction") == [(0,)]
    assert await mysql.rows(conn) == 0


@pytest.mark.parametrize("level", ["none", "rollback", "full"])
async def test_rows_that_were_not_fetched_cost_the_connection(
    mysql: MySQL, opened: Opened, level: Any
) -> None:
    """How many there are nobody knows, and to read them all could take longer than to connect."""
    driver = mysql.at_level(level)
    conn = await opened(driver)

    cursor = await read_unbuffered(mysql, conn, "SELECT seq FROM seq_1_to_100000", rows=3)

    assert driver.after_lease(conn, None) is Verdict.DISCARD
    with pytest.raises(conn.InterfaceError):
        await driver.reset(conn)
    driver.terminate(conn)
    del cursor


@pytest.mark.parametrize("level", ["none", "rollback", "full"])
async def test_results_that_were_not_fetched_cost_the_connection(
    mysql: MySQL, opened: Opened, level: Any
) -> None:
    """The second answer of two is nobody's but the last borrower's."""
    driver = mysql.at_level(level)
    conn = await opened(driver)

    await conn.query("SELECT 1; SELECT 2")

    assert driver.after_lease(conn, None) is Verdict.DISCARD


@pytest.mark.parametrize("level", ["none", "rollback", "full"])
async def test_an_answer_that_could_not_be_decoded_costs_the_connection(
    mysql: MySQL, opened: Opened, level: Any
) -> None:
    """Its rest is still on the way, and the next question would get it."""
    driver = mysql.at_level(level)
    conn = await opened(driver)

    # The client takes for utf8mb4 what the server now sends in another character set.
    await mysql.query(conn, "SET character_set_results = latin1")
    with pytest.raises(UnicodeDecodeError) as caught:
        await mysql.query(conn, "SELECT 'm\u00fchle' FROM seq_1_to_50000")

    assert driver.after_lease(conn, caught.value) is Verdict.DISCARD
    with pytest.raises(conn.InterfaceError):
        await mysql.ask(conn, 1)


async def test_a_question_that_was_thrown_away_costs_the_connection(mysql: MySQL, opened: Opened) -> None:
    """A coroutine that is closed in the middle is not cancelled, and leaves its answer just the same."""
    driver = mysql.driver()
    conn = await opened(driver)
    asking = mysql.ask(conn, 1)
    asking.send(None)

    asking.close()

    assert driver.after_lease(conn, None) is Verdict.DISCARD


async def test_a_second_task_is_refused_and_the_first_gets_its_own_answer(
    mysql: MySQL, opened: Opened
) -> None:
    """Asyncmy would give the second one the first one's rows; aiomysql would leave an answer behind."""
    conn = await opened(mysql.driver())
    first = asyncio.create_task(mysql.query(conn, "SELECT SLEEP(1), 1"))
    await until(mysql.is_slow)

    with pytest.raises(conn.InterfaceError, match="another operation"):
        await mysql.ask(conn, 2)
    answer = await asyncio.wait_for(first, 10.0)

    assert answer == [(0, 1)]
    assert [await mysql.ask(conn, number) for number in (3, 4)] == [3, 4]


async def test_many_tasks_on_one_connection_never_get_each_others_answers(
    mysql: MySQL, opened: Opened
) -> None:
    """Whatever the order: an answer is right, or there is an error."""
    conn = await opened(mysql.driver())

    outcomes = await asyncio.gather(
        *(mysql.ask(conn, number) for number in range(50)), return_exceptions=True
    )

    assert all(isinstance(each, conn.InterfaceError) or each == at for at, each in enumerate(outcomes))
    assert outcomes[0] == 0


@pytest.mark.parametrize("level", ["none", "rollback", "full"])
async def test_a_task_that_was_left_running_costs_the_connection(
    mysql: MySQL, opened: Opened, level: Any
) -> None:
    """The lease is over and somebody still waits for an answer on it."""
    driver = mysql.at_level(level)
    conn = await opened(driver)
    forgotten = await mysql.start_slow(conn)

    assert driver.after_lease(conn, None) is Verdict.DISCARD
    with pytest.raises(conn.InterfaceError):
        await driver.reset(conn)
    driver.terminate(conn)
    await asyncio.gather(forgotten, return_exceptions=True)
    await mysql.gone()


async def test_a_ping_is_not_content_with_another_questions_answer(mysql: MySQL, opened: Opened) -> None:
    """COM_PING takes the next OK that comes, whoever asked for it."""
    driver = mysql.driver()
    conn = await opened(driver)
    # What a client leaves behind that writes a question and does not read the answer.
    conn.transport.write(b"\x05\0\0\0\x03DO 1")

    with pytest.raises(ConnectionError, match="another question"):
        await driver.ping(conn)

    assert driver.after_lease(conn, None) is Verdict.DISCARD


async def test_bytes_that_nobody_asked_for_are_no_answer(mysql: MySQL, opened: Opened) -> None:
    """Once they are here they are seen without asking anything."""
    driver = mysql.driver()
    conn = await opened(driver)
    conn.transport.write(b"\x05\0\0\0\x03DO 1")

    async def is_suspect() -> bool:
        return driver.after_lease(conn, None) is Verdict.DISCARD

    await until(is_suspect)
    with pytest.raises(conn.InterfaceError, match="nobody asked"):
        await mysql.ask(conn, 1)
    assert driver.is_closed(conn)


async def test_the_librarys_other_calls_leave_a_clean_connection(mysql: MySQL, opened: Opened) -> None:
    """None of them passes for a question without an answer."""
    driver = mysql.at_level("rollback")
    conn = await opened(driver)

    await conn.ping()
    await conn.show_warnings()
    await conn.select_db(mysql.database)
    await conn.autocommit(True)
    await conn.begin()
    await conn.rollback()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await mysql.query(conn, f"INSERT INTO {mysql.table} VALUES (%s), (%s)", "a", "b")
    async with conn.cursor() as cursor:
        await cursor.executemany(f"INSERT INTO {mysql.table} VALUES (%s)", [("c",), ("d",)])

    assert driver.after_lease(conn, None) is Verdict.KEEP
    assert await mysql.rows(conn) == 4


async def test_statements_that_the_library_prepares_leave_a_clean_connection(
    asyncmy: MySQL, opened: Opened
) -> None:
    """Also one that fails; after a reset the server knows none of them."""
    driver = asyncmy.at_level("rollback")
    conn = await opened(driver)
    await asyncmy.query(conn, "CREATE TABLE counted (n int PRIMARY KEY)")
    statement = await conn.prepare("INSERT INTO counted VALUES (?)")

    await statement.execute((1,))
    after_success = driver.after_lease(conn, None)
    with pytest.raises(conn.IntegrityError):
        await statement.execute((1,))
    after_failure = driver.after_lease(conn, None)
    await statement.close()

    assert (after_success, after_failure) == (Verdict.KEEP, Verdict.RESET)
    assert await asyncmy.ask(conn, 5) == 5


async def test_the_servers_statement_timeout_holds(mysql: MySQL, opened: Opened) -> None:
    """The server ends a statement by itself; the connection lives."""
    driver = mysql.driver(statement_timeout=0.05)
    conn = await opened(driver)

    with pytest.raises(conn.Error) as caught:
        await mysql.query(conn, "SELECT SLEEP(30)")

    assert caught.value.args[0] == 1969
    assert driver.after_lease(conn, caught.value) is Verdict.RESET
    assert await mysql.ask(conn, 2) == 2


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("INSERT INTO single VALUES (1)", 1062),
        ("SELEC", 1064),
        ("SELECT * FROM no_such_table", 1146),
        ("SELECT 1 INTO OUTFILE '/no-such/file'", 1227),
    ],
)
async def test_a_statement_that_failed_says_nothing_of_the_connection(
    mysql: MySQL, opened: Opened, statement: str, code: int
) -> None:
    """It was the statement's fault; a right that is missing is none of the login's either."""
    driver = mysql.driver()
    conn = await opened(driver)
    await mysql.query(conn, "CREATE TABLE single (n int PRIMARY KEY)")
    await mysql.query(conn, "INSERT INTO single VALUES (1)")

    with pytest.raises(conn.Error) as caught:
        await mysql.query(conn, statement)

    assert caught.value.args[0] == code
    assert driver.after_lease(conn, caught.value) is Verdict.RESET


async def test_a_session_killed_while_idle_is_known_to_be_gone(mysql: MySQL, opened: Opened) -> None:
    """Without any traffic, though neither library says so."""
    driver = mysql.driver()
    conn = await opened(driver)

    mysql.server.execute(f"KILL {conn.thread_id()}")

    async def is_closed() -> bool:
        return driver.is_closed(conn)

    await until(is_closed)
    assert driver.after_lease(conn, None) is Verdict.DISCARD
    for call in (driver.ping, driver.reset):
        with pytest.raises(conn.Error):
            await call(conn)


async def test_a_session_that_was_idle_for_too_long_is_known_to_be_gone(mysql: MySQL, opened: Opened) -> None:
    """The server's wait_timeout ends it."""
    driver = mysql.driver(server_settings={"wait_timeout": 1})
    conn = await opened(driver)

    async def is_closed() -> bool:
        return driver.is_closed(conn)

    await until(is_closed)


@pytest.mark.parametrize("level", ["none", "rollback", "full"])
@pytest.mark.parametrize("what", ["CONNECTION", "QUERY"])
async def test_a_kill_in_the_middle_of_a_statement_costs_the_connection(
    mysql: MySQL, opened: Opened, level: Any, what: str
) -> None:
    """The borrower gets the error; which of the two it was shows only later."""
    driver = mysql.at_level(level)
    conn = await opened(driver)
    task = asyncio.create_task(mysql.query(conn, "SELECT count(*) FROM seq_1_to_100000 a, seq_1_to_100000 b"))

    async def is_busy() -> bool:
        return any("seq_1_to" in each.statement for each in await mysql.clients())

    await until(is_busy)
    mysql.server.execute(f"KILL {what} {conn.thread_id()}")
    (error,) = await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 5.0)

    assert isinstance(error, conn.Error)
    assert driver.after_lease(conn, error) is Verdict.DISCARD


async def test_the_server_goes_on_with_a_statement_whose_borrower_was_cancelled(
    mysql: MySQL, opened: Opened
) -> None:
    """The connection is gone here and busy there: until it ends there are more than the pool knows."""
    driver = mysql.driver()
    conn = await opened(driver)

    error = await mysql.cancel_slow(conn)
    assert driver.after_lease(conn, error) is Verdict.DISCARD
    driver.terminate(conn)
    await mysql.ask(await opened(driver), 1)

    assert await mysql.is_slow()
    assert await mysql.sessions() == 2
    await mysql.gone(left=1)
