"""How MySQL connections are opened: passwords, TLS, sockets, and what is wrong for ever."""

import asyncio
import contextlib
import importlib
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from millpond.drivers.mysql import MySQLDriver
from millpond.errors import MissingExtra
from tests.drivers.authorities import assert_verified
from tests.drivers.backends import MySQL
from tests.drivers.forking import forked
from tests.servers import MariaDBServer, MariaDBTemplate, free_port
from tests.servers.certificates import self_signed

Opened = Callable[[Any], Awaitable[Any]]


class SecureMariaDBServer(MariaDBServer):
    """A server with TLS; its certificate is its own authority and names only `db.example`."""

    @property
    def certificate(self) -> Path:
        return self.directory / "server.crt"

    def prepare(self) -> None:
        super().prepare()
        certificate, key = self_signed(self.directory, host="db.example")
        self._settings = {**self._settings, "ssl-cert": str(certificate), "ssl-key": str(key)}


@pytest.fixture(scope="module")
def secure(mariadb_template: MariaDBTemplate) -> Iterator[SecureMariaDBServer]:
    """A server that speaks TLS."""
    with SecureMariaDBServer(mariadb_template) as server:
        yield server


@pytest.fixture
def secure_mysql(secure: SecureMariaDBServer, mysql: MySQL) -> MySQL:
    """A backend on the server that speaks TLS, with each library in turn."""
    return MySQL(secure, mysql.library)


async def is_encrypted(backend: MySQL, conn: Any) -> bool:
    ((_, cipher),) = await backend.query(conn, "SHOW STATUS LIKE 'Ssl_cipher'")
    return bool(cipher)


@pytest.mark.parametrize("library", ["asyncmy", "aiomysql"])
def test_a_missing_library_names_its_extra(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other library alone is enough for the other choice."""
    extra = {"asyncmy": "mysql", "aiomysql": "aiomysql"}[library]
    other = {"asyncmy": "aiomysql", "aiomysql": "asyncmy"}[library]
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"millpond.drivers._{library}", raising=False)
    monkeypatch.delitem(sys.modules, "millpond.drivers.mysql")
    driver_class = importlib.import_module("millpond.drivers.mysql").MySQLDriver

    with pytest.raises(MissingExtra, match=rf"pip install 'millpond\[{extra}\]'"):
        driver_class(library=library)
    assert driver_class(library=other).library == other


async def test_the_connection_is_the_librarys_own(mysql: MySQL, opened: Opened) -> None:
    """What its documentation says of a connection is true of the one that is lent."""
    conn = await opened(mysql.driver())
    library = importlib.import_module(f"{mysql.library}.connection")

    assert isinstance(conn, library.Connection)
    assert conn.get_autocommit()


async def test_a_wrong_password_is_wrong_for_ever(mysql: MySQL) -> None:
    """Trying again would only fill the server's log, and in the end have the host blocked."""
    driver = mysql.driver(password="hunter2")

    with pytest.raises(driver._connection_class.OperationalError) as caught:
        await driver.connect()

    assert caught.value.args[0] == 1045
    assert driver.is_permanent(caught.value)
    assert "hunter2" not in str(caught.value)


async def test_an_expired_token_may_be_followed_by_a_better_one(mysql: MySQL) -> None:
    """Wrong credentials are for ever only where they are written down."""
    driver = mysql.driver(password=lambda: "expired")

    with pytest.raises(Exception, match="Access denied") as caught:
        await driver.connect()

    assert not driver.is_permanent(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"database": "no_such_database"},
        {"server_settings": {"no_such_setting": 1}},
        {"server_settings": {"sql_mode": "no_such_mode"}},
        {"server_settings": {"version": "no_such_version"}},
        {"collation": "utf8mb4_no_such"},
        {"init_statements": ["no_such statement"]},
        {"ssl": "verify-full", "ssl_root_cert": "/no_such/file.pem"},
        {"ssl": "require", "ssl_cert": "/no_such/file.pem"},
    ],
    ids=str,
)
async def test_a_wrong_configuration_is_wrong_for_ever(mysql: MySQL, options: dict[str, Any]) -> None:
    """Somebody has to change it; time does not."""
    driver = mysql.driver(**options)

    with pytest.raises(Exception, match=r"no_such|version") as caught:
        await driver.connect()

    assert driver.is_permanent(caught.value)
    await mysql.gone()


