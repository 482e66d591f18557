"""The scripted server: up and down, primary or not, frozen, full; what it counts and what it logs."""

import asyncio

import pytest

from millpond.testing import (
    BackendDown,
    ConnectionLost,
    Dawdle,
    Hang,
    Lose,
    ReadOnly,
    ScriptedBackend,
    ScriptedDriver,
    TooManyClients,
    Verb,
    current,
    run,
)


@pytest.fixture
def backend() -> ScriptedBackend:
    """A server with a round trip of ten milliseconds."""
    return ScriptedBackend(latency=0.01)


@pytest.fixture
def driver(backend: ScriptedBackend) -> ScriptedDriver:
    """A driver for it."""
    return ScriptedDriver(backend)


def test_a_server_that_dies_takes_its_connections_along(
    driver: ScriptedDriver, backend: ScriptedBackend
) -> None:
    """Idle ones know at once, waiting calls hear of it, connects under way fail; later all is well again."""

    async def main() -> None:
        idle, busy = await driver.connect(), await driver.connect()
        backend.requests = backend.connects = Hang()
        calls = [asyncio.create_task(busy.request("?")), asyncio.create_task(driver.connect())]
        await asyncio.sleep(1)
        backend.down()
        await asyncio.wait(calls)
        assert [type(call.exception()) for call in calls] == [ConnectionLost, BackendDown]
        assert driver.is_closed(idle)
        assert driver.is_closed(busy)
        assert backend.live == []
        with pytest.raises(BackendDown):
            await driver.connect()
        backend.up()
        backend.connects = Dawdle(0)
        assert await driver.connect() in backend.live

    run(main, check_timers=True)


def test_a_server_that_is_down_asks_no_script(driver: ScriptedDriver, backend: ScriptedBackend) -> None:
    """What is queued is kept for when it is up again."""
    backend.connect_script.append(Dawdle(7))
    backend.down()

    async def main() -> float:
        with pytest.raises(BackendDown):
            await driver.connect()
        backend.up()
        await driver.connect()
        return current().time()

    assert run(main) == pytest.approx(7.01)


@pytest.mark.parametrize("verb", ["ping", "reset", "request"])
def test_a_silent_loss_is_noticed_at_the_next_use(
    driver: ScriptedDriver, backend: ScriptedBackend, verb: str
) -> None:
    """Until then this side believes in it."""

    async def main() -> None:
        conn = await driver.connect()
        conn.kill(silently=True)
        assert not driver.is_closed(conn)
        assert backend.live == []
        with pytest.raises(ConnectionLost):
            await {"ping": driver.ping, "reset": driver.reset, "request": conn.request}[verb](conn)
        assert driver.is_closed(conn)

    run(main)


def test_a_connection_may_be_lost_later(driver: ScriptedDriver, backend: ScriptedBackend) -> None:
    """No timer is set for it: the clock tells when it is due."""
    backend.connect_script.extend([Lose(after=60), Lose(after=60, silently=True)])

    async def main() -> list[bool]:
        audible, silent = await driver.connect(), await driver.connect()
        await asyncio.sleep(59)
        before = [conn.is_dead for conn in (audible, silent)]
        await asyncio.sleep(2)
        assert [conn.is_dead for conn in (audible, silent)] == [True, True]
        assert current().pending_timers() == []
        return [*before, audible.is_closed, silent.is_closed]

    assert run(main) == [False, False, True, False]


def test_a_loss_that_falls_into_a_call_ends_it(driver: ScriptedDriver, backend: ScriptedBackend) -> None:
    """Both a long call and one that hangs, at the time of the loss."""
    backend.requests = Hang()
    backend.pings = Dawdle(100)

    async def main() -> list[float]:
        times = []
        for verb in ("request", "ping"):
            conn = await driver.connect()
            conn.kill(after=5)
            began = current().time()
            with pytest.raises(ConnectionLost):
                await {"request": conn.request, "ping": driver.ping}[verb](conn)
            times.append(round(current().time() - began, 9))
        return times

    assert run(main, check_timers=True) == [5, 5]


def test_a_demoted_server_refuses_to_write(driver: ScriptedDriver, backend: ScriptedBackend) -> None:
    """Connections, old and new, are read-only until there is a new primary; the old ones stay so."""

    async def main() -> None:
        old = await driver.connect()
        backend.demote()
        between = await driver.connect()
        for conn in (old, between):
            with pytest.raises(ReadOnly):
                await conn.request("write")
            with pytest.raises(ReadOnly):
                await driver.ping(conn)
            assert conn.dirt == ()
        backend.promote()
        with pytest.raises(ReadOnly):
            await driver.ping(old)
        new = await driver.connect()
        await driver.ping(new)
        await new.request("write")

    run(main)
    assert backend.faults == []


