"""Who gets how many turns, and who waits how long, when more tasks want a connection than there are."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from benchmarks.harness import Measure, Rounds, Sample, interleave, percentile
from benchmarks.subjects import Subject

OVERLOADS: Final = (1.5, 3.0, 10.0)
LEAST, MOST, UNFAIR = "least", "most", "most/least"
WAITS: Final = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "longest": 1.0}


def loopers(subject: Subject, overload: float, *, turns: int, connections: int = 10) -> Measure:
    """Turns and waits of tasks that borrow in a loop, until they have had `turns` each on average.

    A turn here holds for one step of the loop and asks again at once, which is how a worker that empties a
    queue behaves. Waits are in microseconds, from asking to having. Turns stop to count when the last one
    on average has been had; who waits then is served all the same, so that the longest wait is heard of.
    Nobody is cancelled: some pools would lose a connection by it.
    """
    tasks = int(connections * overload)

    async def run() -> Sample:
        had, waits = [0] * tasks, []
        left = tasks * turns
        clock = time.perf_counter

        async def loop(number: int) -> None:
            nonlocal left
            while left > 0:
                asked_at = clock()
                async with subject.lease():
                    waits.append(clock() - asked_at)
                    await asyncio.sleep(0)
                if left > 0:
                    had[number] += 1
                    left -= 1

        await asyncio.gather(*(loop(number) for number in range(tasks)))
        least, most = min(had), max(had)
        return {
            LEAST: least,
            MOST: most,
            UNFAIR: most / max(1, least),
            **{name: percentile(waits, share) * 1e6 for name, share in WAITS.items()},
        }

    return run


async def turns_and_waits(subjects: list[Subject], rounds: int, *, turns: int = 50) -> dict[float, Rounds]:
    """Every pool at every overload."""
    return {
        overload: await interleave(
            {one.name: loopers(one, overload, turns=turns) for one in subjects}, rounds=rounds
        )
        for overload in OVERLOADS
    }
