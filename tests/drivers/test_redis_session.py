"""What a Redis session looks like to its next borrower, and what it costs to make it so."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis as redis_py
from redis.asyncio.connection import _AsyncHiredisParser, _AsyncRESP2Parser, _AsyncRESP3Parser

from millpond.driver import Verdict
from millpond.drivers.redis import RedisDriver
from tests.drivers.backends import until
from tests.drivers.redis_backend import Redis

Opened = Callable[[Any], Awaitable[Any]]

PARSERS = {
    "hiredis-2": (_AsyncHiredisParser, 2),
    "hiredis-3": (_AsyncHiredisParser, 3),
    "python-2": (_AsyncRESP2Parser, 2),
    "python-3": (_AsyncRESP3Parser, 3),
}

# What a borrower may do to a session; each shows in CLIENT INFO, or in what HELLO and READONLY change.
DEEDS: dict[str, list[tuple[Any, ...]]] = {
    "another database": [("SELECT", 5)],
    "another name": [("CLIENT", "SETNAME", "mine")],
    "another user": [("AUTH", "default-secret")],
    "tracking": [("CLIENT", "TRACKING", "ON", "BCAST")],
    "open transaction": [("MULTI",), ("SET", "unconfirmed", "1")],
    "another database in an open transaction": [("SELECT", 5), ("MULTI",), ("SELECT", 6)],
    "watched key": [("WATCH", "key")],
    "its own reset": [("RESET",)],
    "spelled in small letters": [("select", "5")],
    "spelled in one word": [("CLIENT SETNAME", "mine")],
    "spelled in bytes": [(b"SELECT", b"5")],
}

# Numbers that grow, and what the question itself changes.
_PASSING = ("age", "idle", "cmd", "qbuf", "qbuf-free", "argv-mem", "multi-mem", "rbs", "rbp", "tot-mem",
            "obl", "oll", "omem", "events", "tot-net-in", "tot-net-out", "tot-cmds")  # fmt: skip


class WithParser(RedisDriver):
    """A driver whose connections use one parser, whichever is installed."""

    parser: Any

    @property
    def _client_options(self) -> dict[str, Any]:
        return {**super()._client_options, "parser_class": self.parser}


@pytest.fixture(params=PARSERS)
def parsed(request: pytest.FixtureRequest, redis: Redis) -> RedisDriver:
    """A driver for each parser and version of the protocol."""
    parser, protocol = PARSERS[request.param]
    driver = redis.driver(protocol=protocol)
    driver.__class__ = WithParser
    driver.parser = parser  # type: ignore[attr-defined]
    return driver


async def state(redis: Redis, conn: Any) -> dict[str, Any]:
    """The session, as the administrator sees it."""
    found = await asyncio.to_thread(redis.server.execute, "CLIENT LIST", "ID", conn.number)
    return {key: value for key, value in found[0].items() if key not in _PASSING}


async def opened_with_number(opened: Opened, driver: Any) -> Any:
    """A connection that knows how the server calls it."""
    conn = await opened(driver)
    conn.number = await conn.client_id()
    return conn


async def resets(redis: Redis) -> int:
    """How many RESETs the server has seen."""
    stats = await asyncio.to_thread(redis.server.execute, "INFO", "commandstats")
    return int(stats.get("cmdstat_reset", {"calls": 0})["calls"])


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("deed", DEEDS)
async def test_a_full_reset_leaves_nothing_of_the_last_borrower(
    redis: Redis, opened: Opened, deed: str, protocol: int
) -> None:
    """The next borrower finds the session as it was after connecting."""
    driver = redis.driver(database=3, protocol=protocol)
    conn = await opened_with_number(opened, driver)
    before = await state(redis, conn)

    for command in DEEDS[deed]:
        await conn.execute_command(*command)
    meanwhile = await state(redis, conn)
    verdict = driver.after_lease(conn, None)
    await driver.reset(conn)

    assert meanwhile != before or deed == "watched key"  # which only later servers show
    assert verdict is Verdict.RESET
    assert driver.after_lease(conn, None) is Verdict.KEEP
    assert await redis.ask(conn, 5) == 5
    assert await state(redis, conn) == before


@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_reset_comes_back_to_the_protocol(redis: Redis, opened: Opened, protocol: int) -> None:
    """RESET alone falls back to version 2, and the client would wait for answers of version 3."""
    driver = redis.driver(protocol=protocol)
    conn = await opened(driver)

    await conn.execute_command("RESET")
    await conn.execute_command("AUTH", redis.server.default_password)
    await driver.reset(conn)
    greeting = await conn.execute_command("HELLO")

    found = greeting if isinstance(greeting, dict) else dict(zip(greeting[::2], greeting[1::2], strict=True))
    assert found[b"proto"] == protocol


async def test_a_full_reset_asks_for_the_password_of_now(redis: Redis, opened: Opened) -> None:
    """RESET logs out: a token that rotated meanwhile is not the one of the connect."""
    asked: list[str] = []

    async def token() -> str:
        asked.append(redis.server.password)
        return asked[-1]

    driver = redis.driver(password=token)
    conn = await opened(driver)

    await conn.select(4)
    await driver.reset(conn)

    assert len(asked) == 2
    assert (await redis.client(conn)).database == 0


async def test_a_watch_does_not_spoil_the_next_borrowers_transaction(redis: Redis, opened: Opened) -> None:
    """Otherwise their EXEC would do nothing, because of a key they have never heard of."""
    driver = redis.at_level("rollback")
    conn, other = await opened(driver), await opened(driver)
    key = f"{redis.client_name}:watched"

    await conn.execute_command("WATCH", key)
    assert driver.after_lease(conn, None) is Verdict.RESET
    await driver.reset(conn)
    await other.set(key, "changed")

    async with conn.pipeline() as pipe:
        assert await pipe.set(f"{key}:2", "mine").execute() == [True]


@pytest.mark.parametrize("level", ["none", "rollback", "full"])
async def test_plain_commands_cost_no_reset(redis: Redis, opened: Opened, level: Any) -> None:
    """The connection has read along: there is nothing to clean, and so nothing is sent."""
    driver = redis.at_level(level)
    conn = await opened(driver)
    key = f"{redis.client_name}:plain"
    before = await resets(redis)

    await conn.set(key, "1", ex=100)
    await conn.incr(key)
    await conn.execute_command("get", key)
    await conn.execute_command("OBJECT", "ENCODING", key)
    await conn.eval("redis.call('SELECT', 9) return redis.call('GET', KEYS[1])", 1, key)
    await conn.script_load("return 1")
    await conn.client_id()
    await conn.xadd(f"{key}:stream", {"a": 1})
    async with conn.pipeline(transaction=False) as pipe:
        await pipe.get(key).ttl(key).execute()
    async with conn.lock(f"{key}:lock", timeout=5):
        pass
    verdict = driver.after_lease(conn, None)
    await driver.reset(conn)

    assert verdict is Verdict.KEEP
    assert await resets(redis) == before


@pytest.mark.parametrize("level", ["none", "rollback", "full"])
async def test_a_transaction_that_ended_costs_no_reset(redis: Redis, opened: Opened, level: Any) -> None:
    """MULTI and EXEC in one pipeline is how transactions are made with redis-py."""
    driver = redis.at_level(level)
    conn = await opened(driver)
    key = f"{redis.client_name}:n"

    async with conn.pipeline(transaction=True) as pipe:
        await pipe.incr(key).incr(key).execute()
    async with conn.pipeline() as pipe:
        await pipe.watch(key)
        await pipe.get(key)
        pipe.multi()
        await pipe.incr(key).execute()
    async with conn.pipeline() as pipe:
        await pipe.watch(key)
        await pipe.unwatch()
    verdict = driver.after_lease(conn, None)

    assert verdict is Verdict.KEEP
    assert await conn.get(key) == b"3"


async def test_a_transaction_that_failed_is_looked_after(redis: Redis, opened: Opened) -> None:
    """An error in the middle may be EXEC's answer, and then the transaction is still open."""
    driver = redis.at_level("rollback")
    conn = await opened(driver)

    with pytest.raises(redis_py.ResponseError):
        async with conn.pipeline(transaction=True) as pipe:
            await pipe.set("key", "1").execute_command("GET").execute()
    verdict = driver.after_lease(conn, None)
    await driver.reset(conn)

    assert verdict is Verdict.RESET
    assert driver.after_lease(conn, None) is Verdict.KEEP
    assert await redis.ask(conn, 8) == 8


