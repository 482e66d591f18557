"""PostgreSQL behind PgBouncer in transaction mode: level `none`, and no statements that are kept."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from millpond import ConnectionPool, PoolSettings
from millpond.drivers.postgresql import PostgreSQLDriver
from tests.drivers.backends import PostgreSQL, until
from tests.servers.pgbouncer import PgBouncer

SESSIONS = 2
BORROWERS = 8


@pytest.fixture(scope="module")
def bouncer(postgres: Any) -> Iterator[PgBouncer]:
    """With fewer sessions than there are borrowers."""
    with PgBouncer(postgres, sessions=SESSIONS) as running:
        yield running


def driver(either: PostgreSQL, bouncer: PgBouncer, **options: Any) -> PostgreSQLDriver:
    """As the documentation says for PgBouncer."""
    chosen = {**either.options, "host": bouncer.host, "port": bouncer.port, "statement_cache_size": 0}
    return PostgreSQLDriver(**{**chosen, **options})


def pool_through(either: PostgreSQL, bouncer: PgBouncer, **settings: Any) -> ConnectionPool[Any]:
    """More connections than PgBouncer has sessions; each is pinged before it is lent again."""
    chosen = {"min_size": 0, "max_size": BORROWERS, "reset": "none", "validate_after_idle": 0.0, **settings}
    return ConnectionPool(driver(either, bouncer), settings=PoolSettings(**chosen), name="bounced")


async def test_many_borrowers_share_few_sessions(either: PostgreSQL, bouncer: PgBouncer) -> None:
    """Each gets its own answers, in a transaction and without, whichever session serves it."""
    wrong: list[Any] = []
    pids: set[int] = set()

    async def work(number: int) -> None:
        for turn in range(20):
            async with pool.acquire() as conn:
                question = number * 1000 + turn
                if await either.ask(conn, question) != question:
                    wrong.append(question)
                await either.run(conn, "BEGIN")
                mine = {await either.value(conn, "SELECT pg_backend_pid()") for _ in range(3)}
                await either.run(conn, "COMMIT")
                pids.update(mine)
                if len(mine) != 1:
                    wrong.append(mine)

    async with pool_through(either, bouncer) as pool:
        await asyncio.gather(*(work(number) for number in range(BORROWERS)))
        stats, total = pool.stats(), pool.status().total

    assert not wrong
    assert 0 < len(pids) <= SESSIONS < total <= BORROWERS
    assert stats.discarded == stats.open_failures == 0


async def test_a_transaction_left_open_costs_the_connection_and_no_row_stays(
    either: PostgreSQL, bouncer: PgBouncer
) -> None:
    """At level `none` nothing is sent: the connection goes, and PgBouncer ends what it had begun."""
    async with pool_through(either, bouncer) as pool:
        for _ in range(3):
            async with pool.acquire() as conn:
                await either.begin(conn)
        async with pool.acquire() as conn:
            rows = await either.rows(conn)
        discarded = pool.stats().discarded

    assert (rows, discarded) == (0, 3)


async def test_cancelled_borrowers_get_nobody_elses_answer(either: PostgreSQL, bouncer: PgBouncer) -> None:
    """The cancellation goes through PgBouncer too; what it hits is the statement of who was cancelled."""
    counted: Counter[str] = Counter()
    draw = random.Random(20261121)

    async def work(question: int) -> None:
        async with pool.acquire() as conn:
            for number in range(question, question + 3):
                answer = await either.ask(conn, number)
                counted["right" if answer == number else "wrong"] += 1
            await either.begin(conn)
            counted["rows of others"] += await either.rows(conn) - 1

    async def cancel(first: int) -> None:
        for turn in range(25):
            task = asyncio.create_task(work(first + 10 * turn))
            for _ in range(draw.randrange(60)):
                await asyncio.sleep(0 if draw.random() < 0.8 else 0.001)
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            counted["cancelled" if isinstance(outcome, asyncio.CancelledError) else "ended"] += 1
            assert outcome is None or isinstance(outcome, asyncio.CancelledError), repr(outcome)

    async with pool_through(either, bouncer, acquire_timeout=30.0, connect_timeout=10.0) as pool:
        await asyncio.gather(*(cancel(1000 * number) for number in range(1, BORROWERS + 1)))

        async def is_idle() -> bool:
            return pool.status().total == pool.status().idle

        await until(is_idle)
        async with pool.acquire() as conn:
            assert await either.rows(conn) == 0

    assert counted["wrong"] == counted["rows of others"] == 0
    assert counted["cancelled"] > 50
    assert counted["right"] > 0


@pytest.mark.parametrize(
    ("key", "option"),
    [
        ("password", {"password": "not-the-password"}),
        ("server_settings", {"server_settings": {"work_mem": "5MB"}}),
        ("database", {"database": "no-such-place"}),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
async def test_what_it_refuses_is_wrong_for_ever(
    either: PostgreSQL, bouncer: PgBouncer, key: str, option: dict[str, Any]
) -> None:
    """It has words of its own for it, and one code for all."""
    wrong = driver(either, bouncer, **option)

    with pytest.raises((OSError, *either.errors)) as caught:
        await wrong.connect()

    assert wrong.is_permanent(caught.value)
    assert wrong.key_of(caught.value) in (key, None)


async def test_a_bouncer_that_comes_back_is_found_again(either: PostgreSQL, bouncer: PgBouncer) -> None:
    """All its connections are gone with it."""
    async with pool_through(either, bouncer, retry_delay=0.02, recovery_timeout=0.1) as pool:
        async with pool.acquire() as conn:
            assert await either.ask(conn, 1) == 1
        await asyncio.to_thread(bouncer.kill)
        await asyncio.to_thread(bouncer.start)

        async with pool.acquire() as conn:
            assert await either.ask(conn, 2) == 2
