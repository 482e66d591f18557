"""What a psycopg connection looks like to its next borrower, where that is psycopg's own."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import psycopg as library
import pytest
from psycopg.rows import dict_row
from psycopg.types import TypeInfo

from millpond import ConnectionPool, PoolSettings
from millpond.driver import Verdict
from tests.drivers.backends import Psycopg, until

Opened = Callable[[Any], Awaitable[Any]]
Pools = Callable[..., Any]
LEVELS = ("none", "rollback", "full")


async def test_the_connection_is_the_librarys_own(psycopg: Psycopg, opened: Opened) -> None:
    """What its documentation says of a connection is true of the one that is lent."""
    conn = await opened(psycopg.driver())

    assert isinstance(conn, library.AsyncConnection)
    assert conn.autocommit


@pytest.mark.parametrize("level", LEVELS)
async def test_without_autocommit_what_was_not_committed_is_rolled_back(
    psycopg: Psycopg, opened: Opened, level: Any
) -> None:
    """Any query begins a transaction then, a SELECT too."""
    driver = psycopg.at_level(level, autocommit=False)
    conn = await opened(driver)
    await psycopg.run(conn, f"INSERT INTO {psycopg.table} VALUES ('unconfirmed')")

    verdict = driver.after_lease(conn, None)
    conn = await psycopg.given_back(driver, conn, None)

    assert verdict is (Verdict.DISCARD if level == "none" else Verdict.RESET)
    assert await psycopg.rows(conn) == 0
    driver.terminate(conn)


@pytest.mark.parametrize("level", LEVELS)
async def test_autocommit_that_was_switched_off_is_noticed(
    psycopg: Psycopg, opened: Opened, level: Any
) -> None:
    """Or the next borrower's rows would be rolled back."""
    driver = psycopg.at_level(level)
    conn = await opened(driver)
    await conn.set_autocommit(False)

    verdict = driver.after_lease(conn, None)
    conn = await psycopg.given_back(driver, conn, None)

    assert verdict is (Verdict.DISCARD if level == "none" else Verdict.RESET)
    assert conn.autocommit
    driver.terminate(conn)


@pytest.mark.parametrize("autocommit", [True, False])
async def test_a_ping_and_a_reset_begin_no_transaction(
    psycopg: Psycopg, opened: Opened, autocommit: bool
) -> None:
    """A pool that pings would otherwise hold snapshots, and keep the server from cleaning up."""
    driver = psycopg.driver(autocommit=autocommit)
    conn = await opened(driver)

    await driver.ping(conn)
    after_ping = conn.info.transaction_status
    await driver.reset(conn)

    assert after_ping == conn.info.transaction_status == library.pq.TransactionStatus.IDLE


async def change_client(conn: Any) -> None:
    """Everything that a borrower can change on the client's side."""
    conn.row_factory = dict_row
    conn.cursor_factory = library.AsyncRawCursor
    conn.server_cursor_factory = library.AsyncRawServerCursor
    conn.prepare_threshold, conn.prepared_max = 0, 7
    conn.adapters.register_loader("int4", library.types.string.ByteaLoader)
    conn.add_notice_handler(print)
    conn.add_notify_handler(print)
    await conn.set_isolation_level(library.IsolationLevel.SERIALIZABLE)
    await conn.set_read_only(True)
    await conn.set_deferrable(True)


async def client_state(conn: Any) -> tuple[Any, ...]:
    """The same, as the next borrower finds it."""
    cursor = await conn.execute("SELECT 1::int4 AS number")
    return (
        await cursor.fetchone(), type(cursor), conn.server_cursor_factory,
        conn.prepare_threshold, conn.prepared_max,
        list(conn._notice_handlers), list(conn._notify_handlers),
        conn.isolation_level, conn.read_only, conn.deferrable,
    )  # fmt: skip


