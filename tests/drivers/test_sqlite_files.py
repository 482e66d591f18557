"""The file of a SQLite database: taken away while it is open, or never to be had."""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from millpond import ConnectionPool, PoolSettings
from millpond.driver import Verdict
from millpond.drivers import Unfit
from millpond.drivers.sqlite import CannotOpen, SQLiteDriver
from tests.drivers.backends import SQLite, until

Opened = Callable[[Any], Awaitable[Any]]

# What an operator's `rm notes.db*` and `mv backup.db notes.db` do.
both_ways = pytest.mark.parametrize("replaced", [False, True], ids=["deleted", "replaced"])


def take_away(path: Path, *, replaced: bool = False) -> None:
    """Delete a database with its journal; put a new one of the same shape into its place."""
    for each in path.parent.glob(f"{path.name}*"):
        each.unlink()
    if replaced:
        connection = sqlite3.connect(path)
        connection.execute(f"CREATE TABLE {SQLite.table} (body text)")
        connection.close()


@both_ways
async def test_a_commit_to_a_file_that_is_gone_is_an_error(
    sqlite: SQLite, opened: Opened, replaced: bool
) -> None:
    """SQLite itself says nothing: it wrote to a file that nobody will ever read."""
    driver = sqlite.driver()
    conn = await opened(driver)
    await conn.execute(f"INSERT INTO {sqlite.table} VALUES ('x')")
    take_away(sqlite.path, replaced=replaced)

    with pytest.raises(Unfit, match="deleted or replaced") as caught:
        await conn.commit()

    assert str(sqlite.path) in str(caught.value)
    assert driver.after_lease(conn, caught.value) is Verdict.DISCARD_ALL


@pytest.mark.parametrize("isolation_level", ["deferred", "autocommit"])
async def test_a_commit_with_nothing_to_do_looks_for_the_file_too(
    sqlite: SQLite, opened: Opened, isolation_level: str
) -> None:
    """So whoever works in autocommit can still ask."""
    conn = await opened(sqlite.driver(isolation_level=isolation_level))
    await conn.commit()
    take_away(sqlite.path)

    with pytest.raises(Unfit):
        await conn.commit()


async def test_who_swallows_that_error_spoils_it_for_nobody_else(sqlite: SQLite, opened: Opened) -> None:
    """At every level of reset: the connection itself knows."""
    for level in ("none", "rollback", "full"):
        driver = sqlite.driver().configured(PoolSettings(reset=level))
        conn = await opened(driver)
        kept_aside = sqlite.path.rename(sqlite.path.with_suffix(".aside"))
        with pytest.raises(Unfit):
            await conn.commit()
        kept_aside.rename(sqlite.path)

        assert driver.after_lease(conn, None) is Verdict.DISCARD_ALL


@both_ways
@pytest.mark.parametrize("level", ["rollback", "full"])
async def test_a_reset_notices_that_the_file_is_gone(
    sqlite: SQLite, opened: Opened, level: Any, replaced: bool
) -> None:
    """The next borrower gets a connection to the file that is there."""
    driver = sqlite.driver().configured(PoolSettings(reset=level))
    conn = await opened(driver)
    await driver.reset(conn)
    take_away(sqlite.path, replaced=replaced)

    with pytest.raises(Unfit, match="deleted or replaced"):
        await driver.reset(conn)


