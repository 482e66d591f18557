"""How Redis connections are opened: passwords, TLS, sockets, and what is wrong for ever."""

import asyncio
import gc
import importlib.metadata
import os
import socket
import warnings
import weakref
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from millpond import create_pool
from millpond.drivers.redis import RedisDriver, Refused
from tests.drivers.authorities import assert_verified
from tests.drivers.backends import until
from tests.drivers.redis_backend import Redis
from tests.servers import RedisServer, certificates, free_port

Opened = Callable[[Any], Awaitable[Any]]


class SecureRedisServer(RedisServer):
    """A server with TLS; its certificate is its own authority and names only `db.example`."""

    @property
    def certificate(self) -> Path:
        return self.directory / "server.crt"

    def prepare(self) -> None:
        certificate, key = certificates.self_signed(self.directory, host="db.example")
        self._settings |= {
            "port": 0, "tls-port": self.port, "tls-cert-file": str(certificate), "tls-key-file": str(key),
            "tls-ca-cert-file": str(certificate), "tls-auth-clients": "no",
        }  # fmt: skip
        super().prepare()


@pytest.fixture(scope="module")
def secure(request: pytest.FixtureRequest) -> Iterator[SecureRedisServer]:
    """A server that speaks TLS and nothing else."""
    with SecureRedisServer() as server:
        yield server


@pytest.fixture
def make_user(redis: Redis) -> Iterator[Callable[..., str]]:
    """Makes users that may do what is said; they are gone at the end."""
    made: list[str] = []

    def make(*rules: str) -> str:
        name = f"user-{redis.client_name}-{len(made)}"
        redis.server.execute("ACL", "SETUSER", name, "on", f">{redis.server.password}", "~*", "&*", *rules)
        made.append(name)
        return name

    yield make
    for name in made:
        redis.server.execute("ACL", "DELUSER", name)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize(
    "options",
    [{"password": "wrong"}, {"user": "nobody"}, {"user": None}, {"user": None, "password": None}],
    ids=str,
)
async def test_wrong_credentials_are_wrong_for_ever(
    redis: Redis, options: dict[str, Any], protocol: int
) -> None:
    """Trying again would only fill the server's log; redis-py counts these among lost connections."""
    driver = redis.driver(protocol=protocol, **options)

    with pytest.raises(redis_py.AuthenticationError) as caught:
        await driver.connect()

    assert isinstance(caught.value, redis_py.ConnectionError)
    assert driver.is_permanent(caught.value)
    assert "wrong" not in str(caught.value)
    await redis.gone()


@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_password_without_a_user_is_the_default_users(
    redis: Redis, opened: Opened, protocol: int
) -> None:
    """As it was before there were users."""
    conn = await opened(redis.driver(user=None, password=redis.server.default_password, protocol=protocol))

    assert await conn.acl_whoami() in ("default", b"default")


async def test_a_user_without_a_password_needs_none(redis: Redis, opened: Opened) -> None:
    """The administrator of the tests is one."""
    conn = await opened(redis.driver(user="admin", password=None))

    assert await redis.ask(conn, 1) == 1


async def test_a_user_may_lack_every_command_that_the_driver_would_like(
    redis: Redis, opened: Opened, make_user: Callable[..., str]
) -> None:
    """HELLO and RESET are everybody's; a PING that is forbidden is an answer all the same."""
    driver = redis.driver(user=make_user("-@all", "+get", "+client|setname"))
    conn = await opened(driver)

    await driver.ping(conn)
    await conn.execute_command("CLIENT", "SETNAME", "mine")
    await driver.reset(conn)

    assert await conn.get("key") is None


async def test_a_database_that_one_may_not_select_is_wrong_for_ever(
    redis: Redis, make_user: Callable[..., str]
) -> None:
    """The number is right, and still the answer stays no."""
    driver = redis.driver(database=1, user=make_user("-@all", "+ping"))

    with pytest.raises(Refused, match="SELECT is refused") as caught:
        await driver.connect()

    assert driver.is_permanent(caught.value)