@pytest.mark.parametrize("configured", [False, True])
async def test_a_full_reset_brings_the_clients_side_back_to_what_on_connect_made_of_it(
    psycopg: Psycopg, configured: bool
) -> None:
    """A row factory that stays would give the next borrower rows that it does not expect."""

    async def configure(conn: Any) -> None:
        if configured:
            conn.row_factory = library.rows.namedtuple_row
            conn.adapters.register_loader("int4", library.types.string.TextLoader)
            await conn.execute("SELECT 1")

    settings = PoolSettings(min_size=0, max_size=1)
    pool = ConnectionPool(psycopg.driver(), settings=settings, name="tidy", on_connect=configure)

    async def borrow(what: Callable[[Any], Awaitable[Any]]) -> Any:
        async with pool.acquire() as conn:
            return await what(conn)

    before = await asyncio.create_task(borrow(client_state))
    await asyncio.create_task(borrow(change_client))
    after = await asyncio.create_task(borrow(client_state))
    opened = pool.stats().opened
    await pool.close(timeout=5.0)

    assert after == before
    assert (type(before[0]).__name__, before[0]) == (("Row", ("1",)) if configured else ("tuple", (1,)))
    assert opened == 1


async def test_a_type_that_one_borrower_registered_is_unknown_to_the_next(
    psycopg: Psycopg, pools: Pools
) -> None:
    """TypeInfo registers on the connection that it is given."""
    pool = pools(psycopg.driver(), max_size=1)
    async with pool.acquire() as conn:
        await conn.execute("CREATE TYPE mood AS ENUM ('calm', 'busy')")
        info = await TypeInfo.fetch(conn, "mood")
        info.register(conn)
        known = conn.adapters.types.get("mood")

    async with pool.acquire() as conn:
        assert known is not None
        assert conn.adapters.types.get("mood") is None


async def test_a_full_reset_keeps_what_psycopg_has_prepared(psycopg: Psycopg, opened: Opened) -> None:
    """Preparing every statement again after each lease would cost more than the lease."""
    driver = psycopg.driver()
    conn = await opened(driver)
    prepared = "SELECT name FROM pg_prepared_statements WHERE statement = 'SELECT $1::int'"
    for number in range(7):
        await psycopg.ask(conn, number)
    before = await psycopg.value(conn, prepared)

    await driver.reset(conn)
    await psycopg.ask(conn, 2)

    assert before is not None
    assert await psycopg.value(conn, prepared) == before


async def test_psycopg_survives_that_its_prepared_statements_are_discarded(
    psycopg: Psycopg, opened: Opened
) -> None:
    """It sees DISCARD ALL go by; where it does not, the connection goes."""
    driver = psycopg.driver()
    conn = await opened(driver)
    for number in range(7):
        await psycopg.ask(conn, number)

    await conn.execute("DISCARD ALL")
    seen = await psycopg.ask(conn, 8)
    for number in range(7):
        await psycopg.ask(conn, number)
    await conn.execute("DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$")
    with pytest.raises(library.errors.InvalidSqlStatementName) as caught:
        await psycopg.ask(conn, 9)

    assert seen == 8
    assert driver.after_lease(conn, caught.value) is Verdict.DISCARD


async def test_without_prepared_statements_there_are_none(psycopg: Psycopg, opened: Opened) -> None:
    """For PgBouncer in transaction mode: neither those of a borrower nor those of a ping."""
    driver = psycopg.at_level("none", statement_cache_size=0)
    conn = await opened(driver)

    for number in range(10):
        await psycopg.ask(conn, number)
        await driver.ping(conn)

    assert await psycopg.value(conn, "SELECT count(*) FROM pg_prepared_statements") == 0
    assert driver.after_lease(conn, None) is Verdict.KEEP


async def test_a_full_reset_silences_channels_and_forgets_what_was_heard(
    psycopg: Psycopg, opened: Opened
) -> None:
    """Notifications that arrived and were not read would be the next borrower's."""
    driver = psycopg.driver()
    conn = await opened(driver)
    await conn.execute("LISTEN news")
    await conn.execute("NOTIFY news, 'one'")
    await conn.execute("SELECT 1")

    await driver.reset(conn)
    await conn.execute("NOTIFY news, 'two'")

    assert [each async for each in conn.notifies(timeout=0)] == []


async def copy_out(conn: Any, stack: AsyncExitStack) -> None:
    copy = await stack.enter_async_context(
        conn.cursor().copy("COPY (SELECT generate_series(1, 9)) TO STDOUT")
    )
    await copy.read()


