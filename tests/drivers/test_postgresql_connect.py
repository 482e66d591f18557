"""How PostgreSQL connections are opened: passwords, TLS, sockets, and what is wrong for ever."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from millpond.drivers.postgresql import PostgreSQLDriver
from tests.drivers.authorities import assert_verified
from tests.drivers.backends import PostgreSQL
from tests.drivers.forking import forked
from tests.servers import PostgresServer, PostgresTemplate, free_port
from tests.servers.certificates import self_signed

Opened = Callable[[Any], Awaitable[Any]]


class SecurePostgresServer(PostgresServer):
    """A server with TLS; its certificate is its own authority and names only `db.example`."""

    @property
    def certificate(self) -> Path:
        return self.data / "server.crt"

    def prepare(self) -> None:
        super().prepare()
        self_signed(self.data, host="db.example")


@pytest.fixture(scope="module")
def secure(postgres_template: PostgresTemplate) -> Iterator[PostgresServer]:
    """A server that speaks TLS."""
    with SecurePostgresServer(postgres_template, settings={"ssl": "on"}) as server:
        yield server


@pytest.fixture
def secured(secure: PostgresServer, either: PostgreSQL) -> PostgreSQL:
    """A backend on the server that speaks TLS, with each library in turn."""
    return type(either)(secure, "app")


async def is_encrypted(backend: PostgreSQL, conn: Any) -> bool:
    return bool(await backend.value(conn, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"))


def wire(driver: PostgreSQLDriver, conn: Any) -> socket.socket:
    """The connection's socket, under a descriptor of its own."""
    (descriptor,) = driver.filenos(conn)
    return socket.socket(fileno=os.dup(descriptor))


async def test_a_wrong_password_is_wrong_for_ever(either: PostgreSQL) -> None:
    """Trying again would only fill the server's log."""
    driver = either.driver(password="wrong")

    with pytest.raises(either.errors, match="authentication failed") as caught:
        await driver.connect()

    assert driver.is_permanent(caught.value)
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"database": "no_such_database"},
        {"server_settings": {"no_such_setting": "1"}},
        {"server_settings": {"work_mem": "much"}},
        {"server_settings": {"role": "nobody"}},
        {"ssl": "verify-full", "ssl_root_cert": "/no/such/file.pem"},
        {"ssl": "require", "ssl_cert": "/no/such/file.pem"},
    ],
    ids=str,
)
async def test_a_wrong_configuration_is_wrong_for_ever(either: PostgreSQL, options: dict[str, Any]) -> None:
    """Somebody has to change it; time does not."""
    driver = either.driver(**options)

    with pytest.raises(Exception, match=r"no_such|much|nobody|no/such") as caught:
        await driver.connect()

    assert driver.is_permanent(caught.value)