async def test_a_server_that_repeats_what_it_does_not_know_gives_no_password_away(
    redis_server_factory: Callable[..., RedisServer],
) -> None:
    """Old servers and proxies know no HELLO, and quote it with all that stood in it."""
    backend = Redis(redis_server_factory(unknown=("HELLO",)))
    driver = backend.driver(user=None, password="hunter2")

    with pytest.raises(Refused, match="unknown command") as caught:
        await driver.connect()

    assert driver.is_permanent(caught.value)
    assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__} {caught.value.__context__}"


async def test_a_connect_reads_no_files(
    redis: Redis, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """redis-py looks up its own version in the files of its package, while the loop stands still."""
    looked: list[str] = []
    monkeypatch.setattr(importlib.metadata, "version", lambda name: looked.append(name) or "8.1.0")

    conn = await opened(redis.driver())

    assert await redis.ask(conn, 1) == 1
    assert looked == []


async def test_a_refused_connection_may_be_accepted_later(redis: Redis) -> None:
    """The server may just be starting; and the error is the plain one."""
    driver = redis.driver(port=free_port())

    with pytest.raises(ConnectionRefusedError) as caught:
        await driver.connect()

    assert not driver.is_permanent(caught.value)


async def test_a_connect_is_tried_once(redis: Redis) -> None:
    """redis-py would try eleven times, and the pool knows better when."""
    knocks = 0

    def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal knocks
        knocks += 1
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as listener:
        driver = redis.driver(port=listener.sockets[0].getsockname()[1])
        with pytest.raises((redis_py.ConnectionError, OSError)) as caught:
            await driver.connect()

    assert knocks == 1
    assert not driver.is_permanent(caught.value)


async def test_a_full_server_may_have_room_later(
    redis_server_factory: Callable[..., RedisServer], opened: Opened
) -> None:
    """Too many clients is a state, not a configuration."""
    backend = Redis(redis_server_factory(max_connections=0))
    driver = backend.driver()
    await opened(driver)

    with pytest.raises((redis_py.ConnectionError, OSError)) as caught:
        await driver.connect()

    assert not driver.is_permanent(caught.value)


async def test_a_server_that_is_loading_is_not_there_yet(
    redis_server_factory: Callable[..., RedisServer], opened: Opened
) -> None:
    """It says who it is and takes the password, and has no data: nobody should be lent such a connection."""
    backend = Redis(
        redis_server_factory(settings={"appendonly": "no", "loading-process-events-interval-bytes": 1024})
    )
    server, driver = backend.server, backend.driver()
    server.execute("EVAL", "for n = 1, 300 do redis.call('SET', n, string.rep('x', 1000)) end", 0)
    server.execute("SAVE")
    conn = await opened(driver)
    await asyncio.to_thread(server.stop)
    server.set_before_start("key-load-delay", 20_000)  # microseconds

    start = asyncio.create_task(asyncio.to_thread(server.start))
    refusals: list[Exception] = []

    async def is_seen() -> bool:
        try:
            driver.terminate(await driver.connect())
        except Exception as error:
            refusals.append(error)
        return any(isinstance(each, redis_py.BusyLoadingError) for each in refusals)

    await until(is_seen)
    await asyncio.to_thread(server.execute, "CONFIG", "SET", "key-load-delay", 0)
    await start

    assert not any(map(driver.is_permanent, refusals))
    assert driver.is_closed(conn)
    assert await backend.ask(await opened(driver), 1) == 1


async def test_a_password_is_asked_for_at_each_connect(redis: Redis, opened: Opened) -> None:
    """A token that rotates is right at the next connect."""
    answers = [redis.server.password, "expired-token", redis.server.password]

    async def token() -> str:
        await asyncio.sleep(0)
        return answers.pop(0)

    driver = redis.driver(password=token)
    await opened(driver)

    with pytest.raises(redis_py.AuthenticationError) as caught:
        await opened(driver)
    await opened(driver)

    assert answers == []
    assert not driver.is_permanent(caught.value)
    assert driver.redact("expired-token") == "***"


async def test_a_connection_does_not_keep_the_password(redis: Redis, opened: Opened) -> None:
    """A dump of a borrowed connection shows where it goes, not how to get in."""
    conn = await opened(redis.driver())

    told = (
        f"{conn!r} {vars(conn)} {vars(conn.wire)} {conn.get_connection_kwargs()} {conn.connection.password}"
    )

    assert redis.server.password not in told


async def test_a_unix_socket_is_a_path_for_a_host(redis: Redis, opened: Opened) -> None:
    """And the options of TCP do it no harm."""
    driver = redis.driver(host=str(redis.server.socket), database=2)
    conn = await opened(driver)
    await driver.ping(conn)

    assert conn.wire.transport.get_extra_info("socket").family is socket.AF_UNIX
    assert (await redis.client(conn)).database == 2


async def test_the_session_is_what_the_options_say(redis: Redis, opened: Opened) -> None:
    """Database and name, from the first command on."""
    conn = await opened(redis.driver(database=7, client_name="driver-test-name"))
    number = await conn.client_id()

    (seen,) = [each for each in redis.server.connections() if each.id == number]

    assert (seen.database, seen.name, seen.user) == (7, "driver-test-name", redis.server.user)


@pytest.mark.parametrize("protocol", [None, 2, 3])
@pytest.mark.parametrize("decode", [False, True])
async def test_answers_have_the_shape_that_was_asked_for(
    redis: Redis, opened: Opened, decode: bool, protocol: int | None
) -> None:
    """Bytes or texts; and what redis-py's own client gives for the same options."""
    conn = await opened(redis.driver(decode_responses=decode, protocol=protocol))
    key = f"{redis.client_name}:zset"
    usual = redis_py.asyncio.Redis(
        unix_socket_path=str(redis.server.socket), username="admin", password="any",
        decode_responses=decode, protocol=protocol,
    )  # fmt: skip

    await conn.zadd(key, {"a": 1.5})
    mine = await conn.zrange(key, 0, -1, withscores=True)
    async with usual:
        theirs = await usual.zrange(key, 0, -1, withscores=True)

    assert mine == theirs
    assert isinstance(mine[0][0], str if decode else bytes)


async def test_a_command_that_takes_too_long_is_given_up(redis: Redis, opened: Opened) -> None:
    """And the connection with it, for its answer will still come."""
    driver = redis.driver(command_timeout=0.1)
    conn = await opened(driver)

    with pytest.raises(redis_py.TimeoutError):
        await conn.blpop([f"{redis.client_name}:never"], timeout=30)

    assert driver.is_closed(conn)
    await redis.gone()


async def test_without_a_command_timeout_a_command_may_take_its_time(redis: Redis, opened: Opened) -> None:
    """redis-py's own default gives up after five seconds, a blocking read included."""
    conn = await opened(redis.driver())

    assert conn.connection.socket_timeout is None
    assert conn.connection.health_check_interval == 0
    assert conn.connection.retry.get_retries() == 0


async def test_the_kernel_looks_after_a_silent_peer(redis: Redis, opened: Opened) -> None:
    """Without these, a lost network is noticed after a quarter of an hour and more."""
    conn = await opened(redis.driver(tcp_keepalive=12.0, tcp_user_timeout=7.5))
    wire = conn.wire.transport.get_extra_info("socket")

    assert wire.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 12
    assert wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 4
    assert wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7500


async def test_tls_is_used_as_asked(secure: SecureRedisServer, opened: Opened, tmp_path: Path) -> None:
    """Encrypted; against the given authority, if asked, and the host's name too."""
    backend = Redis(secure)
    root = tmp_path / "root.pem"
    root.write_bytes(secure.certificate.read_bytes())
    files = {"ssl_root_cert": str(root)}

    for options in ({"ssl": "require"}, {"ssl": "verify-ca", **files}):
        driver = backend.driver(**options)
        conn = await opened(driver)
        await driver.ping(conn)

        assert conn.wire.transport.get_extra_info("cipher")
        assert driver.filenos(conn)
    await assert_verified(backend, opened, secure.certificate, tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"ssl": "verify-full", "ssl_root_cert": "/no/such/file.pem"},
        {"ssl": "require", "ssl_cert": "/no/such/file.pem"},
    ],
    ids=str,
)
async def test_a_missing_file_is_wrong_for_ever(redis: Redis, options: dict[str, Any]) -> None:
    """Somebody has to change it; time does not."""
    driver = redis.driver(**options)

    with pytest.raises(ValueError, match="no/such/file") as caught:
        await driver.connect()

    assert driver.is_permanent(caught.value)


