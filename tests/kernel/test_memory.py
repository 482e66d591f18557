"""A pool keeps nothing of what is over: the kernel's own objects are counted."""

import asyncio
import contextlib
import gc
from collections import Counter

from millpond import PoolError
from millpond._core.calls import Call
from millpond._core.lease import Acquire
from millpond._core.slot import Slot
from millpond._core.waiters import Waiter
from millpond.testing.driver import BackendDown, Fail, Verdict
from tests.kernel.worlds import World, in_world

KINDS = (Slot, Call, Waiter, Acquire)


def alive() -> Counter[str]:
    """How many of the kernel's objects there are."""
    gc.collect()
    return Counter(type(each).__name__ for each in gc.get_objects() if type(each) in KINDS)


def test_a_pool_keeps_nothing_of_what_is_over() -> None:
    """Leases, waits, time-outs, connects that fail, resets, closes: hundreds of each; two idle slots stay."""
    counts: list[Counter[str]] = []

    async def story(world: World) -> None:
        async def borrow(number: int) -> None:
            with contextlib.suppress(PoolError):
                async with world.pool.acquire(timeout=0.05):
                    await asyncio.sleep(0.01 * (number % 4))

        world.backend.clean_verdict = Verdict.RESET
        before = alive()
        for _ in range(100):
            world.backend.connect_script.append(Fail(BackendDown()))
            await asyncio.gather(*(borrow(number) for number in range(20)))
        await asyncio.sleep(1)
        counts.append(alive() - before)
        assert world.pool.status().idle == world.pool.status().total

    world = in_world(story, max_size=2, max_uses=3, retry_delay=0.01, failure_threshold=None)
    stats = world.pool.stats()

    assert min(stats.opened, stats.open_failures, stats.resets, stats.timed_out, stats.waited) > 90
    assert counts[0] == Counter(Slot=counts[0]["Slot"])
    assert counts[0]["Slot"] <= 2
