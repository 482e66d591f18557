"""What a borrower sets on the client's own object: gone at `full`, while what `on_connect` set stays.

psycopg's and RabbitMQ's are with their sessions' tests.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiomysql
import asyncmy.cursors
import pytest

from millpond import ConnectionPool, PoolSettings
from tests.drivers.backends import MySQL, PostgreSQL, SQLite
from tests.drivers.redis_backend import Redis

Borrow = Callable[[Callable[[Any], Awaitable[Any]]], Awaitable[Any]]


def answer(text: str) -> Callable[[Any], Any]:
    """A decoder that says who has set it."""
    return lambda value: f"{text} {value!r}"


@asynccontextmanager
async def pool_of_one(driver: Any, on_connect: Any = None) -> AsyncIterator[Borrow]:
    """A pool with one connection, and a function that borrows it in a task of its own."""
    settings = PoolSettings(min_size=0, max_size=1)
    pool = ConnectionPool(driver, settings=settings, name="tidy", on_connect=on_connect)

    async def borrow(what: Callable[[Any], Awaitable[Any]]) -> Any:
        async def work() -> Any:
            async with pool.acquire() as conn:
                return await what(conn)

        return await asyncio.create_task(work())

    async with pool:
        yield borrow
        assert pool.stats().opened == 1, "it was another connection"


CODECS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "set": lambda conn: conn.set_type_codec(
        "json", schema="pg_catalog", encoder=str, decoder=answer("borrower")
    ),
    "built-in": lambda conn: conn.set_builtin_type_codec("json", schema="pg_catalog", codec_name="bytea"),
    "taken away": lambda conn: conn.reset_type_codec("json", schema="pg_catalog"),
}


@pytest.mark.parametrize("deed", CODECS)
@pytest.mark.parametrize("configured", [False, True])
async def test_asyncpgs_codecs_are_what_on_connect_made_of_them(
    postgresql: PostgreSQL, deed: str, configured: bool
) -> None:
    """The next borrower of a connection reads its rows as it would those of a fresh one."""

    async def configure(conn: Any) -> None:
        if configured:
            await conn.set_type_codec("json", schema="pg_catalog", encoder=str, decoder=answer("configured"))
            await conn.set_type_codec("xml", schema="pg_catalog", encoder=str, decoder=answer("configured"))

    async def read(conn: Any) -> Any:
        return [await conn.fetchval("SELECT '[1]'::json"), await conn.fetchval("SELECT '<a/>'::xml")]

    async with pool_of_one(postgresql.driver(), configure) as borrow:
        before = await borrow(read)
        for _ in range(2):
            await borrow(CODECS[deed])
            assert await borrow(read) == before

    assert before == (["configured '[1]'", "configured '<a/>'"] if configured else ["[1]", "<a/>"])


async def test_a_codec_that_was_refused_costs_nothing(postgresql: PostgreSQL) -> None:
    """There is nothing to take back."""

    async def refused(conn: Any) -> None:
        with pytest.raises(ValueError, match="unknown type"):
            await conn.set_type_codec("no_such_type", encoder=str, decoder=str)

    async with pool_of_one(postgresql.driver()) as borrow:
        await borrow(refused)
        await borrow(lambda conn: postgresql.ask(conn, 1))


@pytest.mark.parametrize("configured", [False, True])
async def test_asyncpgs_listeners_and_loggers_are_what_on_connect_made_of_them(
    postgresql: PostgreSQL, configured: bool
) -> None:
    """Nobody reads along what a later borrower asks, and whom the pool has told to does so still."""
    heard: list[str] = []

    def listeners(who: str) -> tuple[Callable[..., None], ...]:
        return (
            lambda *_: heard.append(f"{who} query"),
            lambda *_: heard.append(f"{who} notice"),
            lambda *_: heard.append(f"{who} end"),
        )

    def listen(conn: Any, who: str) -> None:
        query, notice, end = listeners(who)
        conn.add_query_logger(query)
        conn.add_log_listener(notice)
        conn.add_termination_listener(end)

    async def configure(conn: Any) -> None:
        if configured:
            listen(conn, "configured")

    async def spy(conn: Any) -> None:
        listen(conn, "borrower")

    async def work(conn: Any) -> None:
        heard.clear()
        await conn.execute("DO $$ BEGIN RAISE NOTICE 'look'; END $$")

    async with pool_of_one(postgresql.driver(), configure) as borrow:
        await borrow(spy)
        await borrow(work)
        await borrow(work)
        during = sorted(heard)
        heard.clear()

    assert during == (["configured notice", "configured query"] if configured else [])
    assert heard == (["configured end"] if configured else [])


def cursor_class(mysql: MySQL) -> Any:
    """Rows as mappings."""
    return aiomysql.DictCursor if mysql.library == "aiomysql" else asyncmy.cursors.DictCursor


@pytest.mark.parametrize("configured", [False, True])
async def test_decoders_and_cursors_of_mysql_are_what_on_connect_made_of_them(
    mysql: MySQL, configured: bool
) -> None:
    """Both libraries keep them on the connection; aiomysql's are one mapping for the whole process."""
    is_asyncmy = mysql.library == "asyncmy"
    decoders, cursors = ("_decoders", "_cursor_cls") if is_asyncmy else ("decoders", "cursorclass")
    decimal = 246

    async def configure(conn: Any) -> None:
        if configured:
            getattr(conn, decoders)[decimal] = lambda value: "configured"

    async def change(conn: Any) -> None:
        getattr(conn, decoders)[decimal] = answer("borrower")
        setattr(conn, cursors, cursor_class(mysql))

    async def replace(conn: Any) -> None:
        setattr(conn, decoders, {})

    async def read(conn: Any) -> Any:
        return await mysql.query(conn, "SELECT 7.0")

    async with pool_of_one(mysql.driver(), configure) as borrow:
        before = await borrow(read)
        for deed in (change, replace):
            await borrow(deed)
            assert await borrow(read) == before
    async with pool_of_one(mysql.driver()) as borrow:
        assert await borrow(read) == [(7,)], "another connection was changed too"

    assert before == ([("configured",)] if configured else [(7,)])