def test_a_frozen_server_answers_nothing_until_it_thaws(
    driver: ScriptedDriver, backend: ScriptedBackend
) -> None:
    """Calls under way and new ones wait; they can be cancelled, and go on afterwards."""

    async def main() -> list[float]:
        conn, other = await driver.connect(), await driver.connect()
        under_way = asyncio.create_task(conn.request("?"))
        await asyncio.sleep(0.001)
        backend.freeze()
        connecting = asyncio.create_task(driver.connect())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await driver.ping(other)
        assert not under_way.done()
        backend.thaw()
        began = current().time()
        await asyncio.gather(under_way, connecting)
        return [round(current().time() - began, 9)]

    assert run(main, check_timers=True) == [0]


def test_a_full_server_takes_nobody_more(driver: ScriptedDriver, backend: ScriptedBackend) -> None:
    """A connection that goes, in whatever way, makes room."""
    backend.max_clients = 3

    async def main() -> None:
        closed, cut, killed = [await driver.connect() for _ in range(3)]
        for leave in (lambda: driver.close(closed), lambda: driver.terminate(cut), killed.kill):
            with pytest.raises(TooManyClients):
                await driver.connect()
            waiting = leave()
            if waiting is not None:
                await waiting
            await driver.connect()

    run(main)
    assert backend.peak_live == 3


def test_it_counts_what_is_done(driver: ScriptedDriver, backend: ScriptedBackend) -> None:
    """Calls, calls at once, connections made, closed and cut; each once."""
    backend.connects = Dawdle(1)

    async def main() -> None:
        first, second, third = await asyncio.gather(*(driver.connect() for _ in range(3)))
        await driver.ping(first)
        await driver.close(first)
        driver.terminate(second)
        third.kill()
        assert backend.live == []
        assert backend.held == [third]
        driver.terminate(third)

    run(main)

    assert (backend.opened, backend.closed, backend.terminated) == (3, 1, 2)
    assert (backend.peak_connecting, backend.connecting, backend.peak_live) == (3, 0, 3)
    assert backend.calls == {Verb.CONNECT: 3, Verb.PING: 1, Verb.CLOSE: 1}
    backend.check(all_closed=True)


def test_it_remembers_every_attempt(driver: ScriptedDriver, backend: ScriptedBackend) -> None:
    """When each started and ended and what came of it: enough to check a backoff."""

    async def main() -> None:
        backend.down()
        for pause in (1, 2, 4):
            with pytest.raises(BackendDown):
                await driver.connect()
            await asyncio.sleep(pause)
        backend.up()
        await driver.connect()
        backend.connects = Hang()
        task = asyncio.create_task(driver.connect())
        await asyncio.sleep(1)
        assert backend.attempts[-1].ended_at is None
        task.cancel()
        await asyncio.wait([task])

    run(main)

    assert backend.attempt_times == pytest.approx([0, 1.01, 3.02, 7.03, 7.04])
    assert [attempt.outcome for attempt in backend.attempts] == [
        *["BackendDown"] * 3,
        "connection 1",
        "CancelledError",
    ]
    assert [attempt.ended_at for attempt in backend.attempts] == pytest.approx([0.01, 1.02, 3.03, 7.04, 8.04])


def test_the_log_reads_like_a_story(driver: ScriptedDriver, backend: ScriptedBackend) -> None:
    """One line an event, with the time; the latest only."""

    async def main() -> None:
        conn = await driver.connect()
        with backend.using(conn, "alice"):
            await conn.begin()
        backend.demote()
        conn.kill()
        driver.terminate(conn)

    run(main)

    assert backend.story().splitlines() == [
        "0.010000 connection 1 opened by attempt 1",
        "0.010000 connection 1 borrowed by alice",
        "0.020000 connection 1 returned by alice",
        "0.020000 backend demoted",
        "0.020000 connection 1 killed",
        "0.020000 connection 1 terminated",
    ]
    assert backend.story(1).endswith("terminated")


def test_what_it_remembers_is_bounded() -> None:
    """A fuzzer may run for hours on one backend."""
    backend = ScriptedBackend(latency=0, remember=10)
    driver = ScriptedDriver(backend)

    async def main() -> None:
        for _ in range(100):
            driver.terminate(await driver.connect())

    run(main)

    assert len(backend.log) == len(backend.attempts) == 10
    assert backend.held == []


def test_its_state_can_be_changed_between_loops(driver: ScriptedDriver, backend: ScriptedBackend) -> None:
    """Outside a loop its clock shows what it showed last."""
    conn = run(driver.connect)

    conn.kill()
    backend.down()

    assert (backend.now(), conn.died_at, backend.live) == (0.01, 0.01, [])
    assert repr(backend) == "<ScriptedBackend down 0 live, 1 opened, 0 faults>"
    assert repr(conn) == "<Scripted connection 1 dead>"
