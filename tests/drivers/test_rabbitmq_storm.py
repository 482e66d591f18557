"""Borrowers cancelled at random in the middle of publishes and gets: no message is lost or doubled."""

import asyncio
import os
import random
import time
from collections import Counter
from typing import Any, Final

from millpond import ConnectionPool, PoolSettings
from tests import summary
from tests.drivers.backends import until_quiet
from tests.drivers.rabbitmq_backend import RabbitMQ

CANCELLATIONS: Final = int(os.environ.get("MILLPOND_CANCELLATIONS", "2000"))
SEED: Final = int(os.environ.get("MILLPOND_SEED", "20261121"))
TURNS: Final = 60  # of the loop; a borrower is cancelled after fewer than so many
AT_ONCE: Final = 8
MOST: Final = 6
SHELVES: Final = 4  # queues whose messages say which queue they lie in
ON_EACH: Final = 20


async def test_a_storm_of_cancellations_in_confirmed_publishes_and_gets(rabbitmq: RabbitMQ) -> None:
    """Every message that was confirmed is in the queue exactly once; every answer belongs to its question."""
    began = time.monotonic()
    kept, shelves = f"{rabbitmq.prefix}.kept", [f"{rabbitmq.prefix}.shelf-{n}" for n in range(SHELVES)]
    for each in (kept, *shelves):
        rabbitmq.server.declare(each)
    settings = PoolSettings(min_size=0, max_size=MOST, acquire_timeout=30.0, validate_after_idle=None)
    pool = ConnectionPool(rabbitmq.driver(channels_per_connection=4), settings=settings, name="storm")
    async with pool.acquire() as conn:
        for each in shelves:
            for _ in range(ON_EACH):
                await rabbitmq.publish(conn, each, each)
    draw = random.Random(SEED)
    counted: Counter[str] = Counter()
    begun: set[str] = set()
    asking: set[int] = set()  # the borrowers that wait for the server
    confirmed: set[str] = set()

    async def borrow(number: int, has_begun: asyncio.Event) -> None:
        async with pool.acquire() as conn:
            has_begun.set()  # who cancels waits for this, unless it is to come early
            shelf = shelves[number % SHELVES]
            lane = await conn.get_underlay_channel()
            asking.add(number)
            for each in range(2):
                body = f"{number}.{each}"
                begun.add(body)
                counted["requests"] += 1
                await rabbitmq.publish(conn, body, kept)
                confirmed.add(body)
                counted["requests"] += 1
                got = await lane.basic_get(shelf)
                counted["right" if got.body.decode() == shelf == got.routing_key else "wrong"] += 1
                if draw.random() < 0.5:
                    await lane.basic_nack(got.delivery.delivery_tag)
            asking.discard(number)

    async def storm() -> None:
        while counted["cancelled"] < CANCELLATIONS:
            counted["borrowers"] += 1
            number = counted["borrowers"]
            has_begun = asyncio.Event()
            task = asyncio.create_task(borrow(number, has_begun))
            if draw.random() < 0.9:
                await has_begun.wait()
            for _ in range(draw.randrange(TURNS)):
                await asyncio.sleep(0)
            was_asking = number in asking
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(outcome, asyncio.CancelledError):
                counted["cancelled" if was_asking else "elsewhere"] += 1
            elif outcome is not None:
                raise outcome

    await asyncio.gather(*(storm() for _ in range(AT_ONCE)))

    leaked, connections = await _strangers(rabbitmq, pool), await rabbitmq.connections()
    opened, own = pool.stats().opened, pool.driver.connections  # type: ignore[attr-defined]
    found = await _all_of(rabbitmq, pool, kept)
    on_shelves = [rabbitmq.server.messages(each) for each in shelves]
    await pool.close(timeout=5.0)
    await rabbitmq.gone()
    took = time.monotonic() - began
    summary.storm("rabbitmq", counted, opened=opened, what="channels", leaked=leaked, seconds=took)
    summary.say(
        "messages in that storm, rabbitmq",
        f"{len(begun)} published, {len(confirmed)} confirmed, {found.total()} there, "
        f"{len(confirmed - set(found))} lost, {found.total() - len(found)} doubled",
    )

    assert counted["wrong"] == 0
    assert counted["right"] > 0
    assert not confirmed - set(found), "confirmed, and not there"
    assert set(found) <= begun, "there, and never published"
    assert set(found.values()) == {1}
    assert on_shelves == [ON_EACH] * SHELVES
    assert leaked == 0
    assert own == connections <= 2


async def _strangers(rabbitmq: RabbitMQ, pool: Any) -> int:
    """How many channels the server lists that are not the pool's, or the other way round."""
    await until_quiet(pool)
    try:
        await rabbitmq.gone(left=pool.status().total)
    except TimeoutError:
        return max(1, abs(await rabbitmq.sessions() - pool.status().total))
    return 0


async def _all_of(rabbitmq: RabbitMQ, pool: Any, queue: str) -> Counter[str]:
    found: Counter[str] = Counter()
    async with pool.acquire() as conn:
        taken = await conn.get_queue(queue)
        while (message := await taken.get(no_ack=True, fail=False)) is not None:
            found[message.body.decode()] += 1
    return found
