"""A scripted connection is a session: what one borrower leaves behind, the next one finds."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from millpond.driver import Verdict
from millpond.testing import (
    BackendError,
    ConnectionLost,
    Dawdle,
    Fail,
    Fault,
    FaultKind,
    FaultsFound,
    Hang,
    ReadOnly,
    ScriptedBackend,
    ScriptedConnection,
    ScriptedDriver,
    WrongAnswer,
    current,
    run,
)


@pytest.fixture
def backend() -> ScriptedBackend:
    """A server with a round trip of ten milliseconds."""
    return ScriptedBackend(latency=0.01)


@pytest.fixture
def driver(backend: ScriptedBackend) -> ScriptedDriver:
    """A driver for it."""
    return ScriptedDriver(backend)


def kinds(backend: ScriptedBackend) -> list[FaultKind]:
    """What the backend complains of."""
    return [fault.kind for fault in backend.faults]


async def leave_unread(conn: ScriptedConnection) -> None:
    """Ask, and be cancelled before the answer comes."""
    task = asyncio.create_task(conn.request("abandoned"))
    await asyncio.sleep(0.005)
    task.cancel()
    await asyncio.wait([task])


async def leave_transaction(conn: ScriptedConnection) -> None:
    """Begin and do not end."""
    await conn.begin()


async def leave_variable(conn: ScriptedConnection) -> None:
    """Change the session."""
    await conn.set("role", "admin")


async def leave_nothing(conn: ScriptedConnection) -> None:
    """Behave."""
    await conn.begin()
    await conn.commit()
    await conn.request("?")


LEAVES = [leave_nothing, leave_unread, leave_transaction, leave_variable]


def test_an_answer_belongs_to_its_request(driver: ScriptedDriver) -> None:
    """It says what it answers, on which connection, and how the session stood."""

    async def main() -> None:
        conn = await driver.connect()
        await conn.set("zone", "utc")
        await conn.begin()
        answer = await conn.request("why")
        assert (answer.to, answer.connection, answer.in_transaction) == ("why", 1, True)
        assert answer.variables == {"zone": "utc"}
        await conn.rollback()
        assert not (await conn.request("and now")).in_transaction

    run(main)


def test_an_unread_answer_goes_to_the_next_request(driver: ScriptedDriver, backend: ScriptedBackend) -> None:
    """The next borrower gets a wrong answer, and so does everybody after."""

    async def main() -> None:
        conn = await driver.connect()
        await leave_unread(conn)
        assert backend.dirty_for(conn) == ("unread answer",)
        for _ in range(2):
            with pytest.raises(WrongAnswer, match="got the answer to request"):
                await conn.request("mine")

    run(main)

    assert kinds(backend) == [FaultKind.WRONG_ANSWER] * 2


def test_send_and_receive_can_be_told_apart(driver: ScriptedDriver, backend: ScriptedBackend) -> None:
    """Answers come in the order of the requests."""

    async def main() -> list[object]:
        conn = await driver.connect()
        first, second = conn.send("a"), conn.send("b")
        assert conn.has_unread
        return [(await conn.receive(first)).to, (await conn.receive(second)).to]

    assert run(main) == ["a", "b"]
    assert backend.faults == []


def test_an_answer_that_another_took_is_a_fault(driver: ScriptedDriver, backend: ScriptedBackend) -> None:
    """Who waits for it gets an error, not silence."""

    async def main() -> None:
        conn = await driver.connect()
        request = conn.send("a")
        await conn.receive(request)
        with pytest.raises(WrongAnswer, match="got no answer"):
            await conn.receive(request)

    run(main)

    assert kinds(backend) == [FaultKind.WRONG_ANSWER]


def test_an_error_of_the_server_is_an_answer(driver: ScriptedDriver, backend: ScriptedBackend) -> None:
    """After it the session is as clean as before."""
    backend.request_script.append(Fail(LookupError("no such table")))

    async def main() -> tuple[str, ...]:
        conn = await driver.connect()
        with pytest.raises(LookupError):
            await conn.request("?")
        assert (await conn.request("again")).to == "again"
        return conn.dirt

    assert run(main) == ()


def test_what_was_done_is_done_although_the_asker_was_cancelled(driver: ScriptedDriver) -> None:
    """The server works on a request when it is sent, not when the answer is read."""

    async def main() -> bool:
        conn = await driver.connect()
        task = asyncio.create_task(conn.begin())
        await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.wait([task])
        return conn.in_transaction

    assert run(main)


@pytest.mark.parametrize("leave", LEAVES)
@pytest.mark.parametrize("level", ["none", "rollback", "full"])
def test_the_driver_judges_by_what_is_left_and_by_its_level(
    backend: ScriptedBackend, leave: Callable[..., Coroutine[Any, Any, None]], level: Any
) -> None:
    """An unread answer is never forgiven; a transaction and session state are its business by level."""
    driver = ScriptedDriver(backend, level=level)
    covered = {
        leave_unread: Verdict.DISCARD,
        leave_transaction: Verdict.KEEP if level == "none" else Verdict.RESET,
        leave_variable: Verdict.RESET if level == "full" else Verdict.KEEP,
    }

    async def main() -> Verdict:
        conn = await driver.connect()
        with backend.using(conn):
            await leave(conn)
        verdict = driver.after_lease(conn, None)
        if verdict is Verdict.RESET:
            await driver.reset(conn)
        with backend.using(conn):
            pass
        return verdict

    assert run(main) is covered.get(leave, Verdict.KEEP)
    expected = [FaultKind.LENT_CONDEMNED, FaultKind.LENT_DIRTY] if leave is leave_unread else []
    assert kinds(backend) == expected


def test_a_reset_really_cleans(driver: ScriptedDriver, backend: ScriptedBackend) -> None:
    """Everything that its level covers is gone, and what `on_connect` set up stays."""
    backend.unread_verdict = Verdict.RESET

    async def main() -> dict[str, object]:
        conn = await driver.connect()
        await conn.set("zone", "utc")
        conn.mark_clean()
        with backend.using(conn):
            await leave_transaction(conn)
            await leave_variable(conn)
            await leave_unread(conn)
        assert conn.dirt == ("unread answer", "open transaction", "session variables")
        assert driver.after_lease(conn, None) is Verdict.RESET
        await driver.reset(conn)
        assert conn.dirt == ()
        assert (await conn.request("mine")).to == "mine"
        return conn.variables

    assert run(main) == {"zone": "utc"}
    backend.check()


def test_pings_and_resets_stumble_over_an_unread_answer(
    driver: ScriptedDriver, backend: ScriptedBackend
) -> None:
    """They read somebody else's answer, as a real client does."""

    async def main() -> None:
        conn = await driver.connect()
        await leave_unread(conn)
        with pytest.raises(WrongAnswer):
            await driver.ping(conn)
        with pytest.raises(WrongAnswer):
            await driver.reset(conn)

    run(main)

    assert kinds(backend) == [FaultKind.WRONG_ANSWER] * 2


