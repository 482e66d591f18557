"""Borrowers cancelled at random in the middle of publishes and gets: no message is lost or doubled."""

import asyncio
import os
import random
from collections import Counter
from typing import Any, Final

from millpond import ConnectionPool, PoolSettings
from tests import summary
from tests.drivers.backends import until
from tests.drivers.rabbitmq_backend import RabbitMQ

CANCELLATIONS: Final = int(os.environ.get("MILLPOND_CANCELLATIONS", "2000"))
TURNS: Final = 120  # of the loop; a borrower is cancelled after fewer than so many
AT_ONCE: Final = 8
MOST: Final = 6
SHELVES: Final = 4  # queues whose messages say which queue they lie in
ON_EACH: Final = 20


async def test_a_storm_of_cancellations_in_confirmed_publishes_and_gets(rabbitmq: RabbitMQ) -> None:
    """Every message that was confirmed is in the queue exactly once; every answer belongs to its question."""
    kept, shelves = f"{rabbitmq.prefix}.kept", [f"{rabbitmq.prefix}.shelf-{n}" for n in range(SHELVES)]
    for each in (kept, *shelves):
        rabbitmq.server.declare(each)
    settings = PoolSettings(min_size=0, max_size=MOST, acquire_timeout=30.0, validate_after_idle=None)
    pool = ConnectionPool(rabbitmq.driver(channels_per_connection=4), settings=settings, name="storm")
    async with pool.acquire() as conn:
        for each in shelves:
            for _ in range(ON_EACH):
                await rabbitmq.publish(conn, each, each)
    draw = random.Random(20261121)
    counted: Counter[str] = Counter()
    begun: set[str] = set()
    confirmed: set[str] = set()

    async def borrow(number: int) -> None:
        async with pool.acquire() as conn:
            shelf = shelves[number % SHELVES]
            lane = await conn.get_underlay_channel()
            for each in range(2):
                body = f"{number}.{each}"
                begun.add(body)
                counted["publishes"] += 1
                await rabbitmq.publish(conn, body, kept)
                confirmed.add(body)
                counted["gets"] += 1
                got = await lane.basic_get(shelf)
                counted["right" if got.body.decode() == shelf == got.routing_key else "wrong"] += 1
                if draw.random() < 0.5:
                    await lane.basic_nack(got.delivery.delivery_tag)

    async def storm() -> None:
        while counted["cancelled"] < CANCELLATIONS:
            counted["borrowers"] += 1
            task = asyncio.create_task(borrow(counted["borrowers"]))
            for _ in range(draw.randrange(TURNS)):
                await asyncio.sleep(0)
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            counted["cancelled" if isinstance(outcome, asyncio.CancelledError) else "finished"] += 1
            assert outcome is None or isinstance(outcome, asyncio.CancelledError)

    await asyncio.gather(*(storm() for _ in range(AT_ONCE)))

    async def is_quiet() -> bool:
        status = pool.status()
        return bool(status.total == status.idle)

    await until(is_quiet)
    await rabbitmq.gone(left=pool.status().total)
    connections = await rabbitmq.connections()
    said = {"channels opened": pool.stats().opened, "connections at the end": connections}
    found = await _all_of(rabbitmq, pool, kept)
    on_shelves = [rabbitmq.server.messages(each) for each in shelves]
    own = pool.driver.connections  # type: ignore[attr-defined]
    await pool.close(timeout=5.0)
    await rabbitmq.gone()
    said |= {**counted, "confirmed": len(confirmed), "in the queue": found.total()}
    print(said)
    summary.say("cancellations, RabbitMQ", ", ".join(f"{value} {name}" for name, value in said.items()))

    assert counted["wrong"] == 0
    assert counted["right"] > 0
    assert not confirmed - set(found), "confirmed, and not there"
    assert set(found) <= begun, "there, and never published"
    assert set(found.values()) == {1}
    assert on_shelves == [ON_EACH] * SHELVES
    assert own == connections <= 2


async def _all_of(rabbitmq: RabbitMQ, pool: Any, queue: str) -> Counter[str]:
    found: Counter[str] = Counter()
    async with pool.acquire() as conn:
        taken = await conn.get_queue(queue)
        while (message := await taken.get(no_ack=True, fail=False)) is not None:
            found[message.body.decode()] += 1
    return found
