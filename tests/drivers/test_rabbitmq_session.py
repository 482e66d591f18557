"""What a borrower leaves on a channel, what becomes of it, and what a lost or blocked server costs."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import aio_pika
import aiormq
import pytest

from millpond.driver import Verdict
from tests.drivers.backends import until, works
from tests.drivers.rabbitmq_backend import RabbitMQ
from tests.servers import RabbitMQServer

Opened = Callable[[Any], Awaitable[Any]]
LEVELS = ("none", "rollback", "full")


@pytest.fixture(scope="module")
def fragile_server() -> Iterator[RabbitMQServer]:
    """One to kill, freeze and block."""
    with RabbitMQServer() as server:
        yield server


@pytest.fixture
def fragile(fragile_server: RabbitMQServer) -> Iterator[RabbitMQ]:
    """Queues of this test's own on it; afterwards it runs."""
    backend = RabbitMQ(fragile_server)
    yield backend
    backend.tidy()


@pytest.mark.parametrize(
    ("level", "verdict"), [("none", Verdict.DISCARD), ("rollback", Verdict.RESET), ("full", Verdict.RESET)]
)
async def test_a_transaction_is_rolled_back_and_no_channel_stays_in_one(
    rabbitmq: RabbitMQ, opened: Opened, level: Any, verdict: Verdict
) -> None:
    """`tx.select` has no way back: another channel takes its place."""
    driver = rabbitmq.at_level(level, publisher_confirms=False)
    conn = await opened(driver)
    lane = await conn.get_underlay_channel()
    await lane.tx_select()
    await rabbitmq.publish(conn, "never", rabbitmq.table)
    assert (await rabbitmq.channel(conn)).is_transactional

    assert driver.after_lease(conn, None) is verdict
    conn = await rabbitmq.given_back(driver, conn, None)

    async def is_plain() -> bool:
        return not any(each.is_transactional for each in await rabbitmq.channels())

    await until(is_plain)
    assert rabbitmq.server.messages(rabbitmq.table) == 1
    driver.terminate(conn)


async def test_a_transaction_on_a_channel_with_confirms_costs_the_channel(
    rabbitmq: RabbitMQ, opened: Opened
) -> None:
    """The server does not switch from the one to the other."""
    driver = rabbitmq.driver()
    conn = await opened(driver)
    lane = await conn.get_underlay_channel()

    with pytest.raises(aiormq.exceptions.ChannelPreconditionFailed, match="confirm to tx") as caught:
        await lane.tx_select()

    assert driver.after_lease(conn, caught.value) is Verdict.DISCARD


async def test_confirms_that_the_pool_did_not_want_do_not_stay(rabbitmq: RabbitMQ, opened: Opened) -> None:
    """The next borrower's channel would number its messages."""
    driver = rabbitmq.driver(publisher_confirms=False)
    conn = await opened(driver)
    lane = await conn.get_underlay_channel()
    await lane.confirm_delivery()
    assert (await rabbitmq.channel(conn)).is_confirming

    assert driver.after_lease(conn, None) is Verdict.RESET
    await driver.reset(conn)

    assert not (await rabbitmq.channel(conn)).is_confirming


async def test_a_prefetch_stays_at_rollback_and_goes_at_full(rabbitmq: RabbitMQ, opened: Opened) -> None:
    """What a level does not cover it does not touch."""
    seen = {}
    for level in LEVELS:
        driver = rabbitmq.at_level(level)
        conn = await opened(driver)
        await conn.set_qos(prefetch_count=7)
        conn = await rabbitmq.given_back(driver, conn, None)
        seen[level] = [each.prefetch for each in await rabbitmq.channels()]
        await driver.close(conn)
        await rabbitmq.gone()

    assert seen == {"none": [7], "rollback": [7], "full": [0]}


