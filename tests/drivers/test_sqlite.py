"""What is SQLite's own: files and memory, threads, pragmas, and one writer at a time."""

import asyncio
import contextlib
import gc
import os
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from millpond.driver import Verdict
from millpond.drivers import Unfit
from millpond.drivers.sqlite import CannotOpen, SQLiteDriver
from millpond.settings import PoolSettings
from tests.drivers.backends import SQLite

Opened = Callable[[Any], Awaitable[Any]]


async def value(conn: Any, sql: str) -> Any:
    rows = await conn.execute_fetchall(sql)
    return rows[0][0] if rows else None


async def test_a_missing_file_is_created_with_its_directories(tmp_path: Path, opened: Opened) -> None:
    """A first run needs no preparation."""
    path = tmp_path / "var" / "deep" / "new.db"

    await opened(SQLiteDriver(database=str(path)))

    assert path.is_file()


async def test_a_missing_file_is_refused_when_it_must_be_there(tmp_path: Path) -> None:
    """A typo in a path is no empty database."""
    path = tmp_path / "missing.db"
    driver = SQLiteDriver(database=str(path), create=False)

    with pytest.raises(CannotOpen, match=r"missing\.db.*no such file, and create is false") as caught:
        await driver.connect()

    assert driver.is_permanent(caught.value)
    assert not path.exists()


@pytest.mark.parametrize(
    ("place", "options", "why"),
    [
        ("a_directory", {}, "is a directory"),
        ("a_file/x.db", {}, "directory cannot be made"),
        ("nowhere/x.db", {"create": False}, "there is no directory"),
    ],
)
async def test_a_place_where_no_database_can_be_is_named_with_the_reason(
    tmp_path: Path, place: str, options: dict[str, Any], why: str
) -> None:
    """SQLite says 'unable to open database file' for all of them."""
    (tmp_path / "a_directory").mkdir()
    (tmp_path / "a_file").touch()
    driver = SQLiteDriver(database=str(tmp_path / place), **options)

    with pytest.raises(CannotOpen, match=why) as caught:
        await driver.connect()

    assert place in str(caught.value)
    assert driver.is_permanent(caught.value)


async def test_a_file_that_is_no_database_is_wrong_for_ever(tmp_path: Path) -> None:
    """And it is left as it is."""
    path = tmp_path / "letter.txt"
    path.write_text("Dear Sir or Madam, " * 100)
    driver = SQLiteDriver(database=str(path))

    with pytest.raises(sqlite3.DatabaseError, match="not a database") as caught:
        await driver.connect()

    assert driver.is_permanent(caught.value)
    assert path.read_text().startswith("Dear Sir")


async def test_a_locked_database_may_be_free_later(sqlite: SQLite) -> None:
    """Somebody else's lock is no reason to give up."""
    other = sqlite3.connect(sqlite.path)
    other.execute("BEGIN EXCLUSIVE")
    driver = sqlite.driver(busy_timeout=0.01)

    with pytest.raises(sqlite3.OperationalError, match="locked") as caught:
        await driver.connect()
    other.close()

    assert not driver.is_permanent(caught.value)


async def test_a_connection_has_the_pragmas_of_a_service(sqlite: SQLite, opened: Opened) -> None:
    """Readers do not wait for the writer, writers wait for each other, foreign keys hold."""
    conn = await opened(sqlite.driver(busy_timeout=1.5, pragmas={"cache_size": -1234}))

    assert await value(conn, "PRAGMA journal_mode") == "wal"
    assert await value(conn, "PRAGMA foreign_keys") == 1
    assert await value(conn, "PRAGMA busy_timeout") == 1500
    assert await value(conn, "PRAGMA synchronous") == 2
    assert await value(conn, "PRAGMA cache_size") == -1234


async def test_a_pragma_that_sqlite_does_not_know_is_refused(sqlite: SQLite) -> None:
    """SQLite ignores it, and whoever wrote it would believe that it holds."""
    driver = sqlite.driver(pragmas={"cache_sise": 1})

    with pytest.raises(CannotOpen, match="cache_sise") as caught:
        await driver.connect()

    assert driver.is_permanent(caught.value)


async def test_many_connections_to_a_new_file_agree_on_its_journal(tmp_path: Path, opened: Opened) -> None:
    """A pool opens several at once, and each of them would set the mode."""
    driver = SQLiteDriver(database=str(tmp_path / "new.db"))

    connections = await asyncio.gather(*(opened(driver) for _ in range(12)))

    assert {await value(conn, "PRAGMA journal_mode") for conn in connections} == {"wal"}