async def test_a_database_that_is_not_there_is_wrong_for_ever(mysql: MySQL) -> None:
    """Also for who may see that it is not there."""
    mysql.server.execute(f"GRANT ALL ON *.* TO {mysql.user}@127.0.0.1")
    driver = mysql.driver(database="nowhere")

    with pytest.raises(Exception, match="Unknown database") as caught:
        await driver.connect()

    assert driver.is_permanent(caught.value)


@pytest.mark.parametrize("change", [{"port": None}, {"host": "no-such-host.invalid"}], ids=["port", "host"])
async def test_what_cannot_be_reached_may_be_reached_later(mysql: MySQL, change: dict[str, Any]) -> None:
    """The server may just be starting, the name may come back."""
    driver = mysql.driver(**{key: value or free_port() for key, value in change.items()})

    with pytest.raises(OSError) as caught:  # noqa: PT011 - which one is asyncio's choice
        await driver.connect()

    assert not driver.is_permanent(caught.value)


async def test_a_full_server_may_have_room_later(
    mariadb_server_factory: Callable[..., MariaDBServer], opened: Opened
) -> None:
    """Too many connections is a state, not a configuration."""
    server = mariadb_server_factory(max_connections=10)
    drivers = [MySQL(server, library).driver() for library in ("asyncmy", "aiomysql")]
    for _ in range(10):
        await opened(drivers[0])

    for driver in drivers:
        with pytest.raises(driver._connection_class.Error) as caught:
            await driver.connect()

        assert caught.value.args[0] == 1040
        assert not driver.is_permanent(caught.value)


async def test_a_password_is_asked_for_at_each_connect(mysql: MySQL, opened: Opened) -> None:
    """A token that rotates is right at the next connect."""
    answers = [mysql.server.password, "expired-token", mysql.server.password]

    async def token() -> str:
        await asyncio.sleep(0)
        return answers.pop(0)

    driver = mysql.driver(password=token)
    await opened(driver)

    with pytest.raises(Exception, match="Access denied"):
        await opened(driver)
    await opened(driver)

    assert answers == []
    assert driver.redact("expired-token") == "***"


@pytest.mark.parametrize("password", ["gr\u00fc\u00dfe", "p\u20acss\u6c34w\u00f6rd", "q'uo\"te\\"])
async def test_a_password_may_hold_any_letter(mysql: MySQL, opened: Opened, password: str) -> None:
    """The libraries would send Latin-1, which no server takes, or fail with the letter in the error."""
    quoted = password.replace("\\", "\\\\").replace("'", "''")
    mysql.server.execute(f"ALTER USER {mysql.user}@127.0.0.1 IDENTIFIED BY '{quoted}'")

    conn = await opened(mysql.driver(password=password))

    assert await mysql.ask(conn, 6) == 6


async def test_a_connection_does_not_keep_the_password(mysql: MySQL, opened: Opened) -> None:
    """A dump of a borrowed connection shows where it goes, not how to get in."""
    conn = await opened(mysql.driver())

    assert mysql.server.password not in repr(vars(conn))
    assert not conn._password


async def test_nothing_reconnects_behind_the_pools_back(mysql: MySQL) -> None:
    """The libraries' ping would make a new session by default, which is nobody's."""
    driver = mysql.driver()
    conn = await driver.connect()
    driver.terminate(conn)

    with pytest.raises(conn.Error):
        await conn.ping()

    assert driver.is_closed(conn)
    await mysql.gone()


async def test_a_unix_socket_is_a_path_for_a_host(mysql: MySQL, opened: Opened) -> None:
    """And the options of TCP do it no harm."""
    driver = mysql.driver(host=str(mysql.server.socket))
    conn = await opened(driver)

    assert conn.transport.get_extra_info("socket").family is socket.AF_UNIX
    assert await mysql.ask(conn, 1) == 1
    assert repr(driver).endswith(f"@{mysql.server.socket}/{mysql.database}>")


