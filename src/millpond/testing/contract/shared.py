"""What a driver promises whose connections serve several borrowers at once."""

from __future__ import annotations

import asyncio
import random
from typing import Any, Final

from millpond.driver import Verdict
from millpond.testing.contract.base import Contract, in_a_loop
from millpond.testing.contract.every import until_quiet
from millpond.testing.contract.promises import Promise

_BORROWERS: Final = 200
_AT_ONCE: Final = 8


class SharedContract(Contract):
    """Several leases on one connection, each as if it were alone."""

    @in_a_loop
    async def test_borrowers_of_one_connection_get_their_own_answers(self) -> None:
        """Asked at the same time, on the same connection."""
        driver = self.backend.driver()
        conn = await self.open(driver)

        answers = await self.ends(
            asyncio.gather(*(self.backend.ask(conn, number) for number in range(_AT_ONCE))),
            Promise.SHARED, "questions at the same time on one connection",
        )  # fmt: skip

        if answers != list(range(_AT_ONCE)):
            raise Promise.SHARED.broken(f"questions 0 to {_AT_ONCE - 1} got the answers {answers}")

    @in_a_loop
    async def test_one_that_is_cancelled_harms_no_other(self) -> None:
        """Its request is taken back; the others' go on, and the connection is kept."""
        driver = self.backend.driver()
        conn = await self.open(driver)
        slow = await self.backend.start_slow(conn)

        error = await self.backend.cancel_slow(conn)
        verdict = driver.after_lease(conn, error)

        if verdict is not Verdict.KEEP:
            raise Promise.SHARED.broken(f"after one borrower was cancelled it said {verdict}")
        await self.answers(conn, 5, "beside a cancelled borrower")
        if slow.done():
            raise Promise.SHARED.broken("a request ended with the cancellation of another")
        slow.cancel()
        await asyncio.wait({slow}, timeout=self.patience)

    @in_a_loop
    async def test_a_storm_of_cancellations_in_a_shared_pool_spoils_no_answer(self) -> None:
        """And opens no more connections than the leases need."""
        draw = random.Random(7)

        async def borrow(number: int) -> None:
            async with pool.acquire() as conn:
                answer = await self.backend.ask(conn, number)
                if answer != number:
                    raise Promise.SHARED.broken(f"question {number} got the answer {answer}")

        async def storm(number: int) -> Any:
            task = asyncio.create_task(borrow(number))
            if draw.random() < 0.5:
                for _ in range(draw.randrange(12)):
                    await asyncio.sleep(0)
                task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            return outcome

        shared = {"max_size": 2, "max_leases_per_connection": _AT_ONCE}
        async with self.pool(self.backend.driver(), **shared) as pool:
            outcomes = await asyncio.gather(*(storm(number) for number in range(_BORROWERS)))
            await until_quiet(pool)
            opened = pool.stats().opened
            await self.none_left(Promise.BOOKS, "while the pool is at rest", left=pool.status().total)

        for error in outcomes:
            if isinstance(error, Exception):
                raise error
        if None not in outcomes:
            raise Promise.SHARED.broken("nobody was served")
        if opened > 2:
            raise Promise.SHARED.broken(f"{opened} connections were opened where two do")
