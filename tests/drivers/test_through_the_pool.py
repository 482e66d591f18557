"""The pool on real servers: whatever the last one did, the next borrower gets a good connection, in time.

What becomes of servers and networks in the middle of traffic is in tests/faults.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from millpond.driver import Verdict
from millpond.errors import ConnectFailed, PoolError
from tests.drivers.backends import Backend, MySQL, PostgreSQL, Psycopg, SQLite, until, until_quiet, works
from tests.drivers.redis_backend import Redis

Pools = Callable[..., Any]


@pytest.fixture(params=["postgresql", "psycopg", "asyncmy", "aiomysql", "redis"])
def breakable(request: pytest.FixtureRequest) -> Backend:
    """A backend whose server may be harmed, each in turn."""
    if request.param in ("postgresql", "psycopg"):
        backend_class = {"postgresql": PostgreSQL, "psycopg": Psycopg}[request.param]
        backend = backend_class(request.getfixturevalue("postgres_server_factory")(), "app")
        backend.server.execute(
            f"CREATE TABLE {backend.table} (body text); GRANT ALL ON {backend.table} TO app"
        )
        return backend
    if request.param == "redis":
        return Redis(request.getfixturevalue("redis_server_factory")())
    return MySQL(request.getfixturevalue("mariadb_server_factory")(), request.param)


async def test_a_cancelled_statement_costs_no_connection_that_can_be_saved(
    backend: Backend, pools: Pools
) -> None:
    """It is reset rather than opened anew, where the protocol can take a question back; and at once."""
    pool = pools(backend.driver(), max_size=1)

    async def borrow(started: asyncio.Future[Any]) -> None:
        async with pool.acquire() as conn:
            task = await backend.start_slow(conn)
            started.set_result(None)
            await task

    for _ in range(3):
        started = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(borrow(started))
        await started
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async with pool.acquire() as conn:
        assert await backend.ask(conn, 9) == 9
    assert pool.stats().opened == (1 if backend.after_cancel["full"] is Verdict.RESET else 4)


@pytest.mark.parametrize(
    "deed", ["SET search_path = elsewhere", "CREATE TEMP TABLE scratch (x int)", "SET ROLE app"]
)
async def test_the_session_of_one_borrower_is_not_that_of_the_next(
    postgresql: PostgreSQL, pools: Pools, deed: str
) -> None:
    """On the same connection, one after the other."""
    pool = pools(postgresql.administrator(), max_size=1)
    question = "SELECT current_setting('search_path'), current_user::text, to_regclass('pg_temp.scratch')"
    async with pool.acquire() as conn:
        before = await conn.fetchrow(question)

    async with pool.acquire() as conn:
        await conn.execute(deed)
    async with pool.acquire() as conn:
        after = await conn.fetchrow(question)

    assert after == before
    assert pool.stats().opened == 1


async def test_sessions_that_the_server_ends_are_replaced(server_backend: Any, pools: Pools) -> None:
    """Idle ones are gone before anybody gets them; no borrower sees an error."""
    pool = pools(server_backend.driver(), max_size=3)
    lent = [await pool.acquire() for _ in range(3)]
    for conn in lent:
        await pool.release(conn)
    await until_quiet(pool)

    await server_backend.end_all()

    async def all_are_gone() -> bool:
        return all(pool.driver.is_closed(conn) for conn in lent)

    await until(all_are_gone)  # the loop has read what the server sent
    for number in range(10):
        async with pool.acquire() as conn:
            assert await server_backend.ask(conn, number) == number

    await until_quiet(pool)
    assert await server_backend.sessions() == pool.status().total


async def test_a_demoted_primary_raises_the_generation_once(breakable: Any, pools: Pools) -> None:
    """Several borrowers see it at the same time; it is one failover."""
    pool = pools(breakable.driver())
    lent = [await pool.acquire() for _ in range(4)]
    before = pool.status().generation
    breakable.demote()

    for conn in lent:
        refusal = await breakable.refused_write(conn)
        await pool.release(conn, error=refusal)
    after = pool.status().generation
    refused = not await works(pool, breakable)
    breakable.promote()

    assert after == before + 1
    assert refused
    await until(lambda: works(pool, breakable))


async def test_a_wrong_password_fails_all_at_once_and_stays_unsaid(server_backend: Any, pools: Pools) -> None:
    """Nobody waits for what cannot come."""
    pool = pools(server_backend.driver(password="not-the-password"))

    before = time.monotonic()
    outcomes = await asyncio.gather(*(pool.acquire() for _ in range(10)), return_exceptions=True)
    took = time.monotonic() - before

    assert took < 2.0
    assert all(isinstance(each, PoolError) for each in outcomes)
    assert any(isinstance(each, ConnectFailed) and each.permanent for each in outcomes)
    assert not any("not-the-password" in f"{each!s} {each!r} {pool!r} {pool.status()!r}" for each in outcomes)


@pytest.mark.parametrize("how", ["slow", "failing"])
async def test_a_password_that_does_not_come_delays_nobody_who_finds_a_connection(
    server_backend: Any, pools: Pools, how: str
) -> None:
    """Only who needs a new one waits; the idle one goes from hand to hand meanwhile."""
    answers: list[Any] = [server_backend.server.password]
    asked = asyncio.Event()

    async def token() -> str:
        if answers:
            return str(answers.pop())
        asked.set()
        if how == "failing":
            raise OSError("the vault is sealed")
        await asyncio.sleep(60)
        return "too late"

    # With one channel on a connection each channel needs a login of its own.
    own = {"channels_per_connection": 1} if server_backend.driver().name == "rabbitmq" else {}
    pool = pools(
        server_backend.driver(password=token, **own), max_size=3, connect_timeout=30.0, failure_threshold=None
    )
    lent = await pool.lease()
    second = asyncio.create_task(pool.lease())
    await asyncio.wait_for(asked.wait(), 5.0)
    lent.release()
    began = time.monotonic()
    (await asyncio.wait_for(second, 5.0)).release()
    for number in range(20):
        async with pool.acquire(timeout=1.0) as conn:
            assert await server_backend.ask(conn, number) == number
    took = time.monotonic() - began

    assert took < 3.0
    assert pool.status().total - pool.status().opening == 1
    assert pool.status().healthy
    assert "sealed" in (pool.status().last_error or "") or how == "slow"


async def test_writers_of_one_file_take_turns(sqlite: SQLite, pools: Pools) -> None:
    """More borrowers than connections, more connections than writers: every row is there."""
    pool = pools(sqlite.driver(), max_size=4)

    async def write(number: int) -> None:
        async with pool.acquire() as conn:
            await conn.execute(f"INSERT INTO {sqlite.table} VALUES (?)", (str(number),))
            await conn.commit()

    await asyncio.gather(*(write(number) for number in range(100)))

    async with pool.acquire() as conn:
        assert await sqlite.rows(conn) == 100


async def test_a_database_in_memory_outlives_the_pools_connections(sqlite: SQLite, pools: Pools) -> None:
    """clear() replaces every connection, and no row is lost."""
    pool = pools(sqlite.driver(database=":memory:"), max_size=2)
    async with pool.acquire() as conn:
        await conn.execute("CREATE TABLE t (x)")
        await conn.execute("INSERT INTO t VALUES (1)")
        await conn.commit()

    pool.clear()
    await sqlite.gone()

    async with pool.acquire() as conn:
        assert await conn.execute_fetchall("SELECT x FROM t") == [(1,)]