def test_a_reset_that_was_due_must_not_be_skipped(driver: ScriptedDriver, backend: ScriptedBackend) -> None:
    """Also when the session happens to be clean, because the verdict said so."""
    backend.clean_verdict = Verdict.RESET

    async def main() -> None:
        conn = await driver.connect()
        for reset in (True, False):
            with backend.using(conn):
                pass
            driver.after_lease(conn, None)
            if reset:
                await driver.reset(conn)
        backend.borrowed(conn, "bob")

    run(main)

    assert [str(fault) for fault in backend.faults] == [
        "0.020000 connection 1: lent dirty: lent to bob with reset that is due"
    ]


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (None, Verdict.KEEP),
        (LookupError("the borrower's own"), Verdict.KEEP),
        (ReadOnly("demoted"), Verdict.DISCARD_ALL),
        (ConnectionLost("gone"), Verdict.DISCARD),
    ],
    ids=str,
)
def test_the_driver_judges_by_the_error(
    driver: ScriptedDriver, backend: ScriptedBackend, error: BackendError | None, verdict: Verdict
) -> None:
    """A lost connection is discarded; a node that is no longer primary discards them all."""

    async def main() -> Verdict:
        conn = await driver.connect()
        if isinstance(error, ConnectionLost):
            conn.kill()
        return driver.after_lease(conn, error)

    assert run(main) is verdict


