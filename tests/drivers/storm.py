"""A storm: many borrowers at once, each cancelled at random in the middle of what it does."""

import asyncio
import os
import random
from collections import Counter
from typing import Any, Final

from tests.drivers.backends import Backend, until

CANCELLATIONS: Final = int(os.environ.get("MILLPOND_CANCELLATIONS", "2000"))
SEED: Final = 20261121


async def cancel_at_random(pool: Any, backend: Backend, *, at_once: int, turns: int) -> Counter[str]:
    """Cancel borrowers until there were `CANCELLATIONS`; returns the counts when the pool is at rest.

    Args:
        pool: whose connections are borrowed.
        backend: what is asked; three in ten borrowers open a transaction first, and leave it open.
        at_once: how many borrowers there are at any time.
        turns: of the event loop; a borrower is cancelled after fewer than so many.
    """
    draw = random.Random(SEED)
    counted: Counter[str] = Counter()

    async def borrow(question: int) -> None:
        async with pool.acquire() as conn:
            if draw.random() < 0.3:
                await backend.begin(conn)
            for each in range(question, question + 3):
                counted["requests"] += 1
                answer = await backend.ask(conn, each)
                counted["right" if answer == each else "wrong"] += 1

    async def storm() -> None:
        while counted["cancelled"] < CANCELLATIONS:
            counted["borrowers"] += 1
            task = asyncio.create_task(borrow(counted["borrowers"] * 10))
            for _ in range(draw.randrange(turns)):
                await asyncio.sleep(0)
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            counted["cancelled" if isinstance(outcome, asyncio.CancelledError) else "finished"] += 1
            assert outcome is None or isinstance(outcome, asyncio.CancelledError)

    await asyncio.gather(*(storm() for _ in range(at_once)))

    async def is_quiet() -> bool:
        status = pool.status()
        return status.total == status.idle

    await until(is_quiet)
    return counted
