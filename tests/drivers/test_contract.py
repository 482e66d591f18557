"""What the pool relies on, whatever the backend: each of these holds for every driver."""

import asyncio
import importlib
import inspect
import random
import sys
import time
import typing
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from millpond.driver import Configurable, Driver, ForkAware, Redacting, Verdict
from millpond.errors import MissingExtra
from millpond.settings import PoolSettings
from tests.drivers.backends import Backend
from tests.drivers.cancelling import Moment, cancelled_at_every_await

Opened = Callable[[Any], Awaitable[Any]]


def test_a_driver_is_what_the_pool_and_the_registry_expect(backend: Backend) -> None:
    """It satisfies the protocols, and its class says what a configuration needs to know."""
    driver = backend.driver()
    least, most = type(driver).default_sizes

    assert all(isinstance(driver, each) for each in (Driver, Configurable, Redacting, ForkAware))
    assert driver.kind in driver.schemes
    assert driver.extra
    assert driver.name
    assert 0 <= least <= most
    assert driver.secret_options <= set(inspect.signature(type(driver).__init__).parameters)


def test_the_options_of_a_driver_are_a_schema(backend: Backend) -> None:
    """Every option is keyword-only and has an annotation that can be evaluated."""
    constructor = type(backend.driver()).__init__
    options = [each for each in inspect.signature(constructor).parameters.values() if each.name != "self"]
    hints = typing.get_type_hints(constructor)

    assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in options)
    assert {each.name for each in options} <= hints.keys()


def test_an_unknown_option_is_refused(backend: Backend) -> None:
    """A typo does not pass as a default."""
    with pytest.raises(TypeError, match="databse"):
        backend.driver(databse="x")