def test_verdicts_can_be_scripted(driver: ScriptedDriver, backend: ScriptedBackend) -> None:
    """Some by a queue, the others by a function that sees what the driver would have said."""
    backend.after_lease_script.append(Verdict.DISCARD_ALL)
    backend.after_leases = lambda conn, error, verdict: Verdict.RESET if error else verdict

    async def main() -> list[Verdict]:
        conn = await driver.connect()
        return [driver.after_lease(conn, error) for error in (None, None, LookupError())]

    assert run(main) == [Verdict.DISCARD_ALL, Verdict.KEEP, Verdict.RESET]


def test_a_request_that_loses_the_connection_says_so(
    driver: ScriptedDriver, backend: ScriptedBackend
) -> None:
    """A scripted loss is a loss: afterwards it is closed."""
    backend.requests = Fail(ConnectionLost("reset by peer"))

    async def main() -> bool:
        conn = await driver.connect()
        with pytest.raises(ConnectionLost):
            await conn.request("?")
        return driver.is_closed(conn)

    assert run(main)


# -- faults ----------------------------------------------------------------------------------------------


Misuse = Callable[[ScriptedDriver, ScriptedConnection], Coroutine[Any, Any, object]]


async def borrow_twice(driver: ScriptedDriver, conn: ScriptedConnection) -> None:
    driver.backend.borrowed(conn, "alice")
    driver.backend.borrowed(conn, "bob")


async def request_twice_at_once(driver: ScriptedDriver, conn: ScriptedConnection) -> None:
    await asyncio.gather(conn.request("a"), conn.request("b"), return_exceptions=True)


async def lend_after_terminate(driver: ScriptedDriver, conn: ScriptedConnection) -> None:
    driver.terminate(conn)
    await asyncio.sleep(1)
    driver.backend.borrowed(conn)


async def lend_dead(driver: ScriptedDriver, conn: ScriptedConnection) -> None:
    conn.kill()
    await asyncio.sleep(1)
    driver.backend.borrowed(conn)


async def lend_condemned(driver: ScriptedDriver, conn: ScriptedConnection) -> None:
    driver.backend.after_lease_script.append(Verdict.DISCARD)
    driver.after_lease(conn, None)
    driver.backend.borrowed(conn)


async def return_unborrowed(driver: ScriptedDriver, conn: ScriptedConnection) -> None:
    driver.backend.returned(conn)


async def ping_borrowed(driver: ScriptedDriver, conn: ScriptedConnection) -> None:
    driver.backend.borrowed(conn, "alice")
    await driver.ping(conn)


async def request_during_close(driver: ScriptedDriver, conn: ScriptedConnection) -> None:
    closing = asyncio.create_task(driver.close(conn))
    await asyncio.sleep(0.005)
    conn.send("a")
    await closing


async def lend_during_ping(driver: ScriptedDriver, conn: ScriptedConnection) -> None:
    ping = asyncio.create_task(driver.ping(conn))
    await asyncio.sleep(0.005)
    driver.backend.borrowed(conn)
    await ping


async def ping_twice_at_once(driver: ScriptedDriver, conn: ScriptedConnection) -> None:
    await asyncio.gather(driver.ping(conn), driver.ping(conn))


async def ping_after_close(driver: ScriptedDriver, conn: ScriptedConnection) -> None:
    await driver.close(conn)
    with pytest.raises(ConnectionLost):
        await driver.ping(conn)


