"""What a driver promises whose connections have sessions: transactions, settings, things of their own."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any, Final

from millpond.driver import Verdict
from millpond.errors import describe
from millpond.testing.contract.backend import LEVELS
from millpond.testing.contract.base import Contract, in_a_loop
from millpond.testing.contract.promises import Promise

_STORM: Final = 90


class SessionContract(Contract):
    """What one borrower leaves open, the next one does not find.

    Needs `begin`, `rows`, `fail`, `change`, `state`.
    """

    @in_a_loop
    async def test_an_open_transaction_never_reaches_the_next_borrower(self) -> None:
        """It is rolled back where a reset is wanted, else the connection goes with it; at every level."""
        for level in LEVELS:
            driver = self.backend.at_level(level)
            conn = await self.open(driver)
            for error in (None, ValueError("the borrower's own"), asyncio.CancelledError()):
                await self.ends(self.backend.begin(conn), Promise.TRANSACTION, "beginning a transaction")

                verdict = driver.after_lease(conn, error)
                self.is_expected(verdict, self.backend.after_begin, level, "a lease with a transaction open")
                conn = await self.back(driver, conn, error)

                await self._no_rows(conn, f"after a lease that ended with {error!r} at level {level}")
            driver.terminate(conn)

    @in_a_loop
    async def test_a_reset_rolls_back(self) -> None:
        """What the last borrower did not commit did not happen, whoever asks for the reset."""
        for level in LEVELS[1:]:
            driver = self.backend.at_level(level)
            conn = await self.open(driver)
            await self.ends(self.backend.begin(conn), Promise.TRANSACTION, "beginning a transaction")

            await self.ends(driver.reset(conn), Promise.RESET, "reset() in a transaction")

            await self._no_rows(conn, f"after a reset at level {level}")
            driver.terminate(conn)

    @in_a_loop
    async def test_resetting_what_is_lost_in_a_transaction_fails(self) -> None:
        """A reset that did nothing must not pass for one that did."""
        driver = self.backend.driver()
        conn = await self.open(driver)
        await self.ends(self.backend.begin(conn), Promise.TRANSACTION, "beginning a transaction")

        await self.cut(driver, conn)

        await self.fails(driver.reset(conn), Promise.RESET, "reset() of a connection that is gone")

    @in_a_loop
    async def test_a_full_reset_leaves_nothing_of_the_last_borrower(self) -> None:
        """Whatever was changed is as it was, or the connection goes; after each of several leases."""
        driver = self.backend.at_level("full")
        conn = await self.open(driver)
        before = await self.backend.state(conn)
        for lease in ("first", "second"):
            await self.ends(self.backend.change(conn), Promise.CLEAN, "Backend.change()")
            meanwhile = await self.backend.state(conn)
            if meanwhile == before:
                raise Promise.CLEAN.broken("Backend.change() changes nothing that Backend.state() shows")

            conn = await self.back(driver, conn, None)

            after = await self.backend.state(conn)
            if after != before:
                raise Promise.CLEAN.broken(
                    f"after the {lease} lease: {after!r}, after connecting: {before!r}"
                )

    @in_a_loop
    async def test_an_error_of_the_borrowers_own_condemns_nothing(self) -> None:
        """A handler that fails for its own reasons costs no more than one that does not."""
        for level in LEVELS:
            driver = self.backend.at_level(level)
            conn = await self.open(driver)
            await self.answers(conn, 1, "on a fresh connection")

            well, badly = (driver.after_lease(conn, error) for error in (None, ValueError("no such user")))

            if well is not badly:
                raise Promise.OWN_ERROR.broken(
                    f"at level {level} it said {well}, and {badly} after a ValueError"
                )
            driver.terminate(conn)

    @in_a_loop
    async def test_a_request_that_was_refused_condemns_nothing(self) -> None:
        """A wrong statement is the borrower's fault, not the connection's."""
        for level in LEVELS:
            driver = self.backend.at_level(level)
            conn = await self.open(driver)

            error = await self.fails(self.backend.fail(conn), Promise.VERDICT, "Backend.fail()")

            verdict = driver.after_lease(conn, error)
            expected = self.backend.after_failure.get(level, verdict)
            if verdict is not expected or verdict not in (Verdict.KEEP, Verdict.RESET):
                said = f"at level {level} it said {verdict} after {describe(error)}"
                raise Promise.OWN_ERROR.broken(f"{said}, not {expected}" if verdict is not expected else said)
            conn = await self.back(driver, conn, error)
            await self.answers(conn, 5, "after a request that was refused")
            driver.terminate(conn)

    @in_a_loop
    async def test_a_request_that_was_cancelled_before_it_began_leaves_no_trace(self) -> None:
        """A borrower that is cancelled at once has written nothing that stays."""
        driver = self.backend.driver()
        conn = await self.open(driver)

        for _ in range(5):
            task = asyncio.create_task(self.backend.begin(conn))
            await asyncio.sleep(0)
            task.cancel()
            (error,) = await asyncio.gather(task, return_exceptions=True)
            conn = await self.back(driver, conn, error)

        await self._no_rows(conn, "after requests that were cancelled at once")

    @in_a_loop
    async def test_transactions_that_are_cancelled_somewhere_leave_no_trace(self) -> None:
        """Borrowers write in transactions and are cancelled anywhere: no row stays, at any level."""
        for level in LEVELS:
            driver = self.backend.at_level(level)
            conn = await self.open(driver)
            draw = random.Random(11)
            for number in range(0, _STORM, 3):
                task = asyncio.create_task(self._write(conn, number))
                for _ in range(draw.randrange(40)):
                    await asyncio.sleep(0)
                task.cancel()
                (error,) = await asyncio.gather(task, return_exceptions=True)
                conn = await self.back(driver, conn, error)
            await self._no_rows(conn, f"after a storm of cancellations at level {level}")
            await self.answers(conn, 1, f"after a storm of cancellations at level {level}")
            driver.terminate(conn)

    @in_a_loop
    async def test_a_borrower_of_a_pool_cancelled_in_a_transaction_leaves_no_row(self) -> None:
        """The next one finds neither the row nor the transaction."""
        async with self.pool(self.backend.driver(), max_size=1) as pool:
            borrowed = asyncio.Event()

            async def borrow() -> None:
                async with pool.acquire() as conn:
                    await self.backend.begin(conn)
                    borrowed.set()
                    await asyncio.Event().wait()

            task = asyncio.create_task(borrow())
            await self.ends(borrowed.wait(), Promise.TRANSACTION, "a borrower's transaction")
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

            async with pool.acquire() as conn:
                await self._no_rows(conn, "after a borrower that was cancelled in a transaction")

    @in_a_loop
    async def test_a_pool_hands_on_what_is_clean_to_its_reset_level(self) -> None:
        """No transaction of another at any level, nothing of another's session at `full`."""
        for level in LEVELS:
            async with self.pool(self.backend.driver(), max_size=1, reset=level) as pool:
                async with pool.acquire() as conn:
                    before = await self.backend.state(conn)
                    await self.backend.begin(conn)
                async with pool.acquire() as conn:
                    await self._no_rows(conn, f"in a pool with reset {level!r}")
                    if level != "full":
                        continue
                    await self.backend.change(conn)
                async with pool.acquire() as conn:
                    after = await self.backend.state(conn)
                if after != before:
                    raise Promise.CLEAN.broken(f"in a pool: {after!r}, after connecting: {before!r}")

    async def _write(self, conn: Any, number: int) -> None:
        await self.backend.begin(conn)
        answer = await self.backend.ask(conn, number)
        if answer != number:
            raise Promise.ANSWERS.broken(f"question {number!r} got the answer {answer!r}")

    async def _no_rows(self, conn: Any, when: str) -> None:
        rows = await self.ends(self.backend.rows(conn), Promise.TRANSACTION, f"counting rows {when}")
        if rows:
            raise Promise.TRANSACTION.broken(
                f"{when} the next borrower sees {rows} rows that nobody committed"
            )
