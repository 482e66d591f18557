"""Redis, MariaDB and RabbitMQ through our pool and through the one that comes with each library."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from benchmarks.load import Client, Making
from benchmarks.postgresql import Work, through
from millpond import create_pool
from tests.servers import MariaDBServer, MariaDBTemplate, RabbitMQServer, RedisServer

CONNECTIONS: Final = 10
GET, SELECT, PUBLISH = "GET", "SELECT 1", "confirmed publish"
QUEUE: Final = "benchmarks"
_MINUTE_S: Final = 60.0


async def _ours(name: str, dsn: str, works: dict[str, Work], **more: Any) -> Client:
    settings: dict[str, Any] = {
        "min_size": CONNECTIONS,
        "max_size": CONNECTIONS,
        "max_connecting": CONNECTIONS,
        "acquire_timeout": _MINUTE_S,
        "eager_init": True,
    }
    pool = create_pool(dsn, **settings | more)
    await pool.initialize()
    lease = None if more.get("reset") == "full" else pool.acquire
    return Client(name, through(pool.acquire, works), pool.close, lease, pool)


@contextmanager
def redis_server() -> Iterator[str]:
    """A private Redis that has the key; answers its URL."""
    with RedisServer() as server:
        server.execute("SET", "key", "x" * 100)
        yield server.dsn()


def redis_clients(dsn: str) -> Making:
    """`GET` of a hundred bytes."""

    async def get(conn: Any) -> None:
        await conn.get("key")

    async def theirs() -> Client:
        from redis.asyncio import BlockingConnectionPool, Redis

        pool = BlockingConnectionPool.from_url(dsn, max_connections=CONNECTIONS, timeout=_MINUTE_S)
        client = Redis(connection_pool=pool)

        async def close() -> None:
            await client.aclose()
            await pool.disconnect()

        return Client("redis BlockingConnectionPool", {GET: lambda: client.get("key")}, close)

    ours = "millpond, redis-py"
    return {ours: lambda: _ours(ours, dsn, {GET: get}), "redis BlockingConnectionPool": theirs}


REDIS_PAIRS: Final = (("millpond, redis-py", "redis BlockingConnectionPool"),)


@contextmanager
def mariadb_server() -> Iterator[str]:
    """A private MariaDB; answers its URL."""
    template = MariaDBTemplate()
    try:
        with MariaDBServer(template) as server:
            yield server.dsn()
    finally:
        template.close()


async def _select(conn: Any) -> None:
    async with conn.cursor() as cursor:
        await cursor.execute("SELECT 1")
        await cursor.fetchone()


def mariadb_clients(dsn: str) -> Making:
    """`SELECT 1` with a cursor of its own; no pool of theirs resets."""

    async def theirs(name: str, library: str) -> Client:
        from yarl import URL

        url = URL(dsn)
        where: dict[str, Any] = {
            "host": url.host,
            "port": url.port,
            "user": url.user,
            "password": url.password,
            "database" if library == "asyncmy" else "db": url.path.strip("/"),
            "autocommit": True,
        }
        pool = await importlib.import_module(library).create_pool(
            minsize=CONNECTIONS, maxsize=CONNECTIONS, **where
        )

        async def close() -> None:
            pool.close()
            await pool.wait_closed()

        return Client(name, through(pool.acquire, works), close, pool.acquire)

    works: dict[str, Work] = {SELECT: _select}
    making: dict[str, Callable[[], Awaitable[Client]]] = {}
    for library in ("asyncmy", "aiomysql"):
        for level in ("none", "full"):
            name = f"millpond, {library}, reset {level}"
            making[name] = partial(_ours, name, dsn, works, library=library, reset=level)
    for name, library in (("asyncmy.Pool", "asyncmy"), ("aiomysql.Pool", "aiomysql")):
        making[name] = partial(theirs, name, library)
    return making


MARIADB_PAIRS: Final = (
    ("millpond, asyncmy, reset none", "asyncmy.Pool"),
    ("millpond, aiomysql, reset none", "aiomysql.Pool"),
)


@contextmanager
def rabbitmq_server() -> Iterator[str]:
    """A private RabbitMQ that has the queue; answers its URL."""
    with RabbitMQServer() as server:
        server.declare(QUEUE, **{"x-max-length": 1000})
        yield server.dsn()


def rabbitmq_clients(dsn: str) -> Making:
    """A publish that waits for its confirm, on ten channels over one connection.

    aio_pika.pool is used as its documentation has it: one pool of connections, one of channels; with robust
    connections, and with plain ones, whose channels do less and do not come back.
    """

    async def publish(channel: Any) -> None:
        import aio_pika

        await channel.default_exchange.publish(aio_pika.Message(b"x" * 100), routing_key=QUEUE)

    async def theirs(name: str, is_robust: bool) -> Client:
        import aio_pika
        from aio_pika.pool import Pool

        connect = aio_pika.connect_robust if is_robust else aio_pika.connect
        connections: Any = Pool(lambda: connect(dsn), max_size=1)

        async def open_channel() -> Any:
            async with connections.acquire() as connection:
                return await connection.channel()

        channels: Any = Pool(open_channel, max_size=CONNECTIONS)

        async def close() -> None:
            await channels.close()
            await connections.close()

        return Client(name, through(channels.acquire, {PUBLISH: publish}), close, channels.acquire)

    return {
        _OURS_AIO_PIKA: lambda: _ours(_OURS_AIO_PIKA, dsn, {PUBLISH: publish}),
        _ROBUST: lambda: theirs(_ROBUST, is_robust=True),
        _NOT_ROBUST: lambda: theirs(_NOT_ROBUST, is_robust=False),
    }


_OURS_AIO_PIKA: Final = "millpond, aio-pika"
_ROBUST, _NOT_ROBUST = "aio_pika.pool", "aio_pika.pool, plain connections"
RABBITMQ_PAIRS: Final = ((_OURS_AIO_PIKA, _ROBUST), (_OURS_AIO_PIKA, _NOT_ROBUST))
