"""Exclusive queues belong to the connection, which others share: no later borrower finds one of another's."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aio_pika
import aiormq
import pytest

from millpond.driver import Verdict
from tests.drivers.backends import until
from tests.drivers.rabbitmq_backend import RabbitMQ
from tests.servers.server import ServerFailed

Opened = Callable[[Any], Awaitable[Any]]


def is_there(rabbitmq: RabbitMQ, queue: str) -> bool:
    """Whether the server has such a queue."""
    try:
        rabbitmq.server.messages(queue)
    except ServerFailed:
        return False
    return True


async def named(rabbitmq: RabbitMQ, conn: Any) -> str:
    """As most do."""
    queue = await conn.declare_queue(f"{rabbitmq.prefix}.private", exclusive=True)
    return str(queue.name)


async def nameless(rabbitmq: RabbitMQ, conn: Any) -> str:
    """As who waits for answers does: the server finds a name."""
    queue = await conn.declare_queue(exclusive=True)
    return str(queue.name)


async def gone_by_itself(rabbitmq: RabbitMQ, conn: Any) -> str:
    """It goes with its consumer."""
    queue = await conn.declare_queue(f"{rabbitmq.prefix}.private", exclusive=True, auto_delete=True)
    await queue.cancel(await queue.consume(print))
    return str(queue.name)


async def unanswered(rabbitmq: RabbitMQ, conn: Any) -> str:
    """Below aio-pika, and the server is told not to answer."""
    lane = await conn.get_underlay_channel()
    await lane.queue_declare(f"{rabbitmq.prefix}.private", exclusive=True, nowait=True)
    await lane.queue_declare(f"{rabbitmq.prefix}.private", passive=True)
    return f"{rabbitmq.prefix}.private"


async def consumed(rabbitmq: RabbitMQ, conn: Any) -> str:
    """With a consumer."""
    queue = await conn.declare_queue(exclusive=True)
    await queue.consume(print)
    return str(queue.name)


async def reopened(rabbitmq: RabbitMQ, conn: Any) -> str:
    """On a channel that the borrower then replaces."""
    queue = await named(rabbitmq, conn)
    await conn.close()
    await conn.reopen()
    return queue


@pytest.mark.parametrize("level", ["rollback", "full"])
@pytest.mark.parametrize(
    "declare",
    [named, nameless, gone_by_itself, unanswered, consumed, reopened],
    ids=lambda each: each.__name__,
)
async def test_an_exclusive_queue_ends_with_its_lease(
    rabbitmq: RabbitMQ, opened: Opened, declare: Callable[..., Awaitable[str]], level: Any
) -> None:
    """The next borrower has the same connection, and nobody but the server to ask."""
    driver = rabbitmq.at_level(level)
    conn, other = await opened(driver), await opened(driver)
    queue = await declare(rabbitmq, conn)

    assert driver.after_lease(conn, None) is Verdict.RESET
    await driver.reset(conn)

    with pytest.raises(aiormq.exceptions.ChannelNotFoundEntity):
        await other.get_queue(queue, ensure=True)
    assert not is_there(rabbitmq, queue)
    assert driver.connections == 1
    assert driver.after_lease(conn, None) is Verdict.KEEP
    assert await rabbitmq.ask(conn, 3) == 3


async def test_one_that_its_borrower_deletes_costs_nothing(rabbitmq: RabbitMQ, opened: Opened) -> None:
    """Neither does one that is only looked at."""
    driver = rabbitmq.driver()
    conn, other = await opened(driver), await opened(driver)
    queue = await named(rabbitmq, conn)

    await other.get_queue(queue, ensure=True)
    assert driver.after_lease(other, None) is Verdict.KEEP
    await conn.queue_delete(queue)

    assert driver.after_lease(conn, None) is Verdict.KEEP


async def test_what_is_shared_goes_with_the_last_who_declared_it(rabbitmq: RabbitMQ, opened: Opened) -> None:
    """Channels of one connection may declare the same one: who is still at work keeps it."""
    driver = rabbitmq.driver()
    first, second = await opened(driver), await opened(driver)
    queue = await named(rabbitmq, first)
    await named(rabbitmq, second)

    await driver.reset(first)
    assert is_there(rabbitmq, queue)
    await driver.reset(second)

    assert not is_there(rabbitmq, queue)


async def test_a_queue_of_anothers_with_the_same_name_is_left_alone(
    rabbitmq: RabbitMQ, opened: Opened
) -> None:
    """Ours went by itself, and somebody has made a lasting one since."""
    driver = rabbitmq.driver()
    conn = await opened(driver)
    queue = await gone_by_itself(rabbitmq, conn)
    rabbitmq.server.declare(queue, messages=1)

    with pytest.raises(aiormq.exceptions.ChannelClosed):
        await driver.reset(conn)
    driver.terminate(conn)
    await rabbitmq.gone()

    assert rabbitmq.server.messages(queue) == 1


async def test_a_queue_that_the_server_refuses_costs_no_connection(
    rabbitmq: RabbitMQ, opened: Opened
) -> None:
    """Another connection has it; whoever asks in vain has nothing to leave behind."""
    elsewhere = rabbitmq.driver()
    queue = await named(rabbitmq, await opened(elsewhere))
    driver = rabbitmq.driver()
    conn, other = await opened(driver), await opened(driver)

    with pytest.raises(aiormq.exceptions.ChannelLockedResource) as caught:
        await named(rabbitmq, conn)

    assert driver.after_lease(conn, caught.value) is Verdict.DISCARD
    driver.terminate(conn)
    assert not driver.is_closed(other)
    assert is_there(rabbitmq, queue)


@pytest.mark.parametrize("level", ["none", "rollback", "full"])
async def test_a_lease_that_is_discarded_takes_its_connection_out_of_use(
    rabbitmq: RabbitMQ, pools: Any, level: Any
) -> None:
    """Nobody deletes what it has declared, so the connection ends: with the last lease that is on it now."""
    pool = pools(rabbitmq.driver(), max_size=4, reset=level)
    idle, lent, guilty = [await pool.lease() for _ in range(3)]
    old = lent.connection.line
    idle.release()
    queue = await nameless(rabbitmq, guilty.connection)
    error = await rabbitmq.cancel_slow(guilty.connection)
    guilty.release(error)

    async with pool.acquire() as conn, pool.acquire() as another:
        assert conn.line is another.line is not old
        with pytest.raises(aiormq.exceptions.ChannelLockedResource):
            await conn.get_queue(queue, ensure=True)
    assert await rabbitmq.ask(lent.connection, 3) == 3
    lent.release()

    async def is_ended() -> bool:
        has_gone = bool(old.is_lost) and not is_there(rabbitmq, queue)
        return has_gone and await rabbitmq.connections() == 1  # the server takes its time to say so

    rabbitmq.server.resume_queue(rabbitmq.stuck)
    await until(is_ended)
    assert pool.driver.connections == 1


async def test_at_none_an_exclusive_queue_costs_its_connection(rabbitmq: RabbitMQ, pools: Any) -> None:
    """Nothing is sent at this level; so it cannot be deleted."""
    pool = pools(rabbitmq.driver(), reset="none")
    async with pool.acquire() as conn:
        queue = await named(rabbitmq, conn)
        old = conn.line

    async with pool.acquire() as conn:
        assert conn.line is not old

    async def is_gone() -> bool:
        return not is_there(rabbitmq, queue)

    await until(is_gone)


async def test_a_declaration_that_was_cancelled_may_have_happened(rabbitmq: RabbitMQ, pools: Any) -> None:
    """Nobody has heard the name that the server gave; the connection goes, and the queue with it."""
    pool = pools(rabbitmq.driver())
    lease = await pool.lease()
    conn, old = lease.connection, lease.connection.line
    task = asyncio.create_task(conn.declare_queue(exclusive=True))
    for _ in range(5):
        await asyncio.sleep(0)
    assert conn.lane.is_unfinished
    task.cancel()
    (error,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(error, asyncio.CancelledError)
    lease.release(error)

    async with pool.acquire() as conn:
        assert conn.line is not old

    async def is_ended() -> bool:
        return bool(old.is_lost)

    await until(is_ended)
    assert isinstance(conn, aio_pika.Channel)
