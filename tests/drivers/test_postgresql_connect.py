"""How PostgreSQL connections are opened: passwords, TLS, sockets, and what is wrong for ever."""

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from millpond.drivers.postgresql import PostgreSQLDriver
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
def secure_postgresql(secure: PostgresServer) -> PostgreSQL:
    """A backend on the server that speaks TLS."""
    return PostgreSQL(secure, "app")


async def is_encrypted(conn: Any) -> bool:
    return bool(await conn.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"))


async def test_a_wrong_password_is_wrong_for_ever(postgresql: PostgreSQL) -> None:
    """Trying again would only fill the server's log."""
    driver = postgresql.driver(password="wrong")

    with pytest.raises(asyncpg.InvalidPasswordError) as caught:
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
async def test_a_wrong_configuration_is_wrong_for_ever(
    postgresql: PostgreSQL, options: dict[str, Any]
) -> None:
    """Somebody has to change it; time does not."""
    driver = postgresql.driver(**options)

    with pytest.raises(Exception, match=r"no_such|much|nobody|no/such") as caught:
        await driver.connect()

    assert driver.is_permanent(caught.value)


async def test_a_user_that_may_not_connect_is_wrong_for_ever(postgresql: PostgreSQL) -> None:
    """The database exists, the password is right, and still the answer stays no."""
    name = f"locked_{os.getpid()}"
    postgresql.server.execute(f"CREATE DATABASE {name}")
    postgresql.server.execute(f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC")
    driver = postgresql.driver(database=name)

    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError) as caught:
            await driver.connect()
    finally:
        postgresql.server.execute(f"DROP DATABASE {name}")

    assert driver.is_permanent(caught.value)


async def test_a_refused_connection_may_be_accepted_later(postgresql: PostgreSQL) -> None:
    """The server may just be starting."""
    driver = postgresql.driver(port=free_port())

    with pytest.raises(OSError) as caught:  # noqa: PT011 - which one is asyncio's choice
        await driver.connect()

    assert not driver.is_permanent(caught.value)


async def test_a_full_server_may_have_room_later(
    postgres_server_factory: Callable[..., PostgresServer], opened: Opened
) -> None:
    """Too many clients is a state, not a configuration."""
    backend = PostgreSQL(postgres_server_factory(max_connections=1), "app")
    driver = backend.driver()
    await opened(driver)

    with pytest.raises(asyncpg.TooManyConnectionsError) as caught:
        await driver.connect()

    assert not driver.is_permanent(caught.value)


async def test_a_password_is_asked_for_at_each_connect(postgresql: PostgreSQL, opened: Opened) -> None:
    """A token that rotates is right at the next connect."""
    answers = [postgresql.server.password, "expired-token", postgresql.server.password]

    async def token() -> str:
        await asyncio.sleep(0)
        return answers.pop(0)

    driver = postgresql.driver(password=token)
    await opened(driver)

    with pytest.raises(asyncpg.InvalidPasswordError):
        await opened(driver)
    await opened(driver)

    assert answers == []
    assert driver.redact("expired-token") == "***"


async def test_a_password_function_need_not_be_async(postgresql: PostgreSQL, opened: Opened) -> None:
    """Reading a file is often all there is to do; copies of the driver know the answer too."""
    driver = postgresql.driver(password=lambda: postgresql.server.password)
    copy = postgresql.at_level("full", password=lambda: postgresql.server.password)

    await opened(driver)
    await opened(copy)

    assert driver.redact(postgresql.server.password) == "***"
    assert copy.redact(postgresql.server.password) == "***"


async def test_a_password_function_that_gives_no_text_says_so_and_not_what(postgresql: PostgreSQL) -> None:
    """Bytes are a common mistake."""
    driver = postgresql.driver(password=lambda: b"secret-bytes")

    with pytest.raises(TypeError, match=r"password: .* bytes") as caught:
        await driver.connect()

    assert "secret" not in str(caught.value)


async def test_a_connection_does_not_keep_the_password(postgresql: PostgreSQL, opened: Opened) -> None:
    """A dump of a borrowed connection shows where it goes, not how to get in."""
    conn = await opened(postgresql.driver())

    assert postgresql.server.password not in repr(vars(conn)) + repr(conn._params)


async def test_a_unix_socket_is_a_directory_for_a_host(postgresql: PostgreSQL, opened: Opened) -> None:
    """And the options of TCP do it no harm."""
    conn = await opened(postgresql.administrator(session="any"))

    assert conn.wire.family is socket.AF_UNIX
    assert await postgresql.ask(conn, 1) == 1


async def test_the_kernel_looks_after_a_silent_peer(postgresql: PostgreSQL, opened: Opened) -> None:
    """Without these, a lost network is noticed after a quarter of an hour and more."""
    conn = await opened(postgresql.driver(tcp_keepalive=12.0, tcp_user_timeout=7.5))
    wire = conn.wire

    assert wire.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 12
    assert wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 4
    assert wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7500


async def test_the_kernel_can_be_left_alone(postgresql: PostgreSQL, opened: Opened) -> None:
    """Who tunes the kernel itself says None."""
    conn = await opened(postgresql.driver(tcp_keepalive=None, tcp_user_timeout=None))

    assert conn.wire.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
    assert conn.wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0


@pytest.mark.parametrize(("mode", "encrypted"), [("disable", False), ("prefer", True), ("require", True)])
async def test_tls_is_used_as_asked(
    secure_postgresql: PostgreSQL, opened: Opened, mode: str, encrypted: bool
) -> None:
    """Encrypted where it can be, or where it must be."""
    conn = await opened(secure_postgresql.driver(ssl=mode))

    assert await is_encrypted(conn) is encrypted
    assert conn.wire.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


@pytest.mark.parametrize(("mode", "encrypted"), [("disable", False), ("prefer", False)])
async def test_without_tls_at_the_server(
    postgresql: PostgreSQL, opened: Opened, mode: str, encrypted: bool
) -> None:
    """What does not insist gets through."""
    conn = await opened(postgresql.driver(ssl=mode))

    assert await is_encrypted(conn) is encrypted


async def test_whoever_requires_tls_never_gets_less(postgresql: PostgreSQL) -> None:
    """A server that has none is no server for this pool."""
    with pytest.raises(ConnectionError, match="SSL"):
        await postgresql.driver(ssl="require").connect()


async def test_a_certificate_is_verified(
    secure_postgresql: PostgreSQL, secure: SecurePostgresServer, opened: Opened, tmp_path: Path
) -> None:
    """Against the given authority; and the host's name too, if asked."""
    root = tmp_path / "root.pem"
    root.write_bytes(secure.certificate.read_bytes())
    files = {"ssl_root_cert": str(root)}

    conn = await opened(secure_postgresql.driver(ssl="verify-ca", **files))

    assert await is_encrypted(conn)
    for options in ({"ssl": "verify-full", **files}, {"ssl": "verify-ca"}):
        driver = secure_postgresql.driver(**options)
        with pytest.raises(ssl.SSLCertVerificationError) as caught:
            await driver.connect()
        assert driver.is_permanent(caught.value)


async def test_a_child_of_a_fork_closes_its_copy_and_the_parents_session_lives(
    postgresql: PostgreSQL,
) -> None:
    """Nothing the child does, its garbage collection included, sends a byte to the server."""
    status, descriptors = await forked(PostgreSQLDriver, **postgresql.options)

    assert status == 0
    assert descriptors == []


async def test_a_closed_connection_has_no_descriptors(postgresql: PostgreSQL) -> None:
    """Its number may belong to somebody else by now."""
    driver = postgresql.driver()
    conn = await driver.connect()

    driver.terminate(conn)

    assert driver.filenos(conn) == ()


async def test_a_frozen_server_stops_neither_ping_nor_reset_nor_terminate_for_ever(
    postgres_server_factory: Callable[..., PostgresServer], opened: Opened
) -> None:
    """The pool's timeouts cancel them; the connection can be cut afterwards, and the session ends."""
    backend = PostgreSQL(postgres_server_factory(), "app")
    driver = backend.driver()
    connections = [await opened(driver) for _ in range(3)]
    calls = (driver.ping, driver.reset, driver.close)

    backend.server.freeze()
    for call, conn in zip(calls, connections, strict=True):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call(conn), 0.1)
        driver.terminate(conn)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(driver.connect(), 0.1)
    backend.server.thaw()

    assert all(driver.is_closed(conn) for conn in connections)
    await backend.gone()
