"""How connections to RabbitMQ are opened, shared, and what is wrong for ever."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiormq
import pytest

from millpond import PoolSettings
from millpond.drivers.rabbitmq import Refused
from tests.drivers.authorities import assert_verified
from tests.drivers.rabbitmq_backend import RabbitMQ
from tests.servers import RabbitMQServer, certificates, free_port

Opened = Callable[[Any], Awaitable[Any]]


class SecureRabbitMQServer(RabbitMQServer):
    """A node with TLS beside plain TCP, few channels on a connection, a certificate for `db.example`."""

    def __init__(self) -> None:
        super().__init__(settings={"channel_max": 8})
        self.tls_port = free_port()

    @property
    def certificate(self) -> Path:
        return self.directory / "server.crt"

    def prepare(self) -> None:
        certificate, key = certificates.self_signed(self.directory, host="db.example")
        self._settings |= {
            "listeners.ssl.1": f"{self.host}:{self.tls_port}",
            "ssl_options.certfile": str(certificate),
            "ssl_options.keyfile": str(key),
            "ssl_options.verify": "verify_none",
        }
        super().prepare()


@pytest.fixture(scope="module")
def secure_server() -> Iterator[SecureRabbitMQServer]:
    with SecureRabbitMQServer() as server:
        yield server


@pytest.fixture
def secure(secure_server: SecureRabbitMQServer) -> Iterator[RabbitMQ]:
    """Queues of this test's own on it."""
    backend = RabbitMQ(secure_server)
    yield backend
    backend.tidy()


@pytest.fixture
def vhost(rabbitmq: RabbitMQ) -> Iterator[str]:
    """A virtual host with an awkward name, to which the user may go."""
    name = "a/b c%d"
    rabbitmq.server.add_vhost(name)
    yield name
    rabbitmq.server.delete_vhost(name)


async def test_a_url_leads_to_a_virtual_host_with_any_name(
    rabbitmq: RabbitMQ, vhost: str, opened: Opened
) -> None:
    """Slashes, spaces and percent signs included."""
    driver = rabbitmq.driver()
    options = driver.options_from_url(rabbitmq.server.dsn(vhost=vhost))

    conn = await opened(rabbitmq.driver(**options))
    await rabbitmq.ask(conn, 4)

    assert options["vhost"] == vhost
    assert conn.line.wire.vhost == vhost


async def test_a_virtual_host_that_is_not_there_is_wrong_for_ever(rabbitmq: RabbitMQ) -> None:
    """Aiormq calls it an invalid frame, which might pass."""
    driver = rabbitmq.driver(vhost="nowhere")

    with pytest.raises(Refused, match="vhost nowhere not found") as caught:
        await driver.connect()

    assert driver.is_permanent(caught.value)


async def test_a_limit_that_is_reached_may_pass(rabbitmq: RabbitMQ, vhost: str) -> None:
    """It has the same code as a virtual host that is not there."""
    rabbitmq.server.limit_vhost(vhost, connections=0)
    driver = rabbitmq.driver(vhost=vhost)

    with pytest.raises(aiormq.exceptions.ConnectionClosed, match="limit") as caught:
        await driver.connect()

    assert not driver.is_permanent(caught.value)


async def test_a_password_is_asked_for_at_each_connection(rabbitmq: RabbitMQ, opened: Opened) -> None:
    """And not for each channel."""
    asked: list[int] = []

    async def token() -> str:
        asked.append(1)
        await asyncio.sleep(0)
        return rabbitmq.server.password

    driver = rabbitmq.driver(password=token, channels_per_connection=2)

    for _ in range(3):
        await opened(driver)

    assert len(asked) == 2


async def test_the_password_stays_on_no_object(rabbitmq: RabbitMQ, opened: Opened) -> None:
    """Aiormq keeps the URL for the life of the connection."""
    conn = await opened(rabbitmq.driver())

    assert rabbitmq.server.password not in f"{conn.line.wire.url} {conn.line.url} {conn.line!r} {conn!r}"
    assert conn.line.wire.url.password is None


async def test_the_server_knows_name_and_heartbeat(rabbitmq: RabbitMQ, opened: Opened) -> None:
    """What the configuration says arrives."""
    await opened(rabbitmq.driver(heartbeat=7))

    (seen,) = [each for each in rabbitmq.server.connections() if each.name == rabbitmq.prefix]

    assert (seen.heartbeat, seen.user, seen.channels) == (7, rabbitmq.server.user, 1)


async def test_the_socket_notices_a_peer_that_is_gone(rabbitmq: RabbitMQ, opened: Opened) -> None:
    """Aiormq sets neither of these."""
    conn = await opened(rabbitmq.driver(tcp_keepalive=9.0, tcp_user_timeout=4.0))
    sock = socket.socket(fileno=socket.dup(conn.line.plug.fileno))
    with sock:
        options = [
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
        ]

    assert options == [1, 9, 4000]


