"""The pools that are compared, each over connections that cost nothing, behind one spelling.

A subject has `lease()`, which gives the peer's own `async with` object. Nothing
stands between the measuring loop and the peer but that one call; peers without
a context manager of their own get the smallest one that uses their calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final

from millpond import ConnectionPool, PoolSettings
from millpond.driver import Verdict

_KEEP = Verdict.KEEP  # looking a member up takes longer than the call

Lease = Callable[[], AbstractAsyncContextManager[Any]]
Opening = Callable[[], Awaitable[None]]
"""What a connect waits for."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One pool, open and warm."""

    name: str
    lease: Lease
    close: Callable[[], Awaitable[object]]
    is_compiled: bool = False


class Nothing:
    """An `async with` that does nothing: the base of the uncontended ratios."""

    __slots__ = ()

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        return None


class Connection:
    """A connection that costs nothing, with the attributes that peers ask for."""

    closed = False
    connected = True
    last_usage = float("inf")
    _stream_broken = False

    def get_transaction_status(self) -> bool:
        return False

    def close(self) -> None:
        return None

    async def ensure_closed(self) -> None:
        return None


class NullDriver:
    """A driver whose every call is free, but for what a connect waits for."""

    name = "null"

    def __init__(self, opening: Opening) -> None:
        self.opening = opening

    async def connect(self) -> Connection:
        await self.opening()
        return Connection()

    async def ping(self, conn: Connection) -> None:
        return None

    async def reset(self, conn: Connection) -> None:
        return None

    async def close(self, conn: Connection) -> None:
        return None

    def terminate(self, conn: Connection) -> None:
        return None

    def is_closed(self, conn: Connection) -> bool:
        return False

    def after_lease(self, conn: Connection, error: BaseException | None) -> Verdict:
        return _KEEP

    def is_permanent(self, error: BaseException) -> bool:
        return False


async def nobody() -> None:
    """Nothing to close, nothing to wait for."""


def millpond_pool(size: int = 10, opening: Opening = nobody, **settings: Any) -> ConnectionPool[Connection]:
    """A pool of ours over connections that cost nothing, with its defaults but for what is given."""
    wanted: dict[str, Any] = {
        "max_size": size,
        "min_size": size,
        "max_connecting": size,
        "eager_init": True,
    } | settings
    return ConnectionPool(NullDriver(opening), settings=PoolSettings(**wanted))


async def millpond(size: int, opening: Opening | None = None) -> Subject:
    if opening is not None:
        pool = millpond_pool(size, opening, min_size=0, max_connecting=4, eager_init=False)
    else:
        pool = millpond_pool(size)
        await pool.initialize()
    return Subject("millpond", pool.acquire, pool.close)


async def semaphore(size: int) -> Subject:
    one = asyncio.Semaphore(size)
    return Subject("asyncio.Semaphore", lambda: one, nobody)


async def asyncio_connection_pool(size: int, opening: Opening | None = None) -> Subject:
    wait = opening or nobody
    from asyncio_connection_pool import ConnectionPool as Pool
    from asyncio_connection_pool import ConnectionStrategy

    class Strategy(ConnectionStrategy):
        async def make_connection(self) -> Connection:
            await wait()
            return Connection()

        def connection_is_closed(self, conn: Connection) -> bool:
            return False

        async def close_connection(self, conn: Connection) -> None:
            return None

    pool = Pool(strategy=Strategy(), max_size=size)
    return Subject("asyncio-connection-pool", pool.get_connection, nobody)


async def generic_connection_pool(size: int, opening: Opening | None = None) -> Subject:
    wait = opening or nobody
    from generic_connection_pool.asyncio import BaseConnectionManager
    from generic_connection_pool.asyncio import ConnectionPool as Pool

    class Manager(BaseConnectionManager):
        async def create(self, endpoint: str) -> Connection:
            await wait()
            return Connection()

        async def dispose(self, endpoint: str, conn: Connection) -> None:
            return None

    pool = Pool(Manager(), max_size=size, total_max_size=size, idle_timeout=60.0, max_lifetime=600.0)
    return Subject("generic-connection-pool", lambda: pool.connection("here", timeout=60.0), pool.close)


async def connpool(size: int, opening: Opening | None = None) -> Subject:
    wait = opening or nobody
    from connpool import AsyncCallableFactory, AsyncConnectionPool, PoolConfig

    async def connect() -> Connection:
        await wait()
        return Connection()

    pool = AsyncConnectionPool(AsyncCallableFactory(connect), PoolConfig(max_size=size))
    return Subject("connpool", pool.connection, pool.close)


async def aio_pika_pool(size: int, opening: Opening | None = None) -> Subject:
    wait = opening or nobody
    from aio_pika.pool import Pool

    async def connect() -> Connection:
        await wait()
        return Connection()

    pool: Any = Pool(connect, max_size=size)
    return Subject("aio_pika.pool", pool.acquire, nobody)


async def asyncmy_pool(size: int, opening: Opening | None = None) -> Subject:
    wait = opening or nobody
    import asyncmy.pool

    async def connect(**_: object) -> Connection:
        await wait()
        return Connection()

    asyncmy.pool.connect = connect
    pool = asyncmy.pool.Pool(0, size)  # pool_recycle as it comes: 3600 s
    return Subject("asyncmy.Pool", pool.acquire, nobody, is_compiled=True)


async def aiomysql_pool(size: int, opening: Opening | None = None) -> Subject:
    wait = opening or nobody
    import aiomysql.pool

    class Reader:
        eof_received = False

        def at_eof(self) -> bool:
            return False

        def exception(self) -> None:
            return None

    class WithReader(Connection):
        _reader = Reader()

    async def connect(**_: object) -> Connection:
        await wait()
        return WithReader()

    aiomysql.pool.connect = connect
    loop = asyncio.get_running_loop()
    pool = aiomysql.pool.Pool(0, size, echo=False, pool_recycle=-1, loop=loop)
    return Subject("aiomysql.Pool", pool.acquire, nobody)