async def copy_to_the_end(conn: Any, stack: AsyncExitStack) -> None:
    copy = await stack.enter_async_context(conn.cursor().copy("COPY (SELECT 1) TO STDOUT"))
    while await copy.read():
        pass


async def copy_in(conn: Any, stack: AsyncExitStack) -> None:
    copy = await stack.enter_async_context(conn.cursor().copy("COPY notes FROM STDIN"))
    await copy.write("half")


async def stream(conn: Any, stack: AsyncExitStack) -> None:
    rows = conn.cursor().stream("SELECT generate_series(1, 100000)")
    stack.push_async_callback(rows.aclose)
    await anext(rows)


async def notifies(conn: Any, stack: AsyncExitStack) -> None:
    await conn.execute("LISTEN news")
    await conn.execute("NOTIFY news")
    heard = conn.notifies()
    stack.push_async_callback(heard.aclose)
    await anext(heard)


async def pipeline(conn: Any, stack: AsyncExitStack) -> None:
    await stack.enter_async_context(conn.pipeline())


async def transaction(conn: Any, stack: AsyncExitStack) -> None:
    await stack.enter_async_context(conn.transaction())


async def two_phases(conn: Any, _stack: AsyncExitStack) -> None:
    await conn.set_autocommit(False)
    await conn.tpc_begin("half-done")


LEFT_OPEN = [copy_out, copy_in, stream, notifies, pipeline, transaction, two_phases]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("leave_open", LEFT_OPEN, ids=lambda each: each.__name__)
async def test_what_was_left_open_costs_the_connection(
    psycopg: Psycopg, opened: Opened, leave_open: Any, level: Any
) -> None:
    """Nobody can tell what comes next on it, or who still believes to own it; a reset refuses, too."""
    driver = psycopg.at_level(level)
    conn = await opened(driver)
    async with AsyncExitStack() as stack:
        await leave_open(conn, stack)

        verdict = driver.after_lease(conn, None)
        with pytest.raises(library.InterfaceError, match="another operation is in progress"):
            await driver.reset(conn)
        driver.terminate(conn)
        is_closed = driver.is_closed(conn)
        stack.pop_all()

    assert verdict is Verdict.DISCARD
    assert is_closed
    await psycopg.gone()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("use", [copy_to_the_end, copy_in, stream, pipeline], ids=lambda each: each.__name__)
async def test_what_was_left_properly_costs_nothing(
    psycopg: Psycopg, opened: Opened, use: Any, level: Any
) -> None:
    """A copy, a stream or a pipeline whose block has ended leaves a connection like any other.

    But for a COPY TO STDOUT that was not read to its end: psycopg leaves the rest on the connection.
    """
    driver = psycopg.at_level(level)
    conn = await opened(driver)

    async with AsyncExitStack() as stack:
        await use(conn, stack)
    verdict = driver.after_lease(conn, None)
    conn = await psycopg.given_back(driver, conn, None)

    assert verdict is (Verdict.RESET if level == "full" else Verdict.KEEP)
    assert await psycopg.ask(conn, 5) == 5