async def test_a_writer_that_came_first_delays_the_change_of_the_journal(
    sqlite: SQLite, opened: Opened
) -> None:
    """SQLite itself refuses at once, whatever the busy timeout says."""
    sqlite.path.unlink(missing_ok=True)
    writer = sqlite3.connect(sqlite.path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    asyncio.get_running_loop().call_later(0.1, writer.close)

    conn = await opened(sqlite.driver())

    assert await value(conn, "PRAGMA journal_mode") == "wal"


async def test_a_writer_that_does_not_end_is_waited_for_as_long_as_the_busy_timeout(sqlite: SQLite) -> None:
    """And it passes: nobody needs to mend a configuration."""
    sqlite.path.unlink(missing_ok=True)
    writer = sqlite3.connect(sqlite.path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    driver = sqlite.driver(busy_timeout=0.05)

    with pytest.raises(sqlite3.OperationalError, match="locked") as caught:
        await asyncio.wait_for(driver.connect(), 5.0)

    assert not driver.is_permanent(caught.value)
    writer.close()


async def test_a_database_in_memory_is_one_for_all_connections(opened: Opened) -> None:
    """And it outlives them: a pool that replaces its only connection loses no row."""
    driver = SQLiteDriver(database=":memory:")
    first = await opened(driver)
    second = await opened(driver.configured(PoolSettings()))
    await first.execute("CREATE TABLE t (x)")
    await first.execute("INSERT INTO t VALUES (1)")
    await first.commit()
    seen_by_second = await value(second, "SELECT count(*) FROM t")
    for conn in (first, second):
        await driver.close(conn)

    third = await opened(driver)

    assert seen_by_second == 1
    assert await value(third, "SELECT count(*) FROM t") == 1
    await driver.ping(third)


async def test_two_drivers_in_memory_are_two_databases(opened: Opened) -> None:
    """Two names in one configuration do not see each other's rows."""
    one = await opened(SQLiteDriver(database=":memory:"))
    other = await opened(SQLiteDriver(database=":memory:"))

    await one.execute("CREATE TABLE t (x)")

    assert await value(other, "SELECT count(*) FROM sqlite_schema") == 0


async def test_writers_in_memory_wait_for_each_other(opened: Opened) -> None:
    """As they do on a file: with the shared cache, one of them would fail at once."""
    driver = SQLiteDriver(database=":memory:", isolation_level="immediate")
    one, other = await opened(driver), await opened(driver)
    await one.execute("CREATE TABLE t (x)")
    await one.execute("INSERT INTO t VALUES (1)")

    waiting = asyncio.create_task(other.execute("INSERT INTO t VALUES (2)"))
    await asyncio.sleep(0)
    await one.commit()
    await waiting
    await other.commit()

    assert await value(one, "SELECT count(*) FROM t") == 2


class Leak(NamedTuple):
    """Something a borrower does, and a question that finds it out."""

    deed: str
    question: str


LEAKS = {
    "query only": Leak("PRAGMA query_only = on", "PRAGMA query_only"),
    "foreign keys": Leak("PRAGMA foreign_keys = off", "PRAGMA foreign_keys"),
    "durability": Leak("PRAGMA synchronous = off", "PRAGMA synchronous"),
    "configured pragma": Leak("PRAGMA cache_size = 7", "PRAGMA cache_size"),
    **{
        name: Leak(f"PRAGMA {name} = {value}", f"PRAGMA {name}")
        for name, value in {
            "journal_mode": "off",
            "max_page_count": 50,
            "full_column_names": 1,
            "short_column_names": 0,
            "count_changes": 1,
            "empty_result_callbacks": 1,
            "cell_size_check": 1,
            "mmap_size": 65536,
            "threads": 2,
            "analysis_limit": 9,
            "fullfsync": 1,
            "checkpoint_fullfsync": 1,
        }.items()
    },
    "busy timeout": Leak("PRAGMA busy_timeout = 7", "PRAGMA busy_timeout"),
    "temporary table": Leak("CREATE TEMP TABLE scratch (x)", "SELECT count(*) FROM sqlite_temp_schema"),
    "temporary view": Leak(
        "CREATE TEMP VIEW \"it's\" AS SELECT 1", "SELECT count(*) FROM sqlite_temp_schema"
    ),
    "shadowing table": Leak(
        "CREATE TEMP TABLE notes AS SELECT 1 AS body", "SELECT count(*) FROM notes"
    ),
    "temporary trigger": Leak(
        "CREATE TEMP TRIGGER t AFTER INSERT ON main.notes BEGIN SELECT 1; END",
        "SELECT count(*) FROM sqlite_temp_schema",
    ),
    "attached database": Leak(
        "ATTACH ':memory:' AS \"other one\"",
        "SELECT count(*) FROM pragma_database_list WHERE name <> 'temp'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEAKS)
async def test_a_full_reset_leaves_nothing_of_the_last_borrower(
    sqlite: SQLite, opened: Opened, name: str
) -> None:
    """The next borrower finds the session as it was after connecting."""
    leak = LEAKS[name]
    driver = sqlite.driver(pragmas={"cache_size": -1234})
    conn = await opened(driver)
    before = await value(conn, leak.question)

    await conn.execute(leak.deed)
    meanwhile = await value(conn, leak.question)
    await driver.reset(conn)

    assert meanwhile != before
    assert await value(conn, leak.question) == before


async def test_a_journal_mode_that_does_not_come_back_costs_the_connection(
    sqlite: SQLite, opened: Opened
) -> None:
    """Without a journal nothing of the next borrower's could be rolled back."""
    driver = sqlite.driver(busy_timeout=0.1)
    conn = await opened(driver)
    await conn.execute_fetchall("PRAGMA journal_mode = off")

    with contextlib.closing(sqlite3.connect(sqlite.path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError):
            await driver.reset(conn)


async def test_a_full_reset_restores_how_rows_and_transactions_are_made(
    sqlite: SQLite, opened: Opened
) -> None:
    """Attributes of the connection are session state too."""
    driver = sqlite.driver(row_factory="row", isolation_level="immediate")
    conn = await opened(driver)
    conn.row_factory = lambda cursor, row: {"borrowed": row}
    conn.text_factory = bytes
    conn.isolation_level = None
    await conn.set_authorizer(lambda *_: sqlite3.SQLITE_DENY)
    await conn.set_progress_handler(lambda: 1, 1)

    await driver.reset(conn)
    (row,) = await conn.execute_fetchall("SELECT 'text' AS word")

    assert row["word"] == "text"
    assert conn.isolation_level == "IMMEDIATE"


async def test_a_full_reset_keeps_functions(sqlite: SQLite, opened: Opened) -> None:
    """They are what `on_connect` is for."""
    driver = sqlite.driver()
    conn = await opened(driver)
    await conn.create_function("seven", 0, lambda: 7)

    await driver.reset(conn)

    assert await value(conn, "SELECT seven()") == 7


@pytest.mark.parametrize("level", ["rollback", "full"])
async def test_an_open_cursor_does_not_keep_the_next_borrower_in_the_past(
    sqlite: SQLite, opened: Opened, level: Any
) -> None:
    """A cursor with rows left to give holds a snapshot of the database."""
    driver = sqlite.at_level(level)
    conn, other = await opened(driver), await opened(driver)
    await other.executemany("INSERT INTO notes VALUES (?)", [("one",), ("two",)])
    await other.commit()
    cursor = await conn.execute("SELECT * FROM notes")
    await cursor.fetchone()

    verdict = driver.after_lease(conn, None)
    await driver.reset(conn)
    await other.execute("INSERT INTO notes VALUES ('three')")
    await other.commit()

    assert verdict is Verdict.RESET
    assert await sqlite.rows(conn) == 3


async def test_statements_that_wait_behind_a_cancelled_one_do_not_run(sqlite: SQLite, opened: Opened) -> None:
    """A whole queue of cancelled work takes no time and writes nothing."""
    driver = sqlite.driver()
    conn = await opened(driver)
    slow = await sqlite.start_slow(conn)
    behind = [asyncio.create_task(conn.execute("INSERT INTO notes VALUES ('late')")) for _ in range(50)]
    await asyncio.sleep(0)

    for task in (slow, *behind):
        task.cancel()
    await asyncio.gather(slow, *behind, return_exceptions=True)
    changes = conn.total_changes
    await asyncio.wait_for(driver.reset(conn), 2.0)

    assert conn.total_changes == changes
    assert await sqlite.rows(conn) == 0


async def test_a_busy_database_is_the_statements_trouble_only(sqlite: SQLite, opened: Opened) -> None:
    """SQLITE_BUSY condemns no connection, and a ping takes a locked database for a living one."""
    driver = sqlite.driver(busy_timeout=0.01)
    conn, other = await opened(driver), await opened(driver)
    await other.execute("BEGIN IMMEDIATE")

    with pytest.raises(sqlite3.OperationalError, match="locked") as caught:
        await conn.execute("INSERT INTO notes VALUES ('x')")
    await driver.ping(conn)

    assert driver.after_lease(conn, caught.value) is Verdict.RESET
    assert not driver.is_permanent(caught.value)


async def test_a_damaged_file_condemns_the_connection(tmp_path: Path, opened: Opened) -> None:
    """It cannot be trusted with another statement."""
    path = tmp_path / "damaged.db"
    driver = SQLiteDriver(database=str(path), journal_mode="delete")
    conn = await opened(driver)
    await conn.execute("CREATE TABLE t (x)")
    await conn.commit()
    path.write_bytes(b"Dear Sir or Madam, " * 1000)

    with pytest.raises(sqlite3.DatabaseError) as caught:
        await conn.execute_fetchall("SELECT * FROM t")

    assert driver.after_lease(conn, caught.value) is Verdict.DISCARD


@pytest.mark.parametrize("replaced", [False, True], ids=["deleted", "replaced"])
async def test_a_ping_notices_that_the_file_is_another(
    sqlite: SQLite, opened: Opened, replaced: bool
) -> None:
    """The open one would go on taking rows that nobody will ever read."""
    driver = sqlite.driver()
    conn = await opened(driver)
    await driver.ping(conn)

    sqlite.path.rename(sqlite.path.with_suffix(".old"))
    if replaced:
        sqlite3.connect(sqlite.path).close()
        sqlite.path.touch()

    with pytest.raises(Unfit, match="deleted or replaced"):
        await driver.ping(conn)


async def test_a_terminated_connection_refuses_what_was_still_to_come(sqlite: SQLite) -> None:
    """Nothing that waited is run afterwards; whoever waited for it is told."""
    driver = sqlite.driver()
    conn = await driver.connect()
    slow = await sqlite.start_slow(conn)
    behind = asyncio.create_task(conn.execute("INSERT INTO notes VALUES ('late')"))
    await asyncio.sleep(0)

    driver.terminate(conn)
    outcomes = await asyncio.wait_for(asyncio.gather(slow, behind, return_exceptions=True), 2.0)
    await sqlite.gone()
    rows = sqlite3.connect(sqlite.path)

    assert [type(each) for each in outcomes] == [sqlite3.OperationalError, sqlite3.ProgrammingError]
    assert rows.execute("SELECT count(*) FROM notes").fetchone() == (0,)
    rows.close()


async def test_a_cancelled_close_can_be_finished_by_terminate(sqlite: SQLite) -> None:
    """The pool gives a polite close only so much time."""
    driver = sqlite.driver()
    conn = await driver.connect()
    slow = await sqlite.start_slow(conn)

    closing = asyncio.create_task(driver.close(conn))
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.sleep(0)
    driver.terminate(conn)
    await asyncio.wait_for(asyncio.gather(slow, closing, return_exceptions=True), 2.0)

    assert driver.is_closed(conn)
    await sqlite.gone()


def test_a_connection_that_nobody_closed_does_not_keep_the_process_alive(tmp_path: Path) -> None:
    """A script that forgets its pool ends all the same."""
    script = f"""
import asyncio
from millpond.drivers.sqlite import SQLiteDriver
driver = SQLiteDriver(database={str(tmp_path / "x.db")!r})
conn = asyncio.run(driver.connect())
"""

    done = subprocess.run(
        [sys.executable, "-c", script], timeout=20, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_the_thread_of_a_lost_connection_ends_when_it_is_collected(sqlite: SQLite) -> None:
    """Whoever drops a connection gets a warning, and no thread for life."""
    driver = sqlite.driver()

    async def lose() -> None:
        conn = await driver.connect()
        await driver.ping(conn)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del conn
            gc.collect()
        assert [each.category for each in caught] == [ResourceWarning]
        await sqlite.gone()

    asyncio.run(lose())


async def test_a_child_of_a_fork_does_not_touch_the_parents_database(sqlite: SQLite) -> None:
    """SQLite forbids to close in a child what the parent has opened."""
    driver = sqlite.driver()
    conn = await driver.connect()
    await conn.execute("INSERT INTO notes VALUES ('kept')")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # forking where threads run is deprecated since Python 3.12
        child = os.fork()
        if child == 0:
            try:
                inherited = weakref.ref(conn)
                del conn
                gc.collect()
                os._exit(0 if inherited() is not None else 3)
            finally:
                os._exit(4)
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    await conn.commit()
    rows = await sqlite.rows(conn)
    await driver.close(conn)

    assert os.waitstatus_to_exitcode(status) == 0
    assert rows == 1


async def test_answers_arrive_while_the_thread_is_at_rest(sqlite: SQLite, opened: Opened) -> None:
    """A borrower that has its answer returns a connection that is not busy."""
    driver = sqlite.at_level("none")
    conn = await opened(driver)

    verdicts = set()
    for number in range(200):
        await sqlite.ask(conn, number)
        verdicts.add(driver.after_lease(conn, None))

    assert verdicts == {Verdict.KEEP}


async def test_terminate_is_quick_however_many_connections_there_are(sqlite: SQLite) -> None:
    """It only asks the threads to end."""
    driver = sqlite.driver()
    connections = await asyncio.gather(*(driver.connect() for _ in range(8)))
    slow = [await sqlite.start_slow(conn) for conn in connections]

    before = time.monotonic()
    for conn in connections:
        driver.terminate(conn)
    took = time.monotonic() - before
    await asyncio.gather(*slow, return_exceptions=True)
    await sqlite.gone()

    assert took < 0.5
    assert not any(thread.name == "millpond-sqlite" for thread in threading.enumerate())