async def test_an_unknown_command_counts_as_a_change(redis: Redis, opened: Opened) -> None:
    """A newer server's, a module's: not knowing costs a round trip, guessing could cost more."""
    driver = redis.driver()
    conn = await opened(driver)

    with pytest.raises(redis_py.ResponseError):
        await conn.execute_command("NEWER.COMMAND", "x")

    assert driver.after_lease(conn, None) is Verdict.RESET


async def test_what_reset_would_leave_costs_the_connection(redis: Redis, opened: Opened) -> None:
    """Redis 7.0 keeps a connection out of eviction through a RESET."""
    driver = redis.driver()
    conn = await opened_with_number(opened, driver)

    await conn.client_no_evict("ON")
    await conn.execute_command("RESET")

    assert (await state(redis, conn))["flags"] == "e"
    assert driver.after_lease(conn, None) is Verdict.DISCARD
    assert redis.at_level("rollback").after_lease(conn, None) is Verdict.KEEP
    with pytest.raises(redis_py.ConnectionError, match="RESET does not mend"):
        await driver.reset(conn)


@pytest.mark.parametrize("level", ["none", "rollback", "full"])
async def test_a_subscription_ends_with_its_connection(redis: Redis, opened: Opened, level: Any) -> None:
    """Messages that are under way cannot be told apart from the next borrower's answers."""
    driver = redis.at_level(level)
    conn = await opened(driver)
    pubsub = conn.pubsub()
    await pubsub.subscribe("news")
    first = await pubsub.get_message(timeout=5.0)

    verdict = driver.after_lease(conn, None)
    driver.terminate(conn)

    assert first["type"] == "subscribe"
    assert verdict is Verdict.DISCARD
    await redis.gone()