@pytest.mark.parametrize("direction", ["in", "out"])
async def test_a_copy_that_is_cancelled_midway_leaves_no_row_and_no_byte(
    psycopg: Psycopg, opened: Opened, direction: str
) -> None:
    """The next question gets its own answer, on this connection or on a new one."""
    driver = psycopg.driver()
    conn = await opened(driver)
    has_begun = asyncio.Event()

    async def copy() -> None:
        if direction == "in":
            async with conn.cursor().copy(f"COPY {psycopg.table} FROM STDIN") as copying:
                while True:
                    await copying.write("row\n" * 1000)
                    has_begun.set()
                    await asyncio.sleep(0)
        async with conn.cursor().copy("COPY (SELECT generate_series(1, 100000000)) TO STDOUT") as copying:
            async for _ in copying:
                has_begun.set()
                await asyncio.sleep(0)

    task = asyncio.create_task(copy())
    await asyncio.wait_for(has_begun.wait(), 5.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    conn = await psycopg.given_back(driver, conn, caught.value)

    assert await psycopg.ask(conn, 5) == 5
    assert await psycopg.rows(conn) == 0
    driver.terminate(conn)


async def test_a_cancelled_statement_has_ended_before_the_borrower_goes_on(
    psycopg: Psycopg, opened: Opened
) -> None:
    """A block that the cancellation leaves can still roll back; the server works for nobody any more."""
    driver = psycopg.driver()
    conn = await opened(driver)

    async def borrow() -> None:
        async with conn.transaction():
            await psycopg.run(conn, f"INSERT INTO {psycopg.table} VALUES ('unconfirmed')")
            await (await psycopg.start_slow(conn))

    task = asyncio.create_task(borrow())
    await until(psycopg.is_slow)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task

    assert not await psycopg.is_slow()
    assert conn.info.transaction_status == library.pq.TransactionStatus.IDLE
    assert driver.after_lease(conn, caught.value) is Verdict.RESET
    assert await psycopg.rows(conn) == 0


async def test_a_cancelled_borrower_waits_for_a_frozen_server_no_more_than_a_second(
    postgres_server_factory: Any, opened: Opened
) -> None:
    """Psycopg by itself waits for up to ten; the connection goes, and the session with it."""
    backend = Psycopg(postgres_server_factory(), "app")
    driver = backend.driver()
    conn = await opened(driver)
    task = await backend.start_slow(conn)

    backend.server.freeze()
    before = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    took = time.monotonic() - before
    backend.server.thaw()

    assert took < 4.0  # on a machine that has other things to do, too
    assert driver.after_lease(conn, caught.value) is Verdict.DISCARD
    await backend.gone()


async def test_a_connection_that_is_cut_under_a_statement_does_not_harm_the_next_with_its_descriptor(
    psycopg: Psycopg, opened: Opened
) -> None:
    """The number of a closed descriptor is given again at once; who waited for the old one must not know."""
    driver = psycopg.driver()
    for number in range(5):
        conn = await opened(driver)
        forgotten = await psycopg.start_slow(conn)

        driver.terminate(conn)
        following = await opened(driver)
        answers = [await psycopg.ask(following, each) for each in range(3)]
        (error,) = await asyncio.wait_for(asyncio.gather(forgotten, return_exceptions=True), 5.0)

        assert answers == [0, 1, 2], number
        assert isinstance(error, library.OperationalError)
        assert driver.is_closed(conn)
        assert driver.filenos(conn) == ()
        driver.terminate(following)
    await psycopg.gone()


async def test_two_tasks_on_one_connection_make_its_reset_fail(psycopg: Psycopg, opened: Opened) -> None:
    """A task that the borrower left running on it keeps the connection from the next one."""
    driver = psycopg.driver()
    conn = await opened(driver)
    forgotten = await psycopg.start_slow(conn)

    assert driver.after_lease(conn, None) is Verdict.DISCARD
    with pytest.raises(library.InterfaceError, match="another operation"):
        await driver.reset(conn)

    driver.terminate(conn)
    await asyncio.gather(forgotten, return_exceptions=True)


async def test_a_question_to_a_row_factory_that_fails_is_no_fault_of_the_ping(
    psycopg: Psycopg, opened: Opened
) -> None:
    """The pool asks past everything that a borrower can change."""
    driver = psycopg.driver()
    conn = await opened(driver)

    def broken(_cursor: Any) -> Any:
        raise RuntimeError("this row factory is broken")

    conn.row_factory = broken
    await driver.ping(conn)
    await driver.reset(conn)

    assert driver.after_lease(conn, None) is Verdict.RESET


async def test_a_client_encoding_of_ones_own_is_taken_back(psycopg: Psycopg, opened: Opened) -> None:
    """The next borrower's texts would arrive as others."""
    driver = psycopg.driver()
    conn = await opened(driver)
    await conn.execute("SET client_encoding = 'latin1'")

    await driver.reset(conn)

    assert await psycopg.value(conn, "SELECT 'größer ☃'") == "größer ☃"
    assert conn.info.encoding == "utf-8"