async def test_who_comes_at_the_same_time_shares_one_connection(rabbitmq: RabbitMQ) -> None:
    """The first one opens it; the others wait for the same attempt."""
    driver = rabbitmq.driver()

    conns = await asyncio.gather(*(driver.connect() for _ in range(10)))

    assert driver.connections == await rabbitmq.connections() == 1
    assert sorted(each.number for each in conns) == list(range(1, 11))
    for each in conns:
        await driver.close(each)
    assert driver.connections == 0
    await rabbitmq.gone()


async def test_one_that_leaves_while_a_connection_opens_takes_it_from_nobody(rabbitmq: RabbitMQ) -> None:
    """A connect that is cancelled ends the attempt only when nobody else waits for it."""
    driver = rabbitmq.driver()
    first, second = (asyncio.create_task(driver.connect()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()

    conn = await second

    assert first.cancelled()
    await driver.ping(conn)
    await driver.close(conn)
    await rabbitmq.gone()


async def test_who_waits_for_an_attempt_that_fails_fails_with_it(rabbitmq: RabbitMQ) -> None:
    """And the next one makes another attempt."""
    driver = rabbitmq.driver(**rabbitmq.unreachable)

    outcomes = await asyncio.gather(*(driver.connect() for _ in range(3)), return_exceptions=True)

    assert all(isinstance(each, ConnectionRefusedError) for each in outcomes)
    assert driver.connections == 0


async def test_as_many_connections_as_are_to_be_kept(rabbitmq: RabbitMQ, pools: Any) -> None:
    """`min_size` two: two channels, on two connections; further ones are spread over these."""
    pool = pools(rabbitmq.driver(), min_size=2, max_size=6, eager_init=True)
    await pool.initialize()
    assert pool.driver.connections == 2

    leases = [await pool.lease() for _ in range(6)]

    assert pool.driver.connections == await rabbitmq.connections() == 2
    for each in leases:
        each.release()


async def test_channels_stay_below_the_servers_limit(secure: RabbitMQ) -> None:
    """At the limit the server ends the whole connection; aiormq does not look."""
    driver = secure.driver(channels_per_connection=50)

    conns = [await driver.connect() for _ in range(13)]

    assert driver.connections == await secure.connections() == 3  # six on each, of eight
    for each in conns:
        await driver.ping(each)
    line = conns[0].line
    more = [await line.wire.channel() for _ in range(2)]
    with pytest.raises(ConnectionError, match="no room for another channel: 8"):
        await line.wire.channel()
    await driver.ping(conns[0])
    assert len(more) == 2
    for each in conns:
        await driver.close(each)


async def test_numbers_of_closed_channels_are_used_again(secure: RabbitMQ) -> None:
    """Aiormq counts up from the highest in use, to the server's limit."""
    driver = secure.driver()
    conn = await driver.connect()

    for _ in range(30):
        following = await driver.connect()
        await driver.close(conn)
        conn = following

    assert conn.number <= 2
    assert driver.connections == 1
    await driver.close(conn)


async def test_a_channel_leaves_nothing_on_its_connection(rabbitmq: RabbitMQ, opened: Opened) -> None:
    """aio-pika leaves a callback for each that was ever opened; a connection may live for months."""
    driver = rabbitmq.driver().configured(PoolSettings())
    conn = await opened(driver)
    wire = conn.line.wire

    def carried() -> tuple[int, int]:
        callbacks = wire._closing._callbacks or []
        return len(callbacks), len(wire.channels)

    before = carried()
    for _ in range(20):
        await conn.set_qos(prefetch_count=3)
        await driver.reset(conn)
        await driver.close(await driver.connect())

    assert carried() == before


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
async def test_tls_is_used_as_asked(secure: RabbitMQ, mode: str) -> None:
    """The certificate is its own authority and names another host."""
    server: Any = secure.server
    files = {} if mode == "require" else {"ssl_root_cert": str(server.certificate)}
    driver = secure.driver(ssl=mode, port=server.tls_port, **files)

    if mode == "verify-full":
        with pytest.raises(ssl.SSLCertVerificationError, match=r"db\.example|Hostname|IP address") as caught:
            await driver.connect()
        assert driver.is_permanent(caught.value)
        assert driver.key_of(caught.value) == "ssl"
    else:
        conn = await driver.connect()
        await driver.ping(conn)
        assert conn.line.plug._writer.get_extra_info("cipher")
        await driver.close(conn)
    await secure.gone()


async def test_a_certificate_is_verified(secure: RabbitMQ, opened: Opened, tmp_path: Path) -> None:
    """Against the given authority; and the host's name too, if asked."""
    server: Any = secure.server

    await assert_verified(secure, opened, server.certificate, tmp_path, port=server.tls_port)