async def test_a_consumer_and_its_messages_do_not_stay(rabbitmq: RabbitMQ, opened: Opened) -> None:
    """What it had taken goes back to the queue, before the next borrower has the channel."""
    driver = rabbitmq.at_level("rollback")
    conn = await opened(driver)
    heard: list[Any] = []

    async def hear(message: Any) -> None:
        heard.append(message)

    await (await conn.get_queue(rabbitmq.table)).consume(hear)

    async def has_heard() -> bool:
        return bool(heard)

    await until(has_heard)

    assert driver.after_lease(conn, None) is Verdict.RESET
    await driver.reset(conn)

    assert rabbitmq.server.messages(rabbitmq.table) == 1
    (channel,) = await rabbitmq.channels()
    assert (channel.consumers, channel.unacknowledged) == (0, 0)


@pytest.mark.parametrize("settle", ["ack", "nack", "reject", "all", "no_ack"])
async def test_a_message_that_is_settled_costs_no_channel(
    rabbitmq: RabbitMQ, opened: Opened, settle: str
) -> None:
    """Getting messages one by one is what many borrowers do; one that waits for a word is unsettled."""
    driver = rabbitmq.driver()
    conn = await opened(driver)
    below = await conn.get_underlay_channel()

    got = await below.basic_get(rabbitmq.table, no_ack=settle == "no_ack")
    assert (driver.after_lease(conn, None) is Verdict.KEEP) is (settle == "no_ack")
    tag = got.delivery.delivery_tag
    match settle:
        case "ack":
            await below.basic_ack(tag)
        case "nack":
            await below.basic_nack(tag)
        case "reject":
            await below.basic_reject(tag)
        case "all":
            await below.basic_ack(0, multiple=True)

    lane = conn.lane
    assert driver.after_lease(conn, None) is (Verdict.KEEP if settle == "no_ack" else Verdict.RESET)
    await driver.reset(conn)

    assert conn.lane is lane
    assert driver.after_lease(conn, None) is Verdict.KEEP
    assert (await rabbitmq.channel(conn)).unacknowledged == 0


async def test_returned_messages_reach_their_own_borrower_only(rabbitmq: RabbitMQ, opened: Opened) -> None:
    """A callback of the last one is gone; one of the next works on a channel that was renewed."""
    driver = rabbitmq.driver()
    conn = await opened(driver)
    heard: list[str] = []
    for name in ("first", "second"):
        conn.return_callbacks.add(lambda *_, name=name: heard.append(name))
        await conn.default_exchange.publish(
            aio_pika.Message(b"x"), routing_key="no-such-queue", mandatory=True
        )
        assert driver.after_lease(conn, None) is Verdict.RESET
        await driver.reset(conn)

    assert heard == ["first", "second"]
    assert driver.after_lease(conn, None) is Verdict.KEEP


async def test_a_callback_for_the_end_is_told_of_no_other_borrowers_end(
    rabbitmq: RabbitMQ, opened: Opened
) -> None:
    """And while its lease lasts it is told."""
    driver = rabbitmq.driver()
    conn = await opened(driver)
    heard: list[str] = []

    async def last(*_: object) -> None:
        heard.append("last")

    async def this(*_: object) -> None:
        heard.append("this")

    conn.close_callbacks.add(last)
    assert driver.after_lease(conn, None) is Verdict.RESET
    await driver.reset(conn)
    conn.close_callbacks.add(this)
    await rabbitmq.end_all()

    async def has_heard() -> bool:
        return bool(heard)

    await until(has_heard)
    assert heard == ["this"]