async def test_without_tls_where_there_is_tls_nothing_is_lent(secure: SecureRedisServer) -> None:
    """The server hangs up on whoever does not encrypt."""
    with pytest.raises((redis_py.ConnectionError, OSError)):
        await Redis(secure).driver().connect()


async def test_a_child_of_a_fork_closes_its_copy_and_the_parents_session_lives(redis: Redis) -> None:
    """Nothing the child does, its garbage collection included, sends a byte to the server."""
    driver = redis.driver()
    conn = await driver.connect()
    (descriptor,) = driver.filenos(conn)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # forking where threads run is deprecated since Python 3.12
        child = os.fork()
        if child == 0:
            try:
                inherited = weakref.ref(conn)
                del conn
                gc.collect()
                os.close(descriptor)  # as the pool does
                os._exit(0 if inherited() is not None else 3)
            finally:
                os._exit(4)
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    answer = await redis.ask(conn, 4)
    await driver.close(conn)

    assert os.waitstatus_to_exitcode(status) == 0
    assert answer == 4
    assert driver.filenos(conn) == ()


async def test_a_frozen_server_stops_neither_ping_nor_reset_nor_close_for_ever(
    redis_server_factory: Callable[..., RedisServer], opened: Opened
) -> None:
    """The pool's timeouts cancel them; the connection can be cut afterwards, and the session ends."""
    backend = Redis(redis_server_factory())
    driver = backend.driver()
    pinged, touched, closed = [await opened(driver) for _ in range(3)]
    await touched.select(3)

    backend.server.freeze()
    for call, conn in ((driver.ping, pinged), (driver.reset, touched)):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call(conn), 0.1)
        driver.terminate(conn)
    await asyncio.wait_for(driver.close(closed), 5.0)  # there is no goodbye to wait for
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(driver.connect(), 0.1)
    backend.server.thaw()

    assert all(driver.is_closed(conn) for conn in (pinged, touched, closed))
    await backend.gone()