async def redis_pool(size: int, opening: Opening | None = None) -> Subject:
    wait = opening or nobody
    from redis.asyncio import BlockingConnectionPool

    class Quiet:
        """No, whether it is awaited or not."""

        def __bool__(self) -> bool:
            return False

        def __await__(self) -> Any:
            return iter(())

    class Null:
        """What redis-py's pool asks of a connection, and nothing else."""

        is_connected = False

        def __init__(self, **_: object) -> None: ...

        async def connect(self) -> None:
            if not self.is_connected:  # it is asked at every lease
                await wait()
                self.is_connected = True

        async def can_read(self) -> bool:
            return False

        can_read_destructive = can_read

        def should_reconnect(self) -> bool:
            return False

        def __getattr__(self, name: str) -> Any:
            return lambda *_, **__: Quiet()

    pool = BlockingConnectionPool(max_connections=size, timeout=60, connection_class=Null)

    class Borrowed:
        __slots__ = ("conn",)

        async def __aenter__(self) -> Any:
            self.conn = await pool.get_connection()
            return self.conn

        async def __aexit__(self, *_: object) -> None:
            await pool.release(self.conn)

    return Subject("redis BlockingConnectionPool", Borrowed, nobody)


async def psycopg_pool(size: int, opening: Opening | None = None) -> Subject:
    wait = opening or nobody
    import psycopg
    from psycopg.pq import TransactionStatus
    from psycopg_pool import AsyncConnectionPool

    class Status:
        transaction_status = TransactionStatus.IDLE

    class Null:
        """What psycopg_pool asks of a connection, and nothing else."""

        pgconn = Status()
        closed = False
        _pool: Any = None

        @classmethod
        async def connect(cls, *_: object, **__: object) -> Any:
            await wait()
            return cls()

        async def close(self) -> None: ...

        async def __aenter__(self) -> Any:
            return self

        async def __aexit__(self, *_: object) -> None: ...

    kind: type[psycopg.AsyncConnection[Any]] = Null  # type: ignore[assignment]
    pool = AsyncConnectionPool(
        "",
        connection_class=kind,
        min_size=0 if opening else size,
        max_size=size,
        open=False,
        timeout=60,
    )
    await pool.open(wait=True)
    return Subject("psycopg_pool", pool.connection, pool.close)


async def asyncpg_pool(size: int, opening: Opening | None = None) -> Subject:
    wait = opening or nobody
    import asyncpg

    class Protocol:
        queries_count = 0

        def _is_cancelling(self) -> bool:
            return False

    class Null(asyncpg.Connection):
        """A connection of asyncpg without a server: what its pool asks, and no reset."""

        def __init__(self) -> None:
            self._protocol = Protocol()
            self._proxy = None

        def __del__(self) -> None: ...

        def is_closed(self) -> bool:
            return False

        def _set_proxy(self, proxy: object) -> None:
            self._proxy = proxy

        def _on_release(self, stacklevel: int = 1) -> None: ...

        async def reset(self, *, timeout: float | None = None) -> None: ...

        async def close(self, *, timeout: float | None = None) -> None: ...

        def terminate(self) -> None: ...

    async def connect(*_: object, **__: object) -> Any:
        await wait()
        return Null()

    least = 0 if opening else size
    pool = asyncpg.create_pool(connect=connect, connection_class=Null, min_size=least, max_size=size)
    await pool
    return Subject("asyncpg.Pool without reset", pool.acquire, nobody)


PEERS: dict[str, tuple[Callable[..., Awaitable[Subject]], str]] = {
    "asyncmy.Pool": (asyncmy_pool, "asyncmy"),
    "asyncio-connection-pool": (asyncio_connection_pool, "asyncio-connection-pool"),
    "aio_pika.pool": (aio_pika_pool, "aio-pika"),
    "aiomysql.Pool": (aiomysql_pool, "aiomysql"),
    "psycopg_pool": (psycopg_pool, "psycopg-pool"),
    "connpool": (connpool, "connpool"),
    "redis BlockingConnectionPool": (redis_pool, "redis"),
    "asyncpg.Pool without reset": (asyncpg_pool, "asyncpg"),
    "generic-connection-pool": (generic_connection_pool, "generic-connection-pool"),
}
"""How each peer is made, and the distribution it comes from."""
COMPILED: Final = frozenset({"asyncmy.Pool"})
"""Those whose pool is not Python; said here, too, because one that could not be made says nothing."""


Cold = Callable[[Opening], Awaitable[Subject]]
"""Makes a pool of ten that has opened nothing yet, whose connects wait for what is given."""


def cold_pools() -> dict[str, Cold]:
    """Every pool, as it is before the first borrower comes."""

    def cold(make: Callable[..., Awaitable[Subject]]) -> Cold:
        return lambda opening: make(10, opening)

    return {"millpond": cold(millpond)} | {name: cold(make) for name, (make, _) in PEERS.items()}


async def everyone(size: int) -> tuple[list[Subject], dict[str, str]]:
    """Ours, the semaphore and every peer that can be made; and why the others cannot."""
    subjects = [await millpond(size), await semaphore(size)]
    missing: dict[str, str] = {}
    for name, (make, _distribution) in PEERS.items():
        try:
            subjects.append(subject := await make(size))
            async with asyncio.timeout(5), subject.lease():
                pass
        except Exception as error:
            missing[name] = f"{type(error).__name__}: {error}"
            subjects = [one for one in subjects if one.name != name]
    return subjects, missing
