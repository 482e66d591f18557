"""What every driver promises, whatever its backend."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import random
import time
import warnings
from collections.abc import Coroutine
from typing import Any, Final

from millpond.driver import ForkAware, Verdict
from millpond.errors import PoolError, describe
from millpond.testing.contract.backend import LEVELS, Backend, Knows, until
from millpond.testing.contract.base import Contract, about_connects, in_a_loop
from millpond.testing.contract.cancelling import Moment, cancelled_at_every_await
from millpond.testing.contract.promises import Promise

_ASYNC: Final = ("connect", "ping", "reset", "close")
_PLAIN: Final = ("terminate", "is_closed", "after_lease", "is_permanent")
_GONE: Final = (Verdict.DISCARD, Verdict.DISCARD_ALL)

# The quickest of some attempts counts: a machine with other things to do may hold up any one of them.
_ATTEMPTS: Final = 3
_AT_ONCE_S: Final = 0.1
_BLOCKED_S: Final = 0.15

_STORM: Final = 150
_LEASES: Final = 120


class DriverContract(Contract):
    """What every driver keeps: open, ask, cancel, end, and leave nothing behind."""

    def test_it_has_every_part_of_the_protocol(self) -> None:
        """The pool calls these, awaits some of them, and does not await the others."""
        driver = self.backend.driver()

        lacks = [each for each in (*_ASYNC, *_PLAIN) if not callable(getattr(driver, each, None))]
        if lacks:
            raise Promise.PROTOCOL.broken(f"{type(driver).__name__} lacks {', '.join(lacks)}")
        name = getattr(driver, "name", None)
        if not isinstance(name, str) or not name:
            raise Promise.PROTOCOL.broken(f"its name is {name!r}")
        for each in (*_ASYNC, *_PLAIN):
            if inspect.iscoroutinefunction(getattr(driver, each)) is not (each in _ASYNC):
                raise Promise.PROTOCOL.broken(f"{each}() is {'not ' * (each in _ASYNC)}async")

    @in_a_loop
    async def test_a_fresh_connection_is_open_and_answers(self) -> None:
        """What connect() returns can be lent at once."""
        driver = self.backend.driver()

        conn = await self.open(driver)
        await self.ends(driver.ping(conn), Promise.PING, "ping() of a fresh connection")

        if driver.is_closed(conn):
            raise Promise.KNOWN_CLOSED.broken("a fresh connection counts as closed")
        await self.answers(conn, 7, "on a fresh connection")
        await self.none_left(Promise.BOOKS, "after one connect()", left=1)

    @in_a_loop
    async def test_every_connect_makes_another_connection(self) -> None:
        """Two borrowers have two sessions."""
        driver = self.backend.driver()

        first, second = await self.open(driver), await self.open(driver)

        if first is second:
            raise Promise.CONNECT.broken("two calls returned the same object")
        await self.none_left(Promise.CONNECT, "after two connects", left=2)

    @in_a_loop
    async def test_no_call_holds_up_the_loop(self) -> None:
        """While one connection opens, is pinged, reset or closed, the others go on."""
        driver = self.backend.driver()
        longest = dict.fromkeys(_ASYNC, float("inf"))
        for _ in range(_ATTEMPTS):
            conn, gap = await _watched(driver.connect())
            longest["connect"] = min(longest["connect"], gap)
            for verb in _ASYNC[1:]:
                _, gap = await _watched(getattr(driver, verb)(conn))
                longest[verb] = min(longest[verb], gap)

        for verb, gap in longest.items():
            if gap > _BLOCKED_S:
                raise Promise.NOT_BLOCKING.broken(f"{verb}() held it up for {gap:.2f} s, every time")

    # -- ends -----------------------------------------------------------------------------------

    @in_a_loop
    async def test_a_polite_close_ends_the_session(self) -> None:
        """After close() neither side knows the connection any more; and once more does no harm."""
        driver = self.backend.driver()
        conn = await self.open(driver)

        await self.ends(driver.close(conn), Promise.CLOSE, "close()")
        await self.none_left(Promise.CLOSE, "after close()")
        self.is_known_closed(driver, conn, "close()")

        await self.settled(driver.close(conn), Promise.CLOSE, "close() after close()")
        self.terminated(driver, conn, "after close()")

    @in_a_loop
    async def test_terminate_ends_the_session_and_may_be_repeated(self) -> None:
        """Cutting what is already cut is no error, and a close() after it returns."""
        driver = self.backend.driver()
        conn = await self.open(driver)

        self.terminated(driver, conn, "on an open connection")
        self.terminated(driver, conn, "the second time")
        self.is_known_closed(driver, conn, "terminate()")
        await self.none_left(Promise.TERMINATE_ENDS, "after terminate()")

        await self.settled(driver.close(conn), Promise.CLOSE, "close() after terminate()")
        self.terminated(driver, conn, "after terminate() and close()")

    @in_a_loop
    async def test_terminate_does_not_wait_for_a_request(self) -> None:
        """A connection is cut in the middle of its work; whoever waits for the answer gets an error."""
        driver = self.backend.driver()
        took_s = float("inf")
        for _ in range(_ATTEMPTS):
            conn = await self.open(driver)
            task = await self.backend.start_slow(conn)
            before = time.monotonic()
            self.terminated(driver, conn, "in the middle of a request")
            took_s = min(took_s, time.monotonic() - before)
            await asyncio.wait({task}, timeout=self.patience)
            if not task.done():
                task.cancel()
                raise Promise.TERMINATE_ENDS.broken("the request that was under way is still waiting")
            # Some libraries tell it as a cancellation.
            if not task.cancelled() and task.exception() is None:
                raise Promise.TERMINATE_ENDS.broken("the request that was under way ended without an error")
            del task  # or what it ended with keeps the request, and that keeps the session of some libraries
            await self.none_left(Promise.TERMINATE_ENDS, "after terminate() in the middle of a request")

        if took_s > _AT_ONCE_S:
            raise Promise.TERMINATE_AT_ONCE.broken(f"it took {took_s:.2f} s or more, every time")

    @in_a_loop
    async def test_terminate_in_the_middle_of_a_reset_is_safe(self) -> None:
        """The pool gives a reset up after its timeout, wherever it is."""
        driver = self.backend.driver()
        conn = await self.open(driver)

        reset = asyncio.create_task(driver.reset(conn))
        await asyncio.sleep(0)
        reset.cancel()
        self.terminated(driver, conn, "in the middle of a reset")
        await asyncio.wait({reset}, timeout=self.patience)

        if not reset.done():
            raise Promise.CANCELLED.broken("reset(), cancelled and terminated, goes on")
        if not reset.cancelled():
            reset.exception()
        await self.none_left(Promise.TERMINATE_ENDS, "after terminate() in the middle of a reset")

    def test_terminate_after_the_loop_was_closed(self) -> None:
        """A program that ends without closing its pool leaves no session behind and gets no error."""
        driver = self.backend.driver()
        opened: list[Any] = []

        async def leave_it_open() -> None:
            opened.append(await self.ends(driver.connect(), Promise.CONNECT, "connect()"))

        self._after_the_loop(driver, leave_it_open, opened, "on a closed event loop")

    def test_terminate_after_the_loop_was_closed_during_a_request(self) -> None:
        """Ctrl-C during a long request ends its session without a traceback."""
        driver = self.backend.driver()
        opened: list[Any] = []

        async def interrupted() -> None:
            opened.append(await self.ends(driver.connect(), Promise.CONNECT, "connect()"))
            await self.backend.cancel_slow(opened[0])

        self._after_the_loop(driver, interrupted, opened, "on a closed event loop, a request under way")

    def _after_the_loop(self, driver: Any, leave_open: Any, opened: list[Any], when: str) -> None:
        with warnings.catch_warnings():
            # uvloop warns of what is left open, and never ends closing where warnings are errors.
            warnings.simplefilter("ignore", ResourceWarning)
            with asyncio.Runner(loop_factory=self.new_loop) as runner:
                runner.run(leave_open())
        with asyncio.Runner(loop_factory=self.new_loop) as runner:
            # Here and not outside: an unclosed socket would be closed by the collector.
            self.terminated(driver, opened.pop(), when)
            gc.collect()
            runner.run(self.none_left(Promise.TERMINATE_ENDS, f"after terminate() {when}"))

    def is_known_closed(self, driver: Any, conn: Any, after: str) -> None:
        """See that is_closed() says so, where it can.

        Raises:
            ContractBroken: it does not.
        """
        if self.backend.knows is not Knows.NOTHING and not driver.is_closed(conn):
            raise Promise.KNOWN_CLOSED.broken(f"is_closed() is False after {after}")

    # -- cancelled and failed calls ---------------------------------------------------------------

    @about_connects
    async def test_a_cancelled_connect_leaves_nothing(self) -> None:
        """Wherever a connect is cancelled, no thread, socket or session stays."""
        driver = self.backend.driver()

        async def connecting() -> Coroutine[Any, Any, Any]:
            connect: Coroutine[Any, Any, Any] = driver.connect()
            return connect

        async def ended(task: asyncio.Task[Any]) -> None:
            if not task.cancelled() and task.exception() is None and task.result() is not None:
                driver.terminate(task.result())

        for moment in Moment:
            await cancelled_at_every_await(
                connecting, what="connect()", moment=moment, ended=ended, patience=self.patience
            )
            await self.none_left(Promise.HALF_MADE, f"after connects cancelled {moment.value}")

    @in_a_loop
    async def test_a_cancelled_ping_reset_or_close_can_be_terminated(self) -> None:
        """The pool cancels these calls when their time is up, and terminates the connection."""
        driver = self.backend.driver()
        conn: Any = None

        async def on_a_new_connection() -> Coroutine[Any, Any, Any]:
            nonlocal conn
            conn = await driver.connect()
            call: Coroutine[Any, Any, Any] = getattr(driver, verb)(conn)
            return call

        async def ended(_: asyncio.Task[Any]) -> None:
            self.terminated(driver, conn, f"after a cancelled {verb}()")

        for verb in _ASYNC[1:]:
            for moment in Moment:
                await cancelled_at_every_await(
                    on_a_new_connection,
                    what=f"{verb}()", moment=moment, ended=ended, patience=self.patience,
                )  # fmt: skip
            await self.none_left(Promise.TERMINATE_ENDS, f"after a cancelled {verb}() and terminate()")

    @about_connects
    async def test_a_failed_connect_leaves_nothing_and_says_why(self) -> None:
        """A wrong database costs no thread and no session, and nobody tries it again and again."""
        driver = self.backend.driver(**self.backend.nowhere)
        where = f"connect() with {dict(self.backend.nowhere)}"

        error = await self.fails(driver.connect(), Promise.PERMANENT, where)

        if self.backend.nowhere_said not in str(error):
            raise Promise.PERMANENT.broken(
                f"{where} said {describe(error)}, not {self.backend.nowhere_said!r}"
            )
        if self.backend.tells_permanent and not driver.is_permanent(error):
            raise Promise.PERMANENT.broken(f"is_permanent() is False for {describe(error)}")
        await self.none_left(Promise.HALF_MADE, "after a connect that failed")

    def test_what_may_pass_is_not_permanent(self) -> None:
        """A timeout, a borrower's own error: nothing that would close the pool for good."""
        driver = self.backend.driver()
        for error in (TimeoutError(), ConnectionResetError(), ValueError("x"), asyncio.CancelledError()):
            if driver.is_permanent(error):
                raise Promise.PERMANENT.broken(f"is_permanent() is True for {type(error).__name__}")

    # -- verdicts ---------------------------------------------------------------------------------

    @in_a_loop
    async def test_a_lost_connection_is_discarded(self) -> None:
        """Nobody gets a connection that is known to be gone; neither ping nor reset is content with it."""
        for level in LEVELS:
            driver = self.backend.at_level(level)
            conn = await self.open(driver)
            resets = driver.after_lease(conn, None) is Verdict.RESET

            await self.cut(driver, conn)

            errors: list[BaseException | None] = [ConnectionResetError("gone")]
            if self.backend.knows is not Knows.NOTHING:
                errors += [None, asyncio.CancelledError(), ValueError("the borrower's own")]
            for error in errors:
                verdict = driver.after_lease(conn, error)
                if verdict not in _GONE:
                    raise Promise.LOST.broken(f"after {error!r} at level {level} it said {verdict}")
            await self.fails(driver.ping(conn), Promise.PING, "ping() of a terminated connection")
            if resets:
                await self.fails(driver.reset(conn), Promise.RESET, "reset() of a terminated connection")

    @in_a_loop
    async def test_the_verdict_after_a_question_is_the_one_that_was_written_down(self) -> None:
        """All went well: the connection is kept, or reset."""
        for level in LEVELS:
            driver = self.backend.at_level(level)
            conn = await self.open(driver)
            await self.answers(conn, 1, "on a fresh connection")

            self.is_expected(driver.after_lease(conn, None), self.backend.after_question, level, "a question")

            conn = await self.back(driver, conn, None)
            await self.answers(conn, 2, f"after a lease at level {level}")
            driver.terminate(conn)

    @in_a_loop
    async def test_a_cancelled_request_is_never_passed_on(self) -> None:
        """Whoever comes next gets an answer at once, and nothing of the cancelled request."""
        for level in LEVELS:
            driver = self.backend.at_level(level)
            conn = await self.open(driver)

            for number in range(2):
                error = await self.backend.cancel_slow(conn)
                verdict = driver.after_lease(conn, error)
                self.is_expected(verdict, self.backend.after_cancel, level, "a cancelled request")
                conn = await self.back(driver, conn, error)
                await self.answers(conn, number, f"after a cancelled request at level {level}")
            driver.terminate(conn)

    @in_a_loop
    async def test_a_connection_can_be_reset_again_and_again(self) -> None:
        """Every lease ends with one."""
        driver = self.backend.driver()
        conn = await self.open(driver)

        for _ in range(10):
            await self.ends(driver.reset(conn), Promise.RESET, "reset() of an open connection")

        await self.answers(conn, 3, "after ten resets")

    # -- descriptors ------------------------------------------------------------------------------

    @in_a_loop
    async def test_the_descriptors_of_a_connection_are_its_own(self) -> None:
        """Where the driver names them, they are open sockets of this connection, and none after its end."""
        driver: Any = self.backend.driver()
        if not isinstance(driver, ForkAware):
            return
        first, second = await self.open(driver), await self.open(driver)
        if set(driver.filenos(first)) & set(driver.filenos(second)):
            raise Promise.FORK.broken("two connections name the same descriptor")

        self.terminated(driver, first, "on an open connection")

        async def is_let_go() -> bool:
            return not driver.filenos(first)

        try:
            await until(is_let_go, within=self.patience)
        except TimeoutError:
            raise Promise.FORK.broken("a terminated connection still names a descriptor") from None

    # -- through the pool -------------------------------------------------------------------------

    @in_a_loop
    async def test_a_storm_of_cancellations_spoils_no_answer(self) -> None:
        """Borrower after borrower on one connection, most of them cancelled somewhere: the verdicts hold."""
        for level in LEVELS:
            driver = self.backend.at_level(level)
            conn = await self.open(driver)
            draw = random.Random(11)
            for number in range(0, _STORM, 3):
                task = asyncio.create_task(_asking(self.backend, conn, number))
                for _ in range(draw.randrange(40)):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait({task}, timeout=self.patience)
                error = asyncio.CancelledError() if task.cancelled() else task.exception()
                if isinstance(error, WrongAnswer):
                    raise Promise.ANSWERS.broken(f"at level {level}: {error}")
                conn = await self.back(driver, conn, error)
            await self.answers(conn, 1, f"after a storm of cancellations at level {level}")
            driver.terminate(conn)

    @in_a_loop
    async def test_cancelled_borrowers_of_a_pool_never_spoil_the_next_ones_answer(self) -> None:
        """Many of them are cancelled; every answer belongs to its question, and the books balance."""
        draw = random.Random(7)
        served = 0

        async def borrow(number: int, lent: asyncio.Event) -> None:
            nonlocal served
            try:
                async with pool.acquire() as conn:
                    lent.set()
                    await _asking(self.backend, conn, number)
            finally:
                lent.set()
            served += 1

        async def storm(number: int) -> None:
            lent = asyncio.Event()
            task = asyncio.create_task(borrow(number, lent))
            fate = draw.random()
            if fate < 0.4:
                if fate < 0.3:  # the others wait in the queue
                    await lent.wait()
                for _ in range(draw.randrange(12)):
                    await asyncio.sleep(0)
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        async with self.pool(self.backend.driver(), max_size=3) as pool:
            try:
                await asyncio.gather(*(storm(3 * number) for number in range(_LEASES)))
            except WrongAnswer as error:
                raise Promise.ANSWERS.broken(str(error)) from error
            except PoolError as error:
                raise Promise.BOOKS.broken(f"a borrower got {describe(error)}") from error
            await until_quiet(pool)
            await self.none_left(Promise.BOOKS, "while the pool is at rest", left=pool.status().total)

        if not served:
            raise Promise.BOOKS.broken("nobody was served")

    @in_a_loop
    async def test_closing_the_pool_ends_every_session(self) -> None:
        """Borrowed ones too, in the middle of a request."""
        async with self.pool(self.backend.driver()) as pool:
            lent = [await pool.lease() for _ in range(3)]
            slow = await self.backend.start_slow(lent[0].connection)
            lent[2].release()

            await self.ends(pool.close(timeout=0.1), Promise.CLOSE, "closing the pool")

        await asyncio.wait({slow}, timeout=self.patience)
        if not slow.done():
            slow.cancel()
            raise Promise.TERMINATE_ENDS.broken("a request still waits on a connection of a closed pool")
        if not slow.cancelled():
            slow.exception()
        del slow
        await self.none_left(Promise.BOOKS, "after the pool was closed")


class WrongAnswer(Exception):
    """A question got the answer of another one."""


async def _asking(backend: Backend, conn: Any, first: int) -> None:
    for number in range(first, first + 3):
        answer = await backend.ask(conn, number)
        if answer != number:
            raise WrongAnswer(f"question {number!r} got the answer {answer!r}")


async def until_quiet(pool: Any) -> None:
    """Return when nothing in the pool is opening, borrowed, being reset or closing."""

    async def is_quiet() -> bool:
        status = pool.status()
        return bool(status.total == status.idle)

    await until(is_quiet)


async def _watched(call: Coroutine[Any, Any, Any]) -> tuple[Any, float]:
    """The result of a call, and the longest time (seconds) that the loop did not get to run anything else."""
    longest_s = 0.0
    last = time.monotonic()
    loop = asyncio.get_running_loop()
    handle: asyncio.Handle

    def tick() -> None:
        nonlocal longest_s, last, handle
        now = time.monotonic()
        longest_s, last = max(longest_s, now - last), now
        handle = loop.call_soon(tick)

    handle = loop.call_soon(tick)
    try:
        result = await call
        await asyncio.sleep(0)
    finally:
        handle.cancel()
    return result, longest_s
