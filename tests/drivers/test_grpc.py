"""gRPC channels on a real server: shared by many calls, bounded, replaced when their server goes."""

import asyncio
import gc
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from millpond import ConnectFailed, ConnectionPool, PoolSettings, create_pool
from millpond.driver import Verdict
from millpond.drivers.grpc import GrpcDriver
from millpond.testing.contract import DriverContract, KindContract, SharedContract
from tests.drivers.backends import until
from tests.drivers.grpc_backend import Grpc
from tests.servers import free_port
from tests.servers.grpc_server import GrpcServer
from tests.servers.proxy import Proxy


@pytest.fixture(scope="module")
def server() -> Iterator[GrpcServer]:
    """One that nobody harms."""
    with GrpcServer(streams=20) as running:
        yield running


@pytest.fixture(scope="module")
def unlimited() -> Iterator[GrpcServer]:
    """One that nobody harms, and that takes any number of calls."""
    with GrpcServer() as running:
        yield running


@pytest.fixture
def start() -> Iterator[Callable[..., GrpcServer]]:
    """Starts servers to harm."""
    started: list[GrpcServer] = []

    def start(**options: Any) -> GrpcServer:
        started.append(GrpcServer(**options))
        started[-1].start()
        return started[-1]

    yield start
    for each in started:
        each.close()


class TestGrpc(DriverContract, SharedContract, KindContract):
    """The public contract; without a limit, for the server counts a cancelled call until it hears of it."""

    @pytest.fixture(autouse=True)
    def _on(self, unlimited: GrpcServer) -> None:
        self.backend = Grpc(unlimited)


def pool_for(server: GrpcServer, **settings: Any) -> ConnectionPool[Any]:
    """A pool that shares its channels."""
    chosen = {"min_size": 1, "max_size": 3, "max_leases_per_connection": 8, "retry_delay": 0.05, **settings}
    driver = GrpcDriver(host=server.host, port=server.port)
    return ConnectionPool(driver, settings=PoolSettings(**chosen))


async def say(channel: Any, words: str, milliseconds: int = 0) -> str:
    """Ask for an echo."""
    request = f"{milliseconds} {words}".encode()
    answer: bytes = await channel.unary_unary("/test.Echo/Say")(request)
    return answer.decode().partition(" ")[2]


async def call(server: GrpcServer, method: str, request: bytes = b"") -> bytes:
    """One call on a channel of its own."""
    driver = GrpcDriver(host=server.host, port=server.port)
    channel = await driver.connect()
    try:
        answer: bytes = await channel.unary_unary(f"/test.Echo/{method}")(request)
        return answer
    finally:
        await driver.close(channel)


async def test_calls_share_channels_and_each_gets_its_answer(server: GrpcServer) -> None:
    """Forty at once on three connections, none of which carries more calls than the settings say."""
    await call(server, "Peak")
    async with pool_for(server) as pool:

        async def ask(number: int) -> str:
            async with pool.acquire() as channel:
                # Long enough that the whole first wave is under way, however busy the machine is.
                return await say(channel, str(number), 250)

        answers = await asyncio.gather(*(ask(number) for number in range(40)))
        status = pool.status()

    assert answers == [str(number) for number in range(40)]
    assert status.total == 3
    assert int(await call(server, "Peak")) == 24


async def test_every_channel_is_a_connection_of_its_own(start: Callable[..., GrpcServer]) -> None:
    """GRPC would put them all on one, and the pool would be a fiction."""
    server = start()
    pool = pool_for(server, max_leases_per_connection=1, min_size=3)
    async with pool, pool.acquire(), pool.acquire(), pool.acquire():
        assert server.connections() == 3

    async def gone() -> bool:
        return server.connections() == 0

    await until(gone)


async def test_nobody_is_cancelled_who_shares_a_channel_that_is_lost(server: GrpcServer) -> None:
    """The first to notice discards it; the calls of the others fail for the reason that there is."""
    async with Proxy(server.port) as network:
        driver = GrpcDriver(host=network.host, port=network.port)
        outcomes: list[object] = []
        for _ in range(10):  # it is a matter of who is told first, and mostly it is not the calls
            channel = await driver.connect()
            network.refuse()
            network.cut()
            calls = [asyncio.create_task(say(channel, "slow", 60_000)) for _ in range(3)]
            async with asyncio.timeout(10):
                while not driver.is_closed(channel):
                    if all(each.done() for each in calls):
                        channel.get_state(try_to_connect=True)  # they knew first: it idles until it is used
                    await asyncio.sleep(0)  # no longer, or the calls would know before us
            driver.terminate(channel)
            outcomes += await asyncio.gather(*calls, return_exceptions=True)
            network.heal()
        await asyncio.gather(*driver.endings())

    assert {type(each) for each in outcomes} == {grpc.aio.AioRpcError}


@pytest.mark.parametrize("health", ["1", "none", "UNIMPLEMENTED", "UNAUTHENTICATED", "PERMISSION_DENIED"])
async def test_a_server_that_answers_at_all_is_alive(start: Callable[..., GrpcServer], health: str) -> None:
    """Also one without a health service, or with one that wants credentials, which calls bring along."""
    server = start()
    await call(server, "Health", health.encode())

    async with pool_for(server) as pool, pool.acquire() as channel:
        assert await say(channel, "x") == "x"
        assert (await pool.check()).healthy