async def test_a_file_that_went_away_while_it_was_opened_is_noticed(
    sqlite: SQLite, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and looking which file it is; two times nothing are not the same file."""
    stat = os.stat

    def gone(path: Any, **more: Any) -> os.stat_result:
        if Path(path) == sqlite.path:
            raise FileNotFoundError
        return stat(path, **more)

    monkeypatch.setattr(os, "stat", gone)
    with pytest.raises(Unfit):
        await opened(sqlite.driver())


async def test_without_wal_sqlite_notices_by_itself(sqlite: SQLite, opened: Opened) -> None:
    """It refuses to write; that too is said of all connections to that file."""
    driver = sqlite.driver(journal_mode="delete")
    conn = await opened(driver)
    take_away(sqlite.path)

    with pytest.raises(sqlite3.OperationalError, match="readonly") as caught:
        await conn.execute(f"INSERT INTO {sqlite.table} VALUES ('x')")

    assert driver.after_lease(conn, caught.value) is Verdict.DISCARD_ALL


async def test_a_database_in_memory_has_no_file_to_lose(sqlite: SQLite, opened: Opened) -> None:
    """Commit and reset do not look for one."""
    driver = sqlite.driver(database=":memory:")
    conn = await opened(driver)

    await conn.commit()
    await driver.reset(conn)

    assert driver.after_lease(conn, None) is Verdict.RESET


@both_ways
async def test_a_pool_turns_to_the_file_that_is_there(sqlite: SQLite, replaced: bool) -> None:
    """One borrower is told; the connections that lay idle meanwhile are not lent again."""
    pool = ConnectionPool(sqlite.driver(), settings=PoolSettings(max_size=3))

    async def are_idle() -> bool:
        return pool.status().idle == 3

    async with pool:
        conns = [await pool.acquire() for _ in range(3)]
        for conn in conns:
            await pool.release(conn)
        await until(are_idle)
        take_away(sqlite.path, replaced=replaced)

        with pytest.raises(Unfit):
            async with pool.acquire() as conn:
                await conn.commit()

        for _ in range(3):
            async with pool.acquire() as conn:
                assert conn not in conns
                await conn.execute("CREATE TABLE IF NOT EXISTS told (body text)")
                await conn.execute("INSERT INTO told VALUES ('x')")
                await conn.commit()
    reader = sqlite3.connect(sqlite.path)
    ((count,),) = reader.execute("SELECT count(*) FROM told")
    reader.close()
    assert count == 3


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A directory that anybody can look into; pytest's own are for their owner only."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    yield place
    for each in (place, *place.rglob("*")):
        each.chmod(0o755)
    shutil.rmtree(place)


@pytest.fixture
def nobody() -> Iterator[Callable[[], None]]:
    """Call it to be nobody from then on: root may write everywhere."""
    was = os.geteuid()
    yield lambda: os.seteuid(65534) if was == 0 else None
    if was == 0:
        os.seteuid(was)


def database(path: Path, journal_mode: str = "wal") -> Path:
    """A database with a table, closed again."""
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA journal_mode = {journal_mode}")
    connection.execute(f"CREATE TABLE {SQLite.table} (body text)")
    connection.commit()
    connection.close()
    return path


@pytest.mark.parametrize(
    ("file_mode", "directory_mode", "why"),
    [
        (0o000, 0o755, "permission denied"),
        (0o444, 0o555, "permission denied"),
        (0o666, 0o555, r"permission denied to write beside it, in '.*/d'"),
        (0o666, 0o000, "permission denied"),
    ],
)
@pytest.mark.parametrize("create", [True, False])
async def test_a_file_that_may_not_be_written_is_named_with_the_reason(
    elsewhere: Path,
    nobody: Callable[[], None],
    file_mode: int,
    directory_mode: int,
    why: str,
    create: bool,
) -> None:
    """SQLite finds out at the first statement, and says something else each time."""
    path = database(elsewhere / "d" / "x.db")
    path.chmod(file_mode)
    path.parent.chmod(directory_mode)
    driver = SQLiteDriver(database=str(path), create=create)
    nobody()

    with pytest.raises(CannotOpen, match=rf"cannot open '.*/d/x\.db': {why}$") as caught:
        await driver.connect()

    assert driver.is_permanent(caught.value)


async def test_a_file_that_may_only_be_read_can_be_read(
    elsewhere: Path, nobody: Callable[[], None], opened: Opened
) -> None:
    """Where the journal needs no writing, that is no fault; a write is the borrower's to explain."""
    path = database(elsewhere / "d" / "x.db", journal_mode="delete")
    path.chmod(0o444)
    nobody()
    driver = SQLiteDriver(database=str(path), journal_mode="delete")
    conn = await opened(driver)

    await driver.ping(conn)
    assert await conn.execute_fetchall(f"SELECT * FROM {SQLite.table}") == []
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await conn.execute(f"INSERT INTO {SQLite.table} VALUES ('x')")


async def test_wal_on_a_file_that_may_only_be_read_is_refused_with_the_reason(
    elsewhere: Path, nobody: Callable[[], None]
) -> None:
    """The journal mode is written into the file."""
    path = database(elsewhere / "d" / "x.db", journal_mode="delete")
    path.chmod(0o444)
    nobody()

    with pytest.raises(CannotOpen, match="permission denied"):
        await SQLiteDriver(database=str(path)).connect()


@pytest.mark.parametrize("name", ["x" * 300, "nodir"])
async def test_a_directory_that_cannot_be_made_is_a_fault_for_ever(tmp_path: Path, name: str) -> None:
    """A name that is too long; a place where nothing can be made."""
    place = Path("/proc") if name == "nodir" else tmp_path
    driver = SQLiteDriver(database=str(place / name / "x.db"))

    with pytest.raises(CannotOpen, match="its directory cannot be made") as caught:
        await driver.connect()

    assert driver.is_permanent(caught.value)


@pytest.mark.parametrize("text", ["no database" * 1000, "SQLite format 3\0" + "no more" * 1000])
async def test_a_file_that_is_no_database_is_named(tmp_path: Path, text: str) -> None:
    """Whether that shows at its first bytes or later."""
    path = tmp_path / "letter.txt"
    path.write_text(text)
    driver = SQLiteDriver(database=str(path))

    with pytest.raises(CannotOpen, match=r"cannot open '.*letter\.txt': ") as caught:
        await driver.connect()

    assert driver.is_permanent(caught.value)
    assert path.read_text() == text