async def test_a_user_that_may_not_connect_is_wrong_for_ever(either: PostgreSQL) -> None:
    """The database exists, the password is right, and still the answer stays no."""
    name = f"locked_{os.getpid()}"
    either.server.execute(f"CREATE DATABASE {name}")
    either.server.execute(f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC")
    driver = either.driver(database=name)

    try:
        with pytest.raises(either.errors, match="permission denied") as caught:
            await driver.connect()
    finally:
        either.server.execute(f"DROP DATABASE {name}")

    assert driver.is_permanent(caught.value)


async def test_a_refused_connection_may_be_accepted_later(either: PostgreSQL) -> None:
    """The server may just be starting."""
    driver = either.driver(port=free_port())

    with pytest.raises((OSError, *either.errors)) as caught:
        await driver.connect()

    assert not driver.is_permanent(caught.value)


async def test_a_full_server_may_have_room_later(
    postgres_server_factory: Callable[..., PostgresServer], either: PostgreSQL, opened: Opened
) -> None:
    """Too many clients is a state, not a configuration."""
    backend = type(either)(postgres_server_factory(max_connections=1), "app")
    driver = backend.driver()
    await opened(driver)

    with pytest.raises(either.errors, match=r"too many clients|slots are reserved") as caught:
        await driver.connect()

    assert not driver.is_permanent(caught.value)


async def test_a_password_is_asked_for_at_each_connect(either: PostgreSQL, opened: Opened) -> None:
    """A token that rotates is right at the next connect."""
    answers = [either.server.password, "expired-token", either.server.password]

    async def token() -> str:
        await asyncio.sleep(0)
        return answers.pop(0)

    driver = either.driver(password=token)
    await opened(driver)

    with pytest.raises(either.errors, match="authentication failed"):
        await opened(driver)
    await opened(driver)

    assert answers == []
    assert driver.redact("expired-token") == "***"


async def test_a_password_function_need_not_be_async(either: PostgreSQL, opened: Opened) -> None:
    """Reading a file is often all there is to do; copies of the driver know the answer too."""
    driver = either.driver(password=lambda: either.server.password)
    copy = either.at_level("full", password=lambda: either.server.password)

    await opened(driver)
    await opened(copy)

    assert driver.redact(either.server.password) == "***"
    assert copy.redact(either.server.password) == "***"


async def test_a_password_function_that_gives_no_text_says_so_and_not_what(either: PostgreSQL) -> None:
    """Bytes are a common mistake."""
    driver = either.driver(password=lambda: b"secret-bytes")

    with pytest.raises(TypeError, match=r"password: .* bytes") as caught:
        await driver.connect()

    assert "secret" not in str(caught.value)


async def test_a_connection_does_not_keep_the_password(postgresql: PostgreSQL, opened: Opened) -> None:
    """A dump of a borrowed connection shows where it goes, not how to get in."""
    conn = await opened(postgresql.driver())

    assert postgresql.server.password not in repr(vars(conn)) + repr(conn._params)


async def test_a_unix_socket_is_a_directory_for_a_host(either: PostgreSQL, opened: Opened) -> None:
    """And the options of TCP do it no harm."""
    driver = either.administrator(session="any")
    conn = await opened(driver)

    with wire(driver, conn) as unix:
        assert unix.family is socket.AF_UNIX
    assert await either.ask(conn, 1) == 1


async def test_the_kernel_looks_after_a_silent_peer(either: PostgreSQL, opened: Opened) -> None:
    """Without these, a lost network is noticed after a quarter of an hour and more."""
    driver = either.driver(tcp_keepalive=12.0, tcp_user_timeout=7.5)
    conn = await opened(driver)

    with wire(driver, conn) as tcp:
        assert tcp.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 12
        assert tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 4
        assert tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7500


async def test_the_kernel_can_be_left_alone(either: PostgreSQL, opened: Opened) -> None:
    """Who tunes the kernel itself says None."""
    driver = either.driver(tcp_keepalive=None, tcp_user_timeout=None)
    conn = await opened(driver)

    with wire(driver, conn) as tcp:
        assert tcp.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
        assert tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0


@pytest.mark.parametrize(("mode", "encrypted"), [("disable", False), ("prefer", True), ("require", True)])
async def test_tls_is_used_as_asked(secured: PostgreSQL, opened: Opened, mode: str, encrypted: bool) -> None:
    """Encrypted where it can be, or where it must be."""
    driver = secured.driver(ssl=mode)
    conn = await opened(driver)

    assert await is_encrypted(secured, conn) is encrypted
    with wire(driver, conn) as tcp:
        assert tcp.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


@pytest.mark.parametrize(("mode", "encrypted"), [("disable", False), ("prefer", False)])
async def test_without_tls_at_the_server(
    either: PostgreSQL, opened: Opened, mode: str, encrypted: bool
) -> None:
    """What does not insist gets through."""
    conn = await opened(either.driver(ssl=mode))

    assert await is_encrypted(either, conn) is encrypted


async def test_whoever_requires_tls_never_gets_less(either: PostgreSQL) -> None:
    """A server that has none is no server for this pool."""
    with pytest.raises((ConnectionError, *either.errors), match="SSL"):
        await either.driver(ssl="require").connect()


async def test_a_certificate_is_verified(
    secured: PostgreSQL, secure: SecurePostgresServer, opened: Opened, tmp_path: Path
) -> None:
    """Against the given authority; and the host's name too, if asked."""
    await assert_verified(secured, opened, secure.certificate, tmp_path)


async def test_a_child_of_a_fork_closes_its_copy_and_the_parents_session_lives(
    either: PostgreSQL,
) -> None:
    """Nothing the child does, its garbage collection included, sends a byte to the server."""
    status, descriptors = await forked(PostgreSQLDriver, **either.options)

    assert status == 0
    assert descriptors == []


async def test_a_closed_connection_has_no_descriptors(either: PostgreSQL) -> None:
    """Its number may belong to somebody else by now."""
    driver = either.driver()
    conn = await driver.connect()

    driver.terminate(conn)

    assert driver.filenos(conn) == ()


async def test_a_frozen_server_stops_neither_ping_nor_reset_nor_terminate_for_ever(
    postgres_server_factory: Callable[..., PostgresServer], either: PostgreSQL, opened: Opened
) -> None:
    """The pool's timeouts cancel them; the connection can be cut afterwards, and the session ends."""
    backend = type(either)(postgres_server_factory(), "app")
    driver = backend.driver()
    connections = [await opened(driver) for _ in range(3)]

    backend.server.freeze()
    for call, conn in zip((driver.ping, driver.reset), connections, strict=False):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call(conn), 0.1)
        driver.terminate(conn)
    with contextlib.suppress(TimeoutError):  # asyncpg waits for the server to hang up
        await asyncio.wait_for(driver.close(connections[-1]), 0.1)
    driver.terminate(connections[-1])
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(driver.connect(), 0.1)
    backend.server.thaw()

    assert all(driver.is_closed(conn) for conn in connections)
    await backend.gone()