async def test_the_kernel_looks_after_a_silent_peer(mysql: MySQL, opened: Opened) -> None:
    """Without these, a lost network is noticed after a quarter of an hour and more."""
    conn = await opened(mysql.driver(tcp_keepalive=12.0, tcp_user_timeout=7.5))
    wire = conn.transport.get_extra_info("socket")

    assert wire.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 12
    assert wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 4
    assert wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7500
    assert wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


async def test_the_kernel_can_be_left_alone(mysql: MySQL, opened: Opened) -> None:
    """Who tunes the kernel itself says None; the libraries would switch keepalive on all the same."""
    conn = await opened(mysql.driver(tcp_keepalive=None, tcp_user_timeout=None))
    wire = conn.transport.get_extra_info("socket")

    assert wire.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
    assert wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0


async def test_the_session_is_what_the_options_say(mysql: MySQL, opened: Opened) -> None:
    """Character set, collation, autocommit, timeout, settings, statements."""
    driver = mysql.driver(
        collation="utf8mb4_bin",
        autocommit=False,
        statement_timeout=12.5,
        server_settings={"time_zone": "+03:00", "sort_buffer_size": 262144, "sql_mode": ""},
        init_statements=["SET @grain = 'rye'", "SELECT 1"],
    )
    conn = await opened(driver)

    (row,) = await mysql.query(
        conn,
        "SELECT @@character_set_client, @@collation_connection, @@autocommit, @@max_statement_time,"
        " @@time_zone, @@sort_buffer_size, @@sql_mode, @grain",
    )

    assert row == ("utf8mb4", "utf8mb4_bin", 0, 12.5, "+03:00", 262144, "", "rye")


async def test_every_letter_survives_the_way_there_and_back(mysql: MySQL, opened: Opened) -> None:
    """Also where the server's own character set cannot hold it."""
    conn = await opened(mysql.driver())
    text = "p\u00f6nd \u6c34 \U0001f30a"

    await mysql.query(conn, f"INSERT INTO {mysql.table} VALUES (%s)", text)

    assert await mysql.query(conn, f"SELECT body FROM {mysql.table}") == [(text,)]


async def test_the_server_knows_the_application_by_name(
    mariadb_server_factory: Callable[..., MariaDBServer], opened: Opened
) -> None:
    """In performance_schema, where whoever runs the server looks."""
    server = mariadb_server_factory(settings={"performance-schema": "on"})
    asked = "SELECT attr_value FROM performance_schema.session_connect_attrs WHERE attr_name = 'program_name'"

    for library in ("asyncmy", "aiomysql"):
        await opened(MySQL(server, library).driver(application_name=f"mill-{library}-{'x' * 40}"))

    names = {name for (name,) in server.execute(asked)}
    assert names == {f"mill-{library}-{'x' * 40}" for library in ("asyncmy", "aiomysql")}


@pytest.mark.parametrize(("mode", "encrypted"), [("disable", False), ("prefer", True), ("require", True)])
async def test_tls_is_used_as_asked(secure_mysql: MySQL, opened: Opened, mode: str, encrypted: bool) -> None:
    """Encrypted where it can be, or where it must be."""
    driver = secure_mysql.driver(ssl=mode)
    conn = await opened(driver)
    await driver.reset(conn)
    wire = conn.transport.get_extra_info("socket")

    assert await is_encrypted(secure_mysql, conn) is encrypted
    assert wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
    await driver.close(conn)
    await secure_mysql.gone()


async def test_a_connection_with_tls_is_cut_at_once(secure_mysql: MySQL) -> None:
    """In the middle of a statement, and with nobody left to say goodbye to."""
    driver = secure_mysql.driver(ssl="require")
    conn = await driver.connect()
    task = await secure_mysql.start_slow(conn)

    driver.terminate(conn)
    (outcome,) = await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 5.0)

    assert isinstance(outcome, Exception)
    assert driver.is_closed(conn)
    await secure_mysql.gone()