@pytest.mark.parametrize(
    ("library", "module", "extra"),
    [
        ("asyncpg", "millpond.drivers.postgresql", "postgresql"),
        ("aiosqlite", "millpond.drivers.sqlite", "sqlite"),
        ("redis", "millpond.drivers.redis", "redis"),
    ],
)
def test_a_missing_client_library_names_the_extra(
    library: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has not installed it is told what to install."""
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, module)

    with pytest.raises(MissingExtra, match=rf"pip install 'millpond\[{extra}\]'") as caught:
        importlib.import_module(module)
    assert caught.value.extra == extra


def test_configuring_makes_a_copy(backend: Backend) -> None:
    """Two pools of one driver keep their own reset levels."""
    driver = backend.driver()

    bound = driver.configured(PoolSettings(reset="none"))

    assert bound is not driver
    assert bound._reset_level == "none"
    assert driver._reset_level == "full"


async def test_a_fresh_connection_is_open_and_answers(backend: Backend, opened: Opened) -> None:
    """What connect() returns can be lent at once."""
    driver = backend.driver()

    conn = await opened(driver)
    await driver.ping(conn)

    assert not driver.is_closed(conn)
    assert await backend.ask(conn, 7) == 7
    assert await backend.sessions() == 1


async def test_a_polite_close_ends_the_session(backend: Backend) -> None:
    """After close() neither side knows the connection any more."""
    driver = backend.driver()
    conn = await driver.connect()

    await driver.close(conn)

    assert driver.is_closed(conn)
    await backend.gone()


async def test_terminate_ends_the_session_and_may_be_repeated(backend: Backend) -> None:
    """Cutting what is already cut is no error."""
    driver = backend.driver()
    conn = await driver.connect()

    driver.terminate(conn)
    driver.terminate(conn)

    assert driver.is_closed(conn)
    await backend.gone()


async def test_terminate_does_not_wait_for_a_statement(backend: Backend) -> None:
    """A connection is cut in the middle of its work; whoever waits for the answer gets an error."""
    driver = backend.driver()
    conn = await driver.connect()
    task = await backend.start_slow(conn)

    before = time.monotonic()
    driver.terminate(conn)
    took = time.monotonic() - before
    (outcome,) = await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 2.0)

    assert took < 0.1
    assert isinstance(outcome, Exception)
    await backend.gone()


async def test_terminate_in_the_middle_of_a_reset_is_safe(backend: Backend) -> None:
    """The pool gives a reset up after its timeout, wherever it is."""
    driver = backend.driver()
    conn = await driver.connect()
    await backend.begin(conn)

    reset = asyncio.create_task(driver.reset(conn))
    await asyncio.sleep(0)
    reset.cancel()
    driver.terminate(conn)
    (outcome,) = await asyncio.wait_for(asyncio.gather(reset, return_exceptions=True), 2.0)

    assert isinstance(outcome, BaseException)
    assert driver.is_closed(conn)
    await backend.gone()


def test_terminate_after_the_loop_was_closed(backend: Backend) -> None:
    """A program that ends without closing its pool leaves no session behind and gets no error."""
    driver = backend.driver()
    conn = asyncio.run(driver.connect())

    driver.terminate(conn)

    asyncio.run(backend.gone())


def test_terminate_after_the_loop_was_closed_during_a_statement(
    backend: Backend,
) -> None:
    """Ctrl-C during a long statement ends its thread and its session without a traceback."""
    driver = backend.driver()

    async def interrupted() -> Any:
        conn = await driver.connect()
        await backend.cancel_slow(conn)
        return conn

    conn = asyncio.run(interrupted())
    driver.terminate(conn)

    asyncio.run(backend.gone())


@pytest.mark.parametrize("moment", Moment, ids=lambda moment: moment.name.lower())
async def test_a_cancelled_connect_leaves_nothing(backend: Backend, moment: Moment) -> None:
    """Wherever a connect is cancelled, no thread, socket or session stays."""
    driver = backend.driver()

    awaits = await cancelled_at_every_await(driver.connect, moment=moment, finished=driver.terminate)

    assert awaits >= 1
    await backend.gone()


async def test_a_failed_connect_leaves_nothing(backend: Backend) -> None:
    """A wrong database costs no thread and no session."""
    driver = backend.driver(**backend.nowhere)

    with pytest.raises(Exception, match=backend.nowhere_said) as caught:
        await driver.connect()

    assert driver.is_permanent(caught.value)
    await backend.gone()


@pytest.mark.parametrize("level", ["none", "rollback", "full"])
async def test_a_lost_connection_is_discarded(backend: Backend, opened: Opened, level: Any) -> None:
    """Nobody gets a connection that is known to be gone."""
    driver = backend.at_level(level)
    conn = await opened(driver)

    driver.terminate(conn)

    assert driver.after_lease(conn, None) is Verdict.DISCARD
    assert driver.after_lease(conn, OSError("gone")) is Verdict.DISCARD


@pytest.mark.parametrize("level", ["none", "rollback", "full"])
async def test_the_borrowers_own_error_condemns_nothing(backend: Backend, opened: Opened, level: Any) -> None:
    """A handler that fails for its own reasons costs no connection."""
    driver = backend.at_level(level)
    conn = await opened(driver)
    await backend.ask(conn, 1)

    after_none, after_error = (
        driver.after_lease(conn, error) for error in (None, ValueError("no such user"))
    )

    assert after_none is after_error
    assert after_error is backend.after_question[level]


@pytest.mark.parametrize("level", ["none", "rollback", "full"])
async def test_a_statement_that_failed_condemns_nothing(backend: Backend, opened: Opened, level: Any) -> None:
    """A wrong statement is the borrower's fault, not the connection's."""
    driver = backend.at_level(level)
    conn = await opened(driver)

    with pytest.raises(Exception, match="no_such_table") as caught:
        await backend.fail(conn)

    assert driver.after_lease(conn, caught.value) is backend.after_failure[level]


@pytest.mark.parametrize(
    ("level", "verdict"), [("none", Verdict.DISCARD), ("rollback", Verdict.RESET), ("full", Verdict.RESET)]
)
async def test_an_open_transaction_is_never_passed_on(
    backend: Backend, opened: Opened, level: Any, verdict: Verdict
) -> None:
    """It is rolled back where a reset is wanted, else the connection goes with it."""
    driver = backend.at_level(level)
    conn = await opened(driver)

    await backend.begin(conn)

    assert driver.after_lease(conn, None) is verdict


@pytest.mark.parametrize("level", ["none", "rollback", "full"])
async def test_a_cancelled_statement_is_never_passed_on(backend: Backend, opened: Opened, level: Any) -> None:
    """It is waited for where a reset is wanted and the protocol can, else the connection goes with it."""
    driver = backend.at_level(level)
    conn = await opened(driver)

    error = await backend.cancel_slow(conn)

    assert driver.after_lease(conn, error) is backend.after_cancel[level]


@pytest.mark.parametrize("level", ["rollback", "full"])
async def test_a_reset_rolls_back(backend: Backend, opened: Opened, level: Any) -> None:
    """What the last borrower did not commit did not happen, and nothing complains about it."""
    driver = backend.at_level(level)
    conn = await opened(driver)
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    await backend.begin(conn)

    await driver.reset(conn)

    assert await backend.rows(conn) == 0
    assert complaints == []


@pytest.mark.parametrize("level", ["rollback", "full"])
async def test_after_a_cancelled_statement_answers_belong_to_their_questions(
    backend: Backend, level: Any
) -> None:
    """Whoever comes next gets an answer at once, and nothing of the cancelled statement."""
    driver = backend.at_level(level)
    conn = await driver.connect()

    for number in range(3):
        error = await backend.cancel_slow(conn)
        conn = await backend.given_back(driver, conn, error)

        assert await backend.ask(conn, number) == number
    driver.terminate(conn)
    await backend.gone()


async def test_a_statement_cancelled_before_it_began_leaves_no_trace(backend: Backend) -> None:
    """A borrower that is cancelled at once has written nothing that stays."""
    driver = backend.driver()
    conn = await driver.connect()

    for _ in range(5):
        task = asyncio.create_task(backend.begin(conn))
        await asyncio.sleep(0)
        task.cancel()
        (error,) = await asyncio.gather(task, return_exceptions=True)
        conn = await backend.given_back(driver, conn, error)
    rows = await backend.rows(conn)
    driver.terminate(conn)

    assert rows == 0
    await backend.gone()


@pytest.mark.parametrize(
    "name", ["plain", "with space", 'with "quotes"', "semi;colon -- x", "Ümläut.dot", "select"]
)
async def test_a_quoted_name_names_what_it_says(sql: Backend, opened: Opened, name: str) -> None:
    """Whatever a name holds, the backend takes it for that name and for nothing else."""
    driver = sql.driver()
    conn = await opened(driver)

    tables = await sql.make_table(conn, driver.quote_identifier(name))

    assert name in tables


@pytest.mark.parametrize("name", ["", "nul\0byte", "\ud800"])
def test_a_name_that_cannot_be_quoted_is_refused(sql: Backend, name: str) -> None:
    """What the backend could not name must not become a statement."""
    with pytest.raises(ValueError, match="identifier"):
        sql.driver().quote_identifier(name)


def test_parts_of_a_name_are_quoted_one_by_one(sql: Backend) -> None:
    """A schema and a table are two names."""
    mark = sql.mark

    quoted = sql.driver().quote_identifier("a.b", f"c{mark}d")

    assert quoted == f"{mark}a.b{mark}.{mark}c{mark * 2}d{mark}"


async def test_a_reset_connection_can_be_reset_again(backend: Backend, opened: Opened) -> None:
    """Every lease ends with one."""
    driver = backend.driver()
    conn = await opened(driver)

    for _ in range(20):
        await driver.reset(conn)

    assert driver.after_lease(conn, None) is backend.after_question["full"]
    assert await backend.ask(conn, 3) == 3


async def test_resetting_a_lost_connection_fails(backend: Backend, opened: Opened) -> None:
    """A reset that did nothing must not pass for one that did."""
    driver = backend.driver()
    conn = await opened(driver)

    driver.terminate(conn)

    with pytest.raises((Exception,)):
        await driver.reset(conn)
    with pytest.raises((Exception,)):
        await driver.ping(conn)


@pytest.mark.parametrize("level", ["none", "rollback", "full"])
async def test_a_storm_of_cancellations_spoils_no_answer(backend: Backend, level: Any) -> None:
    """Borrower after borrower on one connection, most of them cancelled somewhere: the verdicts hold."""
    driver = backend.at_level(level)
    conn = await driver.connect()
    draw = random.Random(11)
    wrong: list[tuple[int, int]] = []

    async def borrow(first: int) -> None:
        for question in range(first, first + 3):
            if draw.random() < 0.3:
                await backend.begin(conn)
            answer = await backend.ask(conn, question)
            wrong.extend([(question, answer)] if answer != question else [])

    for number in range(150):
        task = asyncio.create_task(borrow(number * 10))
        for _ in range(draw.randrange(40)):
            await asyncio.sleep(0)
        task.cancel()
        (error,) = await asyncio.gather(task, return_exceptions=True)
        conn = await backend.given_back(driver, conn, error)
    rows = await backend.rows(conn)
    await backend.gone(left=1)
    driver.terminate(conn)

    assert wrong == []
    assert rows == 0