async def test_a_subscription_has_the_connection_to_itself(redis: Redis, opened: Opened) -> None:
    """A command beside it would take its messages for answers, or the other way round; it is told so."""
    driver = redis.driver()
    conn = await opened(driver)
    pubsub = conn.pubsub()
    await pubsub.subscribe("news")

    for attempt in (conn.ping(), conn.pipeline().ping().execute(), conn.pubsub().subscribe("more")):
        with pytest.raises(redis_py.RedisError, match="take another lease"):
            await attempt
    await pubsub.aclose()

    assert driver.is_closed(conn)
    await redis.gone()


async def test_a_monitor_ends_with_its_connection(redis: Redis, opened: Opened) -> None:
    """The next borrower does not read what everybody else says."""
    driver = redis.driver()
    conn, other = await opened(driver), await opened(driver)

    async with conn.monitor() as monitor:
        await other.set("seen", "1")
        seen = await monitor.next_command()
        verdict = driver.after_lease(conn, None)

    assert seen["command"].startswith("SET seen")
    assert verdict is Verdict.DISCARD
    assert driver.is_closed(conn)


@pytest.mark.parametrize("mode", ["OFF", "SKIP"])
@pytest.mark.parametrize("level", ["none", "rollback", "full"])
async def test_switched_off_answers_end_with_their_connection(
    redis: Redis, opened: Opened, level: Any, mode: str
) -> None:
    """redis-py waits for an answer that the server has been told not to give."""
    driver = redis.at_level(level)
    conn = await opened(driver)

    task = asyncio.create_task(conn.client_reply(mode))
    await asyncio.wait([task], timeout=0.05)
    left_alone = driver.after_lease(conn, None)
    task.cancel()
    (error,) = await asyncio.gather(task, return_exceptions=True)

    assert left_alone is Verdict.DISCARD
    assert driver.after_lease(conn, error) is Verdict.DISCARD