@pytest.mark.parametrize("mode", ["disable", "prefer"])
async def test_without_tls_at_the_server(mysql: MySQL, opened: Opened, mode: str) -> None:
    """What does not insist gets through."""
    conn = await opened(mysql.driver(ssl=mode))

    assert not await is_encrypted(mysql, conn)


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
async def test_whoever_requires_tls_never_gets_less(mysql: MySQL, mode: str) -> None:
    """A server that has none is no server for this pool; aiomysql by itself would go on in the open."""
    driver = mysql.driver(ssl=mode)

    with pytest.raises(Exception, match="TLS is required") as caught:
        await driver.connect()

    assert driver.is_permanent(caught.value)
    await mysql.gone()


async def test_a_certificate_is_verified(
    secure_mysql: MySQL, secure: SecureMariaDBServer, opened: Opened, tmp_path: Path
) -> None:
    """Against the given authority; and the host's name too, if asked."""
    await assert_verified(secure_mysql, opened, secure.certificate, tmp_path)


@pytest.mark.parametrize("plugin", [b"mysql_clear_password", b"dialog"])
async def test_the_password_is_never_said_in_the_open(mysql: MySQL, plugin: bytes) -> None:
    """Whoever answers on the server's port could ask for it; both libraries would obey."""
    heard = bytearray()
    left = asyncio.Event()

    async def impostor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Protocol::HandshakeV10 as an honest server begins, then an AuthSwitchRequest.
        greeting = (
            b"\x0a10.11.0-MariaDB\0" + b"\x01\0\0\0" + b"12345678\0" + b"\xff\xf7" + b"\x2d\x02\0"
            + b"\xff\x81\x15" + b"\0" * 10 + b"123456789012\0" + b"mysql_native_password\0"
        )  # fmt: skip
        writer.write(len(greeting).to_bytes(3, "little") + b"\0" + greeting)
        await reader.read(4096)
        switch = b"\xfe" + plugin + b"\0" + (b"\x02Password: " if plugin == b"dialog" else b"")
        writer.write(len(switch).to_bytes(3, "little") + b"\x02" + switch)
        with contextlib.suppress(OSError):
            heard.extend(await reader.read(4096))
        writer.close()
        left.set()

    server = await asyncio.start_server(impostor, "127.0.0.1", 0)
    driver = mysql.driver(port=server.sockets[0].getsockname()[1], password="hunter2", ssl="disable")
    async with server:
        with pytest.raises(Exception, match="in the open") as caught:
            await driver.connect()
        await asyncio.wait_for(left.wait(), 5.0)

    assert driver.is_permanent(caught.value)
    assert b"hunter2" not in heard


async def test_a_child_of_a_fork_closes_its_copy_and_the_parents_session_lives(mysql: MySQL) -> None:
    """Nothing the child does, its garbage collection included, sends a byte to the server."""
    status, descriptors = await forked(MySQLDriver, **mysql.options)

    assert status == 0
    assert descriptors == []
    await mysql.gone()


async def test_a_frozen_server_stops_neither_ping_nor_reset_nor_terminate_for_ever(
    mariadb_server_factory: Callable[..., MariaDBServer], opened: Opened
) -> None:
    """The pool's timeouts cancel them; the connection can be cut afterwards, and the session ends."""
    server = mariadb_server_factory()
    backends = [MySQL(server, library) for library in ("asyncmy", "aiomysql")]
    drivers = [backend.driver() for backend in backends]
    opens = [(driver, [await opened(driver) for _ in range(3)]) for driver in drivers]

    server.freeze()
    for driver, connections in opens:
        for call, conn in zip((driver.ping, driver.reset, driver.close), connections, strict=True):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(call(conn), 0.1)
            driver.terminate(conn)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(driver.connect(), 0.1)
    server.thaw()

    for (driver, connections), backend in zip(opens, backends, strict=True):
        assert all(driver.is_closed(conn) for conn in connections)
        await backend.gone()


def test_roles_and_timeouts_are_said_as_the_server_understands_them() -> None:
    """No MySQL runs here: what is said to one is compared with its manual."""
    driver = MySQLDriver(statement_timeout=1.5)

    class Versioned:
        server_version = "8.4.3"

    assert "max_execution_time=1500" in driver._assignments(Versioned())  # type: ignore[arg-type]
    assert driver._role(Versioned(), "`miller`@`%`") == "`miller`@`%`"  # type: ignore[arg-type]
    assert driver._role(Versioned(), "NONE") == "NONE"  # type: ignore[arg-type]
