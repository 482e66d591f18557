"""The public contract on every driver of ours, each on its real server, and what only SQL drivers promise.

A new backend joins by its name in the fixtures `server_backend` or `backend` of conftest.
"""

import importlib
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from line_server import LineServer
from millpond_lines import LinesDriver

from millpond import ConnectionPool
from millpond.driver import Verdict
from millpond.errors import MissingExtra
from millpond.testing.contract import DriverContract, KindContract, RemoteContract, SessionContract
from tests.drivers.backends import Backend, SQLite
from tests.drivers.functions import AsyncFunctions, PlainFunctions
from tests.drivers.rabbitmq_backend import RabbitMQ

Opened = Callable[[Any], Awaitable[Any]]


class TestServers(DriverContract, SessionContract, RemoteContract, KindContract):
    """Each driver whose backend is a server with sessions."""

    @pytest.fixture(autouse=True)
    def _on(self, server_backend: Backend) -> None:
        self.backend = server_backend


class TestSQLite(DriverContract, SessionContract, KindContract):
    """There is no other end that could go away."""

    @pytest.fixture(autouse=True)
    def _on(self, sqlite: SQLite) -> None:
        self.backend = sqlite


@pytest.fixture(scope="module")
def line_server() -> Iterator[LineServer]:
    """What the functions connect to."""
    with LineServer() as running:
        yield running


class TestAsyncFunctions(DriverContract, SessionContract):
    """`from_factory`, with async functions."""

    @pytest.fixture(autouse=True)
    def _on(self, line_server: LineServer) -> None:
        self.backend = AsyncFunctions(line_server)


class TestPlainFunctions(DriverContract):
    """`from_factory`, with functions that are called inline."""

    @pytest.fixture(autouse=True)
    def _on(self, line_server: LineServer) -> None:
        self.backend = PlainFunctions(line_server, blocking=False)


class TestBlockingFunctions(DriverContract):
    """`from_factory`, with functions that are called in threads."""

    @pytest.fixture(autouse=True)
    def _on(self, line_server: LineServer) -> None:
        self.backend = PlainFunctions(line_server, blocking=True)


async def test_a_wrong_password_that_a_function_gave_may_be_followed_by_a_better_one(
    server_backend: Any,
) -> None:
    """Tokens rotate: what is wrong now says nothing about the next."""
    driver = server_backend.driver(password=lambda: "not-the-password")

    with pytest.raises((Exception,)) as caught:
        await driver.connect()

    assert not driver.is_permanent(caught.value)
    assert server_backend.driver(**server_backend.wrong_secret).is_permanent(caught.value)


async def test_a_lost_channel_condemns_itself_only(rabbitmq: RabbitMQ, opened: Opened) -> None:
    """RabbitMQ has no node that would be the wrong one, and a channel's end says nothing about the others."""
    driver = rabbitmq.driver()
    conn, other = await opened(driver), await opened(driver)

    driver.terminate(conn)

    assert driver.after_lease(conn, ConnectionResetError("gone")) is Verdict.DISCARD
    assert driver.after_lease(other, None) is Verdict.KEEP
    assert await rabbitmq.ask(other, 3) == 3


async def test_a_failover_that_a_function_sees_condemns_all(line_server: LineServer) -> None:
    """What `after_lease` says counts as what a driver says."""
    lines = LinesDriver(host=line_server.host, port=line_server.port)
    pool = ConnectionPool.from_factory(
        lines.connect,
        terminate=lines.terminate,
        after_lease=lambda conn, error: Verdict.KEEP if error is None else Verdict.DISCARD_ALL,
    )
    async with pool:
        async with pool.acquire(), pool.acquire():
            pass
        with pytest.raises(ValueError, match="another node"):
            async with pool.acquire():
                raise ValueError("another node answers now")

        assert pool.status().generation == 1
        assert pool.status().idle == 0


@pytest.mark.parametrize(
    ("library", "module", "extra"),
    [
        ("aiosqlite", "millpond.drivers.sqlite", "sqlite"),
        ("redis", "millpond.drivers.redis", "redis"),
        ("aiormq", "millpond.drivers.rabbitmq", "rabbitmq"),
    ],
)
def test_a_missing_client_library_names_the_extra(
    library: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has not installed it is told what to install."""
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, module)

    with pytest.raises(MissingExtra, match=rf"pip install 'millpond\[{extra}\]'") as caught:
        importlib.import_module(module)
    assert caught.value.extra == extra


@pytest.mark.parametrize(
    "name", ["plain", "with space", 'with "quotes"', "semi;colon -- x", "Ümläut.dot", "select"]
)
async def test_a_quoted_name_names_what_it_says(sql: Backend, opened: Opened, name: str) -> None:
    """Whatever a name holds, the backend takes it for that name and for nothing else."""
    driver = sql.driver()
    conn = await opened(driver)

    tables = await sql.make_table(conn, driver.quote_identifier(name))

    assert name in tables


@pytest.mark.parametrize("name", ["", "nul\0byte", "\ud800"])
def test_a_name_that_cannot_be_quoted_is_refused(sql: Backend, name: str) -> None:
    """What the backend could not name must not become a statement."""
    with pytest.raises(ValueError, match="identifier"):
        sql.driver().quote_identifier(name)


def test_parts_of_a_name_are_quoted_one_by_one(sql: Backend) -> None:
    """A schema and a table are two names."""
    mark = sql.mark

    quoted = sql.driver().quote_identifier("a.b", f"c{mark}d")

    assert quoted == f"{mark}a.b{mark}.{mark}c{mark * 2}d{mark}"