async def test_bytes_that_a_frozen_server_does_not_take_keep_no_socket_open(
    redis_server_factory: Callable[..., RedisServer], opened: Opened
) -> None:
    """redis-py closes politely what it gives up, and politely means: when all has been sent."""
    backend = Redis(redis_server_factory())
    driver = backend.driver()
    conn = await opened(driver)
    wire = conn.wire.transport

    backend.server.freeze()
    write = asyncio.create_task(conn.set("big", b"x" * 50_000_000))

    async def is_stuck() -> bool:
        return bool(wire.get_write_buffer_size())

    await until(is_stuck)
    write.cancel()
    await asyncio.gather(write, return_exceptions=True)
    await asyncio.sleep(0)
    after_cancel = driver.filenos(conn)
    driver.terminate(conn)
    backend.server.thaw()

    assert after_cancel == ()
    await backend.gone()


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis://cache", {"host": "cache"}),
        ("valkey://cache:7000/3", {"host": "cache", "port": 7000, "database": 3}),
        ("rediss://cache", {"host": "cache", "ssl": "verify-full"}),
        ("valkeys://cache?ssl=require", {"host": "cache", "ssl": "require"}),
        ("unix:///run/redis.sock", {"host": "/run/redis.sock"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_url_means_tls_when_its_scheme_says_so(url: str, options: dict[str, object]) -> None:
    """`redis` ends in an s without meaning one."""
    found = {key: value for key, value in RedisDriver.options_from_url(url).items() if value is not None}

    assert found == options


async def test_a_pool_made_from_a_plain_url_works(redis_server: RedisServer) -> None:
    """The spelling that everybody tries first."""
    async with (
        create_pool(redis_server.dsn(), connect_timeout=2.0) as pool,
        pool.acquire(timeout=2.0) as client,
    ):
        assert await client.ping()