async def request_after_terminate(driver: ScriptedDriver, conn: ScriptedConnection) -> None:
    driver.terminate(conn)
    with pytest.raises(ConnectionLost):
        await conn.request("?")


async def close_dead(driver: ScriptedDriver, conn: ScriptedConnection) -> None:
    conn.kill()
    await asyncio.sleep(0.001)
    await driver.close(conn)
    assert driver.backend.closed == 1


async def close_condemned(driver: ScriptedDriver, conn: ScriptedConnection) -> None:
    driver.backend.after_lease_script.append(Verdict.DISCARD_ALL)
    driver.after_lease(conn, None)
    await driver.close(conn)


async def close_twice(driver: ScriptedDriver, conn: ScriptedConnection) -> None:
    await driver.close(conn)
    await driver.close(conn)


async def close_twice_at_once(driver: ScriptedDriver, conn: ScriptedConnection) -> None:
    await asyncio.gather(driver.close(conn), driver.close(conn))


async def close_after_terminate(driver: ScriptedDriver, conn: ScriptedConnection) -> None:
    driver.terminate(conn)
    await driver.close(conn)


async def terminate_twice(driver: ScriptedDriver, conn: ScriptedConnection) -> None:
    driver.terminate(conn)
    driver.terminate(conn)


async def terminate_after_close(driver: ScriptedDriver, conn: ScriptedConnection) -> None:
    await driver.close(conn)
    driver.terminate(conn)


async def ping_by_another(driver: ScriptedDriver, conn: ScriptedConnection) -> None:
    other = ScriptedDriver()
    await other.ping(conn)
    other.terminate(conn)
    driver.backend.faults.extend(other.backend.faults[:1])


@pytest.mark.parametrize(
    ("misuse", "kind"),
    [
        (borrow_twice, FaultKind.TWO_BORROWERS),
        (request_twice_at_once, FaultKind.TWO_BORROWERS),
        (lend_after_terminate, FaultKind.LENT_CLOSED),
        (lend_dead, FaultKind.LENT_CLOSED),
        (lend_condemned, FaultKind.LENT_CONDEMNED),
        (return_unborrowed, FaultKind.NOT_BORROWED),
        (ping_borrowed, FaultKind.TENDED_WHILE_LENT),
        (request_during_close, FaultKind.TENDED_WHILE_LENT),
        (lend_during_ping, FaultKind.TENDED_WHILE_LENT),
        (ping_twice_at_once, FaultKind.TENDED_TWICE),
        (ping_after_close, FaultKind.USED_AFTER_END),
        (request_after_terminate, FaultKind.USED_AFTER_END),
        (close_dead, FaultKind.POLITE_TO_BROKEN),
        (close_condemned, FaultKind.POLITE_TO_BROKEN),
        (close_twice, FaultKind.CLOSED_TWICE),
        (close_twice_at_once, FaultKind.CLOSED_TWICE),
        (close_after_terminate, FaultKind.CLOSED_AFTER_TERMINATE),
        (terminate_twice, FaultKind.TERMINATED_TWICE),
        (terminate_after_close, FaultKind.TERMINATED_AFTER_CLOSE),
        (ping_by_another, FaultKind.FOREIGN),
    ],
)
def test_misuse_is_recorded(
    driver: ScriptedDriver, backend: ScriptedBackend, misuse: Misuse, kind: FaultKind
) -> None:
    """The backend says what was done wrong, and `check` raises it."""

    async def main() -> None:
        await misuse(driver, await driver.connect())

    run(main)

    assert kinds(backend) == [kind]
    with pytest.raises(FaultsFound, match=kind.value):
        backend.check()