async def set_callback(conn: Any) -> None:
    """As redis-py says."""
    conn.set_response_callback("get", answer("borrower"))


async def take_callback_away(conn: Any) -> None:
    """By the mapping itself."""
    conn.response_callbacks.pop("CLIENT ID", None)
    conn.response_callbacks.update({"GET": answer("borrower")})


async def replace_callbacks(conn: Any) -> None:
    """All of them."""
    conn.response_callbacks = {"GET": answer("borrower")}


@pytest.mark.parametrize("deed", [set_callback, take_callback_away, replace_callbacks])
@pytest.mark.parametrize("configured", [False, True])
async def test_response_callbacks_of_redis_are_what_on_connect_made_of_them(
    redis: Redis, deed: Callable[[Any], Awaitable[Any]], configured: bool
) -> None:
    """Answers have the shape that the configuration gives them."""

    async def configure(conn: Any) -> None:
        if configured:
            conn.set_response_callback("GET", answer("configured"))

    async def read(conn: Any) -> Any:
        answers = [await conn.get("no-such-key")]
        async with conn.pipeline(transaction=False) as pipe:
            pipe.get("no-such-key")
            return [*answers, *await pipe.execute(), len(conn.response_callbacks)]

    async with pool_of_one(redis.driver(), configure) as borrow:
        before = await borrow(read)
        for _ in range(2):
            await borrow(deed)
            assert await borrow(read) == before

    assert before[:2] == (["configured None"] * 2 if configured else [None, None])


@pytest.mark.parametrize("configured", [False, True])
async def test_what_sqlite_makes_of_rows_is_what_on_connect_made_of_it(
    sqlite: SQLite, configured: bool
) -> None:
    """Factories and the isolation level are the connection's."""

    async def configure(conn: Any) -> None:
        if configured:
            conn.row_factory = lambda cursor, row: list(row)
            conn.text_factory = bytes

    async def change(conn: Any) -> None:
        conn.row_factory = lambda cursor, row: "borrower"
        conn.text_factory = str.upper
        conn.isolation_level = "EXCLUSIVE"

    async def read(conn: Any) -> Any:
        async with conn.execute("SELECT 'a'") as cursor:
            rows = await cursor.fetchall()
        return [list(rows), conn.isolation_level]

    async with pool_of_one(sqlite.driver(), configure) as borrow:
        before = await borrow(read)
        await borrow(change)
        assert await borrow(read) == before

    assert before[0] == ([[b"a"]] if configured else [("a",)])