@pytest.mark.parametrize("level", LEVELS)
async def test_a_publish_without_its_confirm_costs_the_channel_and_not_the_message(
    rabbitmq: RabbitMQ, opened: Opened, level: Any
) -> None:
    """It may have arrived or not; here it has. The other channel on the connection goes on."""
    driver = rabbitmq.at_level(level)
    conn, other = await opened(driver), await opened(driver)

    error = await rabbitmq.cancel_slow(conn)

    assert driver.after_lease(conn, error) is Verdict.DISCARD
    driver.terminate(conn)
    await rabbitmq.gone(left=1)
    rabbitmq.server.resume_queue(rabbitmq.stuck)
    assert rabbitmq.server.messages(rabbitmq.stuck) == 1
    await driver.ping(other)
    assert driver.connections == 1


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (lambda conn: conn.get_queue("no-such-queue"), aiormq.exceptions.ChannelNotFoundEntity),
        (lambda conn: conn.declare_queue("amq.mine"), aiormq.exceptions.ChannelAccessRefused),
        (
            lambda conn: conn.declare_exchange("amq.topic", "fanout"),
            aiormq.exceptions.ChannelPreconditionFailed,
        ),
    ],
    ids=["404", "403", "406"],
)
async def test_an_error_of_a_channel_costs_the_channel_and_not_its_connection(
    rabbitmq: RabbitMQ, pools: Any, wrong: Any, error: Any
) -> None:
    """Others live on the same connection; the next borrower gets another channel there."""
    pool = pools(rabbitmq.driver(), max_size=2)
    async with pool.acquire() as other:
        with pytest.raises(error):
            async with pool.acquire() as conn:
                await wrong(conn)
        assert conn.is_closed

        await pool.driver.ping(other)
        async with pool.acquire() as following:
            assert following is not conn
            assert following.line is other.line
            assert await rabbitmq.ask(following, 5) == 5


async def wrong_tag(conn: Any, _: RabbitMQ) -> None:
    """Acknowledges what was never delivered."""
    await (await conn.get_underlay_channel()).basic_ack(77)


async def no_such_exchange(conn: Any, rabbitmq: RabbitMQ) -> None:
    """Publishes to nowhere, without a confirm."""
    exchange = await conn.get_exchange(f"{rabbitmq.prefix}.nowhere", ensure=False)
    await exchange.publish(aio_pika.Message(b"lost"), routing_key="")


@pytest.mark.parametrize("deed", [wrong_tag, no_such_exchange], ids=lambda each: each.__name__)
async def test_what_the_server_says_late_reaches_no_other_borrower(
    rabbitmq: RabbitMQ, pools: Any, deed: Any
) -> None:
    """To a word that calls for no answer the server answers when it is wrong, by closing the channel."""
    pool = pools(rabbitmq.driver(publisher_confirms=False), max_size=1)
    for number in range(20):
        async with pool.acquire() as conn:
            await deed(conn, rabbitmq)

        async with pool.acquire() as following:
            assert await rabbitmq.ask(following, number) == number


async def test_a_word_that_an_answer_has_followed_costs_nothing(rabbitmq: RabbitMQ, opened: Opened) -> None:
    """The server answers in order: whatever was wrong would have been heard by then."""
    driver = rabbitmq.driver(publisher_confirms=False)
    conn = await opened(driver)
    lane = conn.lane

    await rabbitmq.publish(conn, "unconfirmed", rabbitmq.table)
    before = driver.after_lease(conn, None)
    await driver.reset(conn)
    after = driver.after_lease(conn, None)
    await rabbitmq.publish(conn, "unconfirmed", rabbitmq.table)
    await conn.get_queue(rabbitmq.table)

    assert (before, after) == (Verdict.RESET, Verdict.KEEP)
    assert conn.lane is lane
    assert driver.after_lease(conn, None) is Verdict.KEEP


async def test_a_call_that_was_cancelled_costs_the_channel_at_once(
    rabbitmq: RabbitMQ, opened: Opened
) -> None:
    """Aiormq closes it, and counts it as open till the server has said yes."""
    driver = rabbitmq.driver()
    conn, other = await opened(driver), await opened(driver)
    task = asyncio.create_task(conn.get_queue(rabbitmq.stuck))  # has no answer while the queue is suspended

    for _ in range(50):
        await asyncio.sleep(0)
    task.cancel()
    (error,) = await asyncio.gather(task, return_exceptions=True)

    assert isinstance(error, asyncio.CancelledError)
    assert driver.after_lease(conn, error) is Verdict.DISCARD
    assert driver.is_closed(conn)
    await driver.ping(other)
    rabbitmq.server.resume_queue(rabbitmq.stuck)