@pytest.mark.parametrize("level", ["none", "rollback", "full"])
async def test_an_answer_that_nobody_reads_condemns_the_connection(
    redis: Redis, opened: Opened, level: Any
) -> None:
    """A callback that fails in the middle of a pipeline leaves the rest of the answers where they are."""
    driver = redis.at_level(level)
    conn = await opened(driver)

    def fails(_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    conn.set_response_callback("ECHO", fails)
    with pytest.raises(ZeroDivisionError):
        await conn.pipeline(transaction=False).echo("1").get("a").get("b").execute()
    with pytest.raises(redis_py.ConnectionError, match="nobody has read"):
        await driver.reset(conn)

    assert driver.after_lease(conn, ZeroDivisionError()) is Verdict.DISCARD


async def test_a_question_sent_by_hand_is_counted(redis: Redis, opened: Opened) -> None:
    """Its answer may still be on its way, and nothing of it can be seen on this side."""
    driver = redis.at_level("none")
    conn = await opened(driver)

    await conn.connection.send_command("ECHO", "mine")
    verdict = driver.after_lease(conn, None)

    assert verdict is Verdict.DISCARD
    assert await conn.connection.read_response() == b"mine"
    assert driver.after_lease(conn, None) is Verdict.KEEP


async def test_bytes_sent_by_hand_cannot_be_counted(redis: Redis, opened: Opened) -> None:
    """Nobody knows how many commands there are in them, nor which."""
    driver = redis.at_level("none")
    conn = await opened(driver)

    await conn.connection.send_packed_command(b"PING\r\n")
    assert await conn.connection.read_response() == b"PONG"

    assert driver.after_lease(conn, None) is Verdict.DISCARD


async def test_what_arrives_unasked_is_found_without_asking(
    redis: Redis, parsed: RedisDriver, opened: Opened
) -> None:
    """Bytes in the buffer of an idle connection would be the next borrower's first answer."""
    conn, other = await opened(parsed), await opened(parsed)
    key = f"{redis.client_name}:tracked"

    if conn.wire.protocol == 2:
        await conn.connection.send_command("ECHO", "late")
    else:
        await conn.execute_command("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", key)
        assert not parsed.is_closed(conn)
        await other.set(key, "changed")

    async def is_noticed() -> bool:
        return parsed.is_closed(conn)

    await until(is_noticed)
    assert parsed.after_lease(conn, None) is Verdict.DISCARD
    assert not parsed.is_closed(other)


async def test_a_hang_up_is_noticed_without_asking(redis: Redis, parsed: RedisDriver, opened: Opened) -> None:
    """redis-py itself goes on to say that it is connected."""
    conn = await opened_with_number(opened, parsed)

    await asyncio.to_thread(redis.server.execute, "CLIENT", "KILL", "ID", conn.number)

    async def is_noticed() -> bool:
        return parsed.is_closed(conn)

    await until(is_noticed)
    assert conn.connection.is_connected
    assert parsed.after_lease(conn, None) is Verdict.DISCARD


async def test_a_lost_connection_is_not_opened_again_behind_the_borrowers_back(
    redis: Redis, opened: Opened
) -> None:
    """redis-py would do so without a word: another session, another database, no transaction."""
    driver = redis.driver(database=2)
    conn = await opened_with_number(opened, driver)
    pipe = conn.pipeline()
    await asyncio.to_thread(redis.server.execute, "CLIENT", "KILL", "ID", conn.number)

    for _ in range(3):
        with pytest.raises(redis_py.ConnectionError):
            await conn.ping()
    for attempt in (pipe.ping().execute(), conn.pubsub().subscribe("x"), conn.connection.connect()):
        with pytest.raises(redis_py.ConnectionError):
            await attempt

    assert driver.after_lease(conn, None) is Verdict.DISCARD
    assert await redis.sessions() == 0


async def test_a_lease_is_one_connection_whatever_is_done_with_it(redis: Redis, opened: Opened) -> None:
    """redis-py takes a further connection for each pipeline and script where it has a pool."""
    conn = await opened(redis.driver())
    key = f"{redis.client_name}:one"
    number = await conn.client_id()

    async with conn.pipeline() as pipe:
        await pipe.watch(key)
        seen_from_inside = await pipe.client_id()
        pipe.multi()
        (seen_in_transaction,) = await pipe.client_id().execute()
    (seen_in_pipeline,) = await conn.pipeline(transaction=False).client_id().execute()
    await conn.register_script("return 1")()
    await conn.transaction(lambda pipe: pipe.get(key), key)
    async with conn.client() as same:
        seen_from_client = await same.client_id()
        sessions = await redis.sessions()

    assert {seen_from_inside, seen_in_transaction, seen_in_pipeline, seen_from_client} == {number}
    assert sessions == 1


async def test_commands_of_one_lease_take_turns(redis: Redis, opened: Opened) -> None:
    """gather() over one connection is right, pipelines, transactions and watches included."""
    driver = redis.driver()
    conn = await opened(driver)
    key = f"{redis.client_name}:turns"

    async def transaction(number: int) -> Any:
        async with conn.pipeline() as pipe:
            await pipe.watch(f"{key}:{number}")
            await pipe.echo(str(number))
            pipe.multi()
            return (await pipe.echo(str(number)).execute())[0]

    async def batch(number: int) -> Any:
        return (await conn.pipeline(transaction=False).get(key).echo(str(number)).execute())[1]

    kinds = (redis.ask, lambda _, number: transaction(number), lambda _, number: batch(number))
    answers = await asyncio.gather(*(kinds[number % 3](conn, number) for number in range(150)))

    assert [int(each) for each in answers] == list(range(150))
    assert driver.after_lease(conn, None) is Verdict.KEEP


async def test_a_task_that_outlives_its_lease_takes_the_connection_with_it(
    redis: Redis, opened: Opened
) -> None:
    """It still waits for an answer; whoever came next would wait behind it."""
    driver = redis.driver()
    conn = await opened(driver)
    task = await redis.start_slow(conn)

    verdict = driver.after_lease(conn, None)
    driver.terminate(conn)
    await asyncio.gather(task, return_exceptions=True)

    assert verdict is Verdict.DISCARD


async def test_closing_the_client_costs_the_connection(redis: Redis, opened: Opened) -> None:
    """Habit makes people write `async with client`; the next borrower gets another one."""
    driver = redis.driver()
    conn = await opened(driver)

    async with conn:
        await conn.ping()

    assert driver.after_lease(conn, None) is Verdict.DISCARD
    await redis.gone()


async def test_an_error_of_another_server_says_nothing_about_this_one(redis: Redis, opened: Opened) -> None:
    """Somebody who holds two leases passes the error of one through the other."""
    driver = redis.driver()
    conn = await opened(driver)
    await redis.ask(conn, 1)

    for error in (redis_py.ReadOnlyError("x"), redis_py.ConnectionError("x"), redis_py.TimeoutError("x")):
        assert driver.after_lease(conn, error) is Verdict.KEEP
