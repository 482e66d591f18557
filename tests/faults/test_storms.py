"""Borrowers cancelled at random, mostly in the middle of a request: no answer goes astray, nothing stays.

`make fuzz` raises the number of cancellations by `MILLPOND_CANCELLATIONS`, and draws from another
`MILLPOND_SEED`.
"""

import asyncio
import os
import random
import time
from collections import Counter
from typing import Any, Final

import pytest

from millpond import ConnectionPool
from tests import summary
from tests.drivers.backends import until
from tests.faults.subjects import Subject
from tests.faults.traffic import pool_of, strangers

CANCELLATIONS: Final = int(os.environ.get("MILLPOND_CANCELLATIONS", "2000"))
SEED: Final = int(os.environ.get("MILLPOND_SEED", "20261121"))
AT_ONCE: Final = 12
UNHURRIED: Final = {
    "acquire_timeout": 30.0, "connect_timeout": 10.0, "reset_timeout": 10.0, "health_check_timeout": 10.0,
}  # fmt: skip
"""Nobody runs out of time here: whatever ends is cancelled, or right."""


class Storm:
    """Borrowers who ask, and somebody who cancels them.

    Attributes:
        counted: requests, right and wrong answers, and cancellations: those that hit a borrower in the
            middle of a request (`cancelled`), and those that came before or after one (`elsewhere`);
            requests that the library failed for a reason of its own (`excused`).
    """

    def __init__(self, subject: Subject, pool: ConnectionPool[Any]) -> None:
        self.subject, self.pool = subject, pool
        self.counted: Counter[str] = Counter()
        self._draw = random.Random(SEED)

    async def rage(self) -> None:
        """Go on until enough borrowers have been cancelled in the middle of a request."""
        await asyncio.gather(*(self._cancel() for _ in range(AT_ONCE)))

    async def _cancel(self) -> None:
        while self.counted["cancelled"] < CANCELLATIONS:
            self.counted["borrowers"] += 1
            borrower = Borrower(self, self.counted["borrowers"] * 10)
            task = asyncio.create_task(borrower.work())
            if self._draw.random() < 0.9:
                await borrower.began.wait()
            for _ in range(self._draw.randrange(25)):
                await asyncio.sleep(0 if self._draw.random() < 0.95 else 0.001)
            was_asking = borrower.is_asking
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(outcome, asyncio.CancelledError):
                self.counted["cancelled" if was_asking else "elsewhere"] += 1
            elif outcome is not None and self.subject.is_excused(outcome):
                self.counted["excused"] += 1
            elif outcome is not None:
                raise outcome


class Borrower:
    """One lease with a few questions in it, some of them in a transaction that is left open."""

    def __init__(self, storm: Storm, question: int) -> None:
        self.began = asyncio.Event()
        self.is_asking = False
        self._storm, self._question = storm, question

    async def work(self) -> None:
        storm, subject = self._storm, self._storm.subject
        async with storm.pool.acquire() as conn:
            self.began.set()  # who cancels waits for this, unless it is to come early
            self.is_asking = True
            for number in range(self._question, self._question + 3):
                storm.counted["requests"] += 1
                self._hear(await subject.backend.ask(conn, number), number)
            if subject.has_transactions and storm._draw.random() < 0.3:
                storm.counted["requests"] += 1
                answer, rows = await subject.transact(conn, self._question + 3)
                self._hear(answer, self._question + 3)
                storm.counted["wrong"] += rows
            self.is_asking = False

    def _hear(self, answer: int, number: int) -> None:
        self._storm.counted["right" if answer == number else "wrong"] += 1


@pytest.mark.timeout(600)
@pytest.mark.needs("storms")
async def test_a_storm_of_cancellations(subject: Subject) -> None:
    """Answers belong to their questions, no row is left, and the server lists just the pool's sessions."""
    began = time.monotonic()
    async with pool_of(subject, max_size=4, **UNHURRIED) as pool:
        storm = Storm(subject, pool)
        await storm.rage()
        leaked = await strangers(subject, pool)
        rows = 0
        if subject.has_transactions:
            async with pool.acquire() as conn:
                rows = await subject.backend.rows(conn)
        opened = pool.stats().opened

    async def is_gone() -> bool:
        return not await subject.numbers()

    await until(is_gone)
    counted = storm.counted
    took = time.monotonic() - began
    summary.storm(subject.name, counted, opened=opened, what="connections", leaked=leaked, seconds=took)

    assert counted["wrong"] == 0
    assert counted["right"] > 0
    # They come in bursts, the more the busier the machine: without a pool up to 0.9 % were seen.
    assert counted["excused"] <= counted["requests"] / 20
    assert rows == 0
    assert leaked == 0
