"""What happens to Redis alone: failover to a replica, a server that loads, sessions in every state."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import redis as redis_py

from millpond import PoolError
from tests.drivers.backends import until
from tests.faults.subjects import RedisSubject
from tests.faults.traffic import PATIENCE_S, Traffic, pool_of, strangers
from tests.servers import RedisServer
from tests.servers.proxy import Proxy

Factory = Callable[..., RedisServer]
Pair = tuple[RedisServer, RedisServer]


@pytest.fixture
async def pair(redis_server_factory: Factory) -> Pair:
    """A primary, and a replica that has caught up."""
    auth = {"masteruser": "app", "masterauth": "app-secret"}
    primary, replica = redis_server_factory(settings=auth), redis_server_factory(settings=auth)
    replica.demote(primary)

    async def has_caught_up() -> bool:
        seen = await asyncio.to_thread(replica.execute, "INFO", "replication")
        return bool(seen["master_link_status"] == "up")

    await until(has_caught_up, within=PATIENCE_S)
    return primary, replica


async def test_a_failover_moves_every_writer_to_the_new_primary(
    pair: tuple[RedisServer, RedisServer],
) -> None:
    """Nobody writes to the one that was demoted; what was confirmed and replicated is all there, once."""
    old, new = pair
    subject = RedisSubject(old)
    key = f"{subject.backend.client_name}:written"
    confirmed: list[int] = []
    troubles: Counter[str] = Counter()
    is_over = False

    async def write(first: int) -> None:
        number = first
        while not is_over:
            number += 100
            try:
                async with pool.acquire(timeout=1.0) as conn:
                    await conn.rpush(key, number)
                    # Some wait until the replica has it too; what only the old primary knew may be lost.
                    if subject.server is new or (number % 3 == 0 and await conn.wait(1, 500)):
                        confirmed.append(number)
            except (PoolError, OSError, *subject.errors) as error:
                troubles[type(error).__name__] += 1
            await asyncio.sleep(0.002)

    async def more(count: int) -> None:
        enough = len(confirmed) + count

        async def is_enough() -> bool:
            return len(confirmed) >= enough

        await until(is_enough, within=PATIENCE_S)

    async with Proxy(old.port) as address, pool_of(subject, through=address) as pool:
        writers = [asyncio.create_task(write(each)) for each in range(12)]
        await more(50)
        before = pool.status().generation
        # As a failover does it: the replica is promoted, the primary follows it, the address moves last.
        await asyncio.to_thread(new.promote)
        await asyncio.to_thread(old.demote, new)

        async def is_noticed() -> bool:
            # By a write that is refused; or by attempts to connect, when the change ended the WAIT of all.
            is_refused = troubles["ReadOnlyError"] > 0 and pool.status().generation > before
            return is_refused or "replica" in (pool.status().last_error or "")

        await until(is_noticed, within=PATIENCE_S)
        subject.server = subject.backend.server = new
        address.server_port = new.port
        address.cut()
        await more(50)
        is_over = True
        await asyncio.gather(*writers)
        left = await strangers(subject, pool)

    stored = [int(each) for each in await asyncio.to_thread(new.execute, "LRANGE", key, 0, -1)]
    assert set(confirmed) <= set(stored)
    assert len(stored) == len(set(stored))
    assert left == 0


async def test_a_server_that_loads_its_data_gets_no_borrowers(redis_server_factory: Factory) -> None:
    """It listens, greets and knows nothing yet: whoever comes meanwhile is told so in time, by the pool."""
    server = redis_server_factory(
        settings={"appendonly": "no", "loading-process-events-interval-bytes": 1024}
    )
    server.execute("EVAL", "for n = 1, 100 do redis.call('SET', n, string.rep('x', 1000)) end", 0)
    server.execute("SAVE")
    subject = RedisSubject(server)

    async with pool_of(subject, failure_threshold=None) as pool:
        async with Traffic(subject, pool) as traffic:
            await traffic.flows()
            await asyncio.to_thread(server.kill)
            server.set_before_start("key-load-delay", 10_000)  # microseconds
            start = asyncio.create_task(asyncio.to_thread(server.start))

            async def is_loading() -> bool:
                return "loading" in (pool.status().last_error or "").lower()

            await until(is_loading, within=PATIENCE_S)
            await start
            await traffic.flows()

        traffic.assert_unharmed()
        assert "BusyLoadingError" not in traffic.troubles
        assert await strangers(subject, pool) == 0


DEEDS: dict[str, list[tuple[str, ...]]] = {
    "another database": [("SELECT", "5")],
    "an open transaction": [("MULTI",), ("SET", "unconfirmed", "1")],
    "a watched key": [("WATCH", "key")],
    "another name": [("CLIENT", "SETNAME", "mine")],
    "tracking": [("CLIENT", "TRACKING", "ON", "BCAST")],
    "a subscription": [("SUBSCRIBE", "news")],
    "no answers": [("CLIENT", "REPLY", "SKIP")],
    "another user": [("AUTH", "default-secret")],
}


@pytest.mark.parametrize("how", ["normally", "by an error", "by a cancellation"])
@pytest.mark.parametrize("deed", DEEDS)
async def test_the_session_of_one_borrower_is_not_that_of_the_next(
    harmed_redis: RedisServer, deed: str, how: str
) -> None:
    """Whatever the session was made into, and however the lease ended; on the same connection or another."""
    subject = RedisSubject(harmed_redis)
    key = f"{subject.backend.client_name}:key"

    async def change(conn: Any) -> None:
        for words in DEEDS[deed]:
            try:
                async with asyncio.timeout(0.05):
                    await conn.execute_command(*(key if word == "key" else word for word in words))
            except TimeoutError:
                assert deed == "no answers"

    async with pool_of(subject, min_size=0, max_size=1) as pool:
        async with pool.acquire() as conn:
            before = await subject.backend.state(conn)

        async def borrow() -> None:
            async with pool.acquire() as conn:
                await change(conn)
                if how == "by an error":
                    raise redis_py.ResponseError("as a command might")
                if how == "by a cancellation":
                    await asyncio.sleep(0)

        task = asyncio.create_task(borrow())
        if how == "by a cancellation":

            async def is_lent() -> bool:
                return pool.status().busy == 1 or task.done()

            await until(is_lent)
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)

        async with pool.acquire() as conn:
            assert await subject.backend.state(conn) == before
            assert await subject.backend.ask(conn, 7) == 7
            assert await conn.get("unconfirmed") is None
            await asyncio.to_thread(harmed_redis.execute, "SET", key, "changed")
            assert await conn.pipeline(transaction=True).set(key, "mine").execute() == [True]
        assert await strangers(subject, pool) == 0