@pytest.mark.parametrize(("health", "words"), [("2", "not serving"), ("UNAVAILABLE", "unavailable")])
async def test_a_server_that_says_it_does_not_serve_gets_no_borrowers(
    start: Callable[..., GrpcServer], health: str, words: str
) -> None:
    """As a load balancer would see it."""
    server = start()
    await call(server, "Health", health.encode())
    pool = pool_for(server, connect_retries=0)

    with pytest.raises(ConnectFailed, match=words):
        await pool.lease()
    await pool.close()


@pytest.mark.parametrize(("service", "is_known"), [("known", True), ("unknown", False)])
async def test_the_health_of_one_service_can_be_asked_for(
    server: GrpcServer, service: str, is_known: bool
) -> None:
    """By its name, in the protocol's own encoding."""
    pool = create_pool(f"grpc://{server.host}:{server.port}?health_service={service}", connect_retries=0)

    if is_known:
        async with pool.acquire() as channel:
            assert await say(channel, "x") == "x"
    else:
        with pytest.raises(ConnectFailed, match="does not know the service 'unknown'"):
            await pool.lease()
    await pool.close()


def certify(path: Path) -> str:
    """Write a certificate that is its own authority, for this machine's own address; return its key."""
    key = path.with_suffix(".key")
    command = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1",
        "-keyout", str(key), "-out", str(path),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return key.read_text()


async def test_tls_is_verified_and_a_wrong_certificate_never_works(
    start: Callable[..., GrpcServer], tmp_path: Path
) -> None:
    """The right authority serves; another one is a permanent error, at once."""
    key = certify(tmp_path / "right.pem")
    certify(tmp_path / "wrong.pem")
    (tmp_path / "server.pem").write_text(key + (tmp_path / "right.pem").read_text())
    server = start(tls=tmp_path)
    url = f"grpcs://127.0.0.1:{server.port}"

    async with create_pool(url, ssl_root_cert=str(tmp_path / "right.pem")) as pool, pool.acquire() as channel:
        assert await say(channel, "secret") == "secret"
    pool = create_pool(url, ssl_root_cert=str(tmp_path / "wrong.pem"))
    with pytest.raises(ConnectFailed) as caught:
        await pool.lease(timeout=10)
    await pool.close()

    assert pool.stats().attempts == 1, caught.value


async def test_a_refused_connection_fails_at_once_and_says_so() -> None:
    """Not after the whole of connect_timeout: gRPC itself would try for ever."""
    driver = GrpcDriver(host="127.0.0.1", port=free_port())

    with pytest.raises(ConnectionError, match="refused"):
        await asyncio.wait_for(driver.connect(), 3.0)
    await asyncio.gather(*driver.endings())


@pytest.mark.parametrize(("health", "words"), [("2", "not serving"), ("UNAVAILABLE", "unavailable")])
async def test_who_keeps_the_error_of_a_connect_keeps_no_connection(
    start: Callable[..., GrpcServer], health: str, words: str
) -> None:
    """A pool does, for its borrowers: gRPC would hang up when the last call of the channel is forgotten."""
    server = start()
    await call(server, "Health", health.encode())
    driver = GrpcDriver(host="127.0.0.1", port=server.port)

    async def is_alone() -> bool:
        gc.collect()
        return server.connections() == 0

    with pytest.raises(ConnectionError, match=words) as caught:
        await driver.connect()

    await asyncio.gather(*driver.endings())
    await until(is_alone)
    assert caught.value.args


async def test_a_channel_that_is_shut_down_is_gone(server: GrpcServer) -> None:
    """Known without asking anybody, and said by every question."""
    driver = GrpcDriver(host=server.host, port=server.port)
    channel = await driver.connect()
    assert not driver.is_closed(channel)
    assert driver.after_lease(channel, ValueError("the borrower's own")) is Verdict.KEEP

    driver.terminate(channel)
    driver.terminate(channel)
    await asyncio.gather(*driver.endings())

    assert driver.is_closed(channel)
    assert driver.after_lease(channel, None) is Verdict.DISCARD
    with pytest.raises(ConnectionError):
        await driver.ping(channel)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"port": 0}, "port: must be"),
        ({"ssl": "prefer"}, "ssl: must be one of 'disable', 'verify-full'"),
        ({"ssl_root_cert": "x.pem"}, "ssl_root_cert: is used only with ssl"),
        ({"ssl_server_name": "x"}, "ssl_server_name: is used only with ssl"),
        ({"keepalive_time": -1}, "keepalive_time: must be"),
        ({"options": {"grpc.x": 1.5}}, "options: the value of 'grpc.x' must be"),
        ({"health_service": 3}, "health_service: must be a text"),
    ],
)
def test_options_that_cannot_be_are_named(options: dict[str, Any], words: str) -> None:
    """When the driver is made."""
    with pytest.raises(ValueError, match=words):
        GrpcDriver(**options)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("grpc://user@h:1", "credentials belong to calls"),
        ("grpc://h:1/path", "has no path"),
        ("grpc://h:1?helth_service=x", "did you mean 'health_service'"),
        ("grpc://h:1?port=2", "names port twice"),
    ],
)
def test_urls_that_say_nonsense_are_refused(url: str, words: str) -> None:
    """With the part that is wrong."""
    with pytest.raises(ValueError, match=words):
        GrpcDriver.options_from_url(url)


def test_a_channel_is_shared_unless_the_settings_say_otherwise() -> None:
    """Eighty borrowers, below the hundred streams that many servers allow."""
    assert create_pool("grpc://h:1").settings.max_leases_per_connection == 80
    assert create_pool("grpc://h:1", max_leases_per_connection=1).settings.max_leases_per_connection == 1