async def test_plain_work_sends_nothing_at_the_end(rabbitmq: RabbitMQ, opened: Opened) -> None:
    """Publishing, declaring, binding, purging: the next borrower cannot tell."""
    driver = rabbitmq.driver()
    conn = await opened(driver)
    lane = conn.lane

    queue = await conn.declare_queue(f"{rabbitmq.prefix}.plain")
    await queue.bind("amq.topic", "x.*")
    await rabbitmq.publish(conn, "plain", queue.name)
    await queue.purge()
    await queue.delete()

    assert driver.after_lease(conn, None) is Verdict.KEEP
    await driver.reset(conn)
    assert conn.lane is lane


async def test_a_ping_leaves_the_prefetch_as_it_is(rabbitmq: RabbitMQ, opened: Opened) -> None:
    """At level none it may be the borrower's, who comes back to it."""
    driver = rabbitmq.at_level("none")
    conn = await opened(driver)
    await conn.set_qos(prefetch_count=7)

    await driver.ping(conn)

    assert (await rabbitmq.channel(conn)).prefetch == 7


async def test_a_blocked_server_holds_up_publishers_and_harms_nobody(fragile: RabbitMQ, pools: Any) -> None:
    """An alarm is no error: a publish with a timeout ends, and all is well when the alarm is over."""
    pool = pools(fragile.driver(), max_size=2)
    async with pool.acquire() as conn:
        assert await fragile.ask(conn, 1) == 1
    fragile.server.set_alarm()
    try:
        with pytest.raises(TimeoutError):
            async with pool.acquire() as conn, asyncio.timeout(0.3):
                await fragile.publish(conn, "blocked", fragile.table)
        assert conn.is_ended
    finally:
        fragile.server.clear_alarm()

    async def is_well() -> bool:
        return await works(pool, fragile)

    await until(is_well)


async def test_a_frozen_server_costs_no_borrower_more_than_its_timeout(fragile: RabbitMQ, pools: Any) -> None:
    """Its connection is condemned by the first ping that is not answered, and cut; afterwards all is well."""
    pool = pools(
        fragile.driver(), max_size=3, validate_after_idle=0.0, health_check_timeout=0.2, connect_timeout=0.3
    )
    leases = [await pool.lease() for _ in range(3)]
    old = leases[0].connection.line
    for each in leases:
        each.release()
    fragile.server.freeze()
    try:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await pool.lease(timeout=0.5)

        async def is_cut() -> bool:
            return bool(old.is_lost)

        await until(is_cut)
    finally:
        fragile.server.thaw()

    async def is_well() -> bool:
        return await works(pool, fragile)

    await until(is_well)
    assert pool.driver.connections == 1


async def test_a_killed_server_is_noticed_and_found_again(fragile: RabbitMQ, pools: Any) -> None:
    """Idle channels and borrowed ones are gone for good; none heals itself; new ones come."""
    pool = pools(fragile.driver(), max_size=3)
    leases = [await pool.lease() for _ in range(2)]
    idle, lent = (each.connection for each in leases)
    leases[0].release()
    slow = await fragile.start_slow(lent)

    fragile.server.kill()

    with pytest.raises((aiormq.exceptions.AMQPError, asyncio.CancelledError)):
        await slow
    assert pool.driver.is_closed(lent)
    leases[1].release()
    fragile.server.start()

    async def is_well() -> bool:
        return await works(pool, fragile)

    await until(is_well)
    assert pool.driver.is_closed(lent)
    assert pool.driver.is_closed(idle)
    assert await fragile.sessions() == pool.status().total


@pytest.mark.parametrize("listeners", ["on_return_callbacks", "on_consumer_cancel_callbacks"])
async def test_a_callback_below_aio_pika_goes_too(rabbitmq: RabbitMQ, opened: Opened, listeners: str) -> None:
    """Aiormq's channel has some of its own."""
    driver = rabbitmq.driver()
    conn = await opened(driver)
    lane = await conn.get_underlay_channel()
    getattr(lane, listeners).add(print)

    assert driver.after_lease(conn, None) is Verdict.RESET
    await driver.reset(conn)

    assert print not in getattr(conn.lane, listeners)
    assert driver.after_lease(conn, None) is Verdict.KEEP