def test_who_decides_to_close_a_connection_before_the_loop_stands_still_cannot_know_that_it_dies(
    driver: ScriptedDriver, backend: ScriptedBackend
) -> None:
    """The call runs when the loop does again, and does no wrong."""

    async def main() -> None:
        conn = await driver.connect()
        conn.kill(after=0.5)
        closing = asyncio.create_task(driver.close(conn))
        current().stall(0.4)
        current().stall(0.4)
        await closing
        assert conn.is_dead

    run(main)

    backend.check()


def test_faults_can_be_ignored_by_kind(driver: ScriptedDriver, backend: ScriptedBackend) -> None:
    """Where a test does on purpose what is wrong elsewhere."""
    backend.ignored.add(FaultKind.TERMINATED_TWICE)

    async def main() -> None:
        await terminate_twice(driver, await driver.connect())

    run(main)

    backend.check(all_closed=True)
    assert backend.faults == []


def test_a_connection_left_open_is_found(driver: ScriptedDriver, backend: ScriptedBackend) -> None:
    """One that the server dropped counts too: this side's socket is still there."""

    async def main() -> None:
        await driver.connect()
        (await driver.connect()).kill()

    run(main)

    backend.check()
    with pytest.raises(FaultsFound, match="never closed: connections 1, 2"):
        backend.check(all_closed=True)


def test_a_loss_between_hand_over_and_first_step_is_nobodys_fault(
    driver: ScriptedDriver, backend: ScriptedBackend
) -> None:
    """The pool could not know."""

    async def main() -> None:
        conn = await driver.connect()
        conn.kill()
        backend.borrowed(conn)

    run(main)

    assert backend.faults == []


def test_a_close_that_fails_or_hangs_may_be_followed_by_a_cut(
    driver: ScriptedDriver, backend: ScriptedBackend
) -> None:
    """The connection is not gone before one of them has succeeded."""
    backend.close_script.extend([Fail(LookupError), Hang()])

    async def main() -> None:
        failing, hanging = await driver.connect(), await driver.connect()
        with pytest.raises(LookupError):
            await driver.close(failing)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(driver.close(hanging), 1)
        assert backend.live == [failing, hanging]
        driver.terminate(failing)
        driver.terminate(hanging)

    run(main)

    backend.check(all_closed=True)
    assert (backend.closed, backend.terminated) == (0, 2)


def test_a_cut_in_the_middle_of_a_close_ends_the_close(
    driver: ScriptedDriver, backend: ScriptedBackend
) -> None:
    """It counts once, as terminated."""
    backend.closes = Dawdle(10)

    async def main() -> BaseException | None:
        conn = await driver.connect()
        closing = asyncio.create_task(driver.close(conn))
        await asyncio.sleep(1)
        driver.terminate(conn)
        await asyncio.wait([closing])
        return closing.exception()

    assert isinstance(run(main, check_timers=True), ConnectionLost)
    assert (backend.closed, backend.terminated) == (0, 1)
    backend.check(all_closed=True)


def test_a_shared_connection_has_many_users() -> None:
    """Up to `max_borrowers`; answers find their request, and one that nobody reads does no harm."""
    backend = ScriptedBackend(max_borrowers=3)
    driver = ScriptedDriver(backend)

    async def main() -> list[object]:
        conn = await driver.connect()
        for name in ("alice", "bob", "carol"):
            backend.borrowed(conn, name)
        backend.request_script.extend([Dawdle(3), Dawdle(1), Dawdle(2)])
        answers = await asyncio.gather(*map(conn.request, "abc"))
        await leave_unread(conn)
        await driver.ping(conn)
        assert backend.faults == []
        backend.borrowed(conn, "dave")
        return [answer.to for answer in answers]

    assert run(main) == ["a", "b", "c"]
    assert kinds(backend) == [FaultKind.TWO_BORROWERS]


def test_a_fault_is_a_line() -> None:
    """Time, connection, kind, details."""
    fault = Fault(FaultKind.CLOSED_TWICE, at=1.5, connection=3, detail="close() again")

    assert str(fault) == "1.500000 connection 3: closed twice: close() again"
