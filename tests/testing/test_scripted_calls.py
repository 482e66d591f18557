"""What a scripted call can do: succeed, fail, dawdle, hang, lose its connection; and who decides it."""

import asyncio
import contextlib
import math
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from millpond.driver import Configurable, Driver, Redacting
from millpond.settings import PoolSettings
from millpond.testing import (
    HANG_FOR_EVER,
    AccessDenied,
    BackendDown,
    Behaviour,
    Call,
    ConnectionLost,
    Dawdle,
    Fail,
    Hang,
    Lose,
    Mixture,
    ScriptedBackend,
    ScriptedConnection,
    ScriptedDriver,
    Succeed,
    TooManyClients,
    Verb,
    current,
    run,
)

Verbs = dict[str, Callable[[ScriptedDriver, ScriptedConnection], Coroutine[Any, Any, object]]]
VERBS: Verbs = {
    "connects": lambda driver, conn: driver.connect(),
    "pings": lambda driver, conn: driver.ping(conn),
    "resets": lambda driver, conn: driver.reset(conn),
    "closes": lambda driver, conn: driver.close(conn),
    "requests": lambda driver, conn: conn.request("?"),
}


@pytest.fixture
def backend() -> ScriptedBackend:
    """A server with a round trip of ten milliseconds."""
    return ScriptedBackend(latency=0.01)


@pytest.fixture
def driver(backend: ScriptedBackend) -> ScriptedDriver:
    """A driver for it."""
    return ScriptedDriver(backend)


def simulate(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run, and let nothing be left behind: no task, no timer, no error."""
    return run(main, check_timers=True)


def seconds(call: Callable[[], Coroutine[Any, Any, object]]) -> Coroutine[Any, Any, float]:
    """How long a call takes, virtual seconds."""

    async def measured() -> float:
        began = current().time()
        with contextlib.suppress(Exception):
            await call()
        return round(current().time() - began, 9)

    return measured()


async def cancelled_after(delay: float, call: Coroutine[Any, Any, object]) -> asyncio.Task[object]:
    """A task that was cancelled once, `delay` seconds after it started."""
    task: asyncio.Task[object] = asyncio.create_task(call)
    await asyncio.sleep(delay)
    task.cancel()
    await asyncio.sleep(0.001)
    return task


def test_it_is_a_driver(driver: ScriptedDriver) -> None:
    """The kernel takes it for what it is."""
    assert isinstance(driver, Driver)
    assert isinstance(driver, Configurable)
    assert isinstance(driver, Redacting)


@pytest.mark.parametrize("verb", VERBS)
def test_every_call_takes_one_round_trip_unless_told_otherwise(
    driver: ScriptedDriver, backend: ScriptedBackend, verb: str
) -> None:
    """Without a script all goes well, after `latency`."""

    async def main() -> float:
        conn = await driver.connect()
        return await seconds(lambda: VERBS[verb](driver, conn))

    assert simulate(main) == 0.01


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("behaviour", "takes", "raises"),
    [
        (Succeed(), 0.01, None),
        (Fail(LookupError("scripted")), 0.01, LookupError),
        (Fail(LookupError, after=0.5), 0.5, LookupError),
        (Fail(after=0), 0, BackendDown),
        (Dawdle(2.0), 2.0, None),
        (Dawdle(0), 0, None),
        (Dawdle(1.0, Fail(LookupError)), 1.0, LookupError),
        (Dawdle(1.0, Dawdle(2.0)), 3.0, None),
        (Lose(after=5.0), 0.01, None),
    ],
    ids=str,
)
def test_every_verb_follows_its_script(
    driver: ScriptedDriver,
    backend: ScriptedBackend,
    verb: str,
    behaviour: Behaviour,
    takes: float,
    raises: type[Exception] | None,
) -> None:
    """It takes the time that the script says and ends as it says."""

    async def main() -> tuple[float, type[BaseException] | None]:
        conn = await driver.connect()
        setattr(backend, verb, behaviour)
        began = current().time()
        try:
            await VERBS[verb](driver, conn)
        except Exception as error:
            return round(current().time() - began, 9), type(error)
        return round(current().time() - began, 9), None

    assert simulate(main) == (takes, raises)


@pytest.mark.parametrize("verb", VERBS)
def test_a_call_that_hangs_ends_when_it_is_cancelled(
    driver: ScriptedDriver, backend: ScriptedBackend, verb: str
) -> None:
    """It waits for ever otherwise."""

    async def main() -> float:
        conn = await driver.connect()
        setattr(backend, verb, Hang())
        began = current().time()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await VERBS[verb](driver, conn)
        assert backend.active[Verb(verb.rstrip("s"))] == 0
        return round(current().time() - began, 9)

    assert simulate(main) == 3600


@pytest.mark.parametrize("verb", VERBS)
def test_a_call_may_ignore_cancellations(driver: ScriptedDriver, backend: ScriptedBackend, verb: str) -> None:
    """Two of them here; the third ends it."""

    async def main() -> tuple[bool, bool]:
        conn = await driver.connect()
        setattr(backend, verb, Hang(ignore=2))
        task = await cancelled_after(1, VERBS[verb](driver, conn))
        task.cancel()
        await asyncio.sleep(1)
        was_done = task.done()
        task.cancel()
        await asyncio.wait([task])
        return was_done, task.cancelled()

    assert simulate(main) == (False, True)


def test_a_connect_may_finish_although_it_was_cancelled(
    driver: ScriptedDriver, backend: ScriptedBackend
) -> None:
    """The cancellation is swallowed, and somebody has to take care of the connection."""
    backend.connects = Hang(finishes=True)

    async def main() -> object:
        task = await cancelled_after(1, driver.connect())
        return await task

    assert simulate(main) in backend.live


def test_a_stubborn_call_takes_its_time(driver: ScriptedDriver, backend: ScriptedBackend) -> None:
    """Neither a cancellation nor a terminated connection cuts it short."""

    async def main() -> float:
        conn = await driver.connect()
        backend.pings = Dawdle(30, stubborn=True)
        began = current().time()
        task = await cancelled_after(1, driver.ping(conn))
        driver.terminate(conn)
        await asyncio.wait([task])
        assert isinstance(task.exception(), ConnectionLost)
        return round(current().time() - began, 9)

    assert simulate(main) == 30


def test_what_hangs_for_ever_goes_on_when_told(driver: ScriptedDriver, backend: ScriptedBackend) -> None:
    """That is how a connection arrives long after everybody has given up."""
    backend.connects = HANG_FOR_EVER

    async def main() -> object:
        task = await cancelled_after(1, driver.connect())
        backend.down()
        backend.up()
        await asyncio.sleep(1000)
        assert not task.done()
        backend.unhang()
        return await task

    assert simulate(main) in backend.live


def test_terminating_a_connection_ends_the_calls_on_it(
    driver: ScriptedDriver, backend: ScriptedBackend
) -> None:
    """As with a socket: who waits for an answer hears that there will be none."""

    async def main() -> BaseException | None:
        conn = await driver.connect()
        backend.resets = Hang(ignore=math.inf)
        task = asyncio.create_task(driver.reset(conn))
        await asyncio.sleep(1)
        driver.terminate(conn)
        await asyncio.wait([task])
        return task.exception()

    assert isinstance(simulate(main), ConnectionLost)


def test_a_loss_and_a_cancellation_may_come_together(
    driver: ScriptedDriver, backend: ScriptedBackend
) -> None:
    """The task is cancelled, and the loss is not reported as an error that nobody saw."""

    async def main() -> bool:
        conn = await driver.connect()
        backend.pings = Hang()
        task = asyncio.create_task(driver.ping(conn))
        await asyncio.sleep(1)
        driver.terminate(conn)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert simulate(main)


def test_queued_behaviours_come_before_the_default(driver: ScriptedDriver, backend: ScriptedBackend) -> None:
    """One call each; a queue of one verb does not touch another."""
    backend.connect_script.extend([Fail(TooManyClients), Dawdle(3)])
    backend.connects = Dawdle(1)

    async def main() -> list[float]:
        return [await seconds(driver.connect) for _ in range(4)]

    assert simulate(main) == [0.01, 3, 1, 1]


def test_a_function_may_decide_about_each_call(driver: ScriptedDriver, backend: ScriptedBackend) -> None:
    """It sees which call it is, when, on which connection."""
    calls: list[Call] = []

    def decide(call: Call) -> Behaviour:
        calls.append(call)
        return Fail(LookupError) if call.number == 2 else Dawdle(float(call.number))

    backend.pings = decide

    async def main() -> list[float]:
        conn = await driver.connect()
        return [await seconds(lambda: driver.ping(conn)) for _ in range(3)]

    assert simulate(main) == [1, 0.01, 3]
    assert [(call.verb, call.number, call.at) for call in calls] == [
        (Verb.PING, 1, 0.01),
        (Verb.PING, 2, 1.01),
        (Verb.PING, 3, 1.02),
    ]
    assert {call.connection.number for call in calls if call.connection} == {1}


def test_a_mixture_draws_by_weight_and_repeats() -> None:
    """The backend's seed decides; a choice of no weight never comes."""

    def outcomes(seed: int) -> list[float]:
        backend = ScriptedBackend(seed=seed, latency=0)
        driver = ScriptedDriver(backend)
        backend.connects = Mixture(
            (3, Dawdle(1)), (1, lambda call: Dawdle(10 + call.random.random())), (0, Hang())
        )

        async def main() -> list[float]:
            return [await seconds(driver.connect) for _ in range(100)]

        drawn: list[float] = simulate(main)
        return drawn

    first = outcomes(1)

    assert first == outcomes(1)
    assert first != outcomes(2)
    assert 60 < first.count(1) < 90


def test_a_failure_may_be_permanent(driver: ScriptedDriver, backend: ScriptedBackend) -> None:
    """By its kind, by the script, or by what the backend is told to say."""
    backend.connects = Fail(LookupError("no such database"), permanent=True)

    async def main() -> Exception:
        with pytest.raises(LookupError) as caught:
            await driver.connect()
        return caught.value

    assert driver.is_permanent(simulate(main))
    assert driver.is_permanent(AccessDenied("no"))
    assert not driver.is_permanent(BackendDown("no"))
    backend.is_permanent = lambda error: isinstance(error, BackendDown)
    assert driver.is_permanent(BackendDown("no"))


def test_the_same_error_can_be_raised_again_and_again(
    driver: ScriptedDriver, backend: ScriptedBackend
) -> None:
    """It does not drag the tracebacks of earlier times along."""
    error = LookupError("always the same")
    backend.connects = Fail(error)

    async def main() -> int:
        for _ in range(50):
            with pytest.raises(LookupError):
                await driver.connect()
        depth, traceback = 0, error.__traceback__
        while traceback is not None:
            depth, traceback = depth + 1, traceback.tb_next
        return depth

    assert simulate(main) < 20


def test_a_connect_cancelled_at_any_step_leaves_nothing_behind(backend: ScriptedBackend) -> None:
    """Whether it was about to begin, under way, or about to end."""
    driver = ScriptedDriver(backend)

    async def main(step: int) -> bool:
        task = asyncio.create_task(driver.connect())
        loop = current()
        loop.at_step(loop.steps + step, task.cancel)
        await asyncio.wait([task])
        if task.cancelled():
            return True
        driver.terminate(task.result())
        return False

    outcomes = [run(main(step), check_timers=True) for step in range(1, 6)]

    assert (outcomes[0], outcomes[-1]) == (True, False)
    backend.check(all_closed=True)


def test_the_reset_level_comes_from_the_settings(driver: ScriptedDriver, backend: ScriptedBackend) -> None:
    """The pool's driver is a copy on the same backend."""
    copy = driver.configured(PoolSettings(reset="rollback"))

    assert (copy.level, copy.backend, copy.name) == ("rollback", backend, "scripted")
    assert driver.level == "full"


def test_secrets_are_masked() -> None:
    """The kernel's errors are tested with words that only the driver knows to be secret."""
    assert ScriptedDriver(secrets=("hunter2",)).redact("login with hunter2 failed") == "login with *** failed"


@pytest.mark.parametrize(
    "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def test_it_works_on_real_loops(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """With a latency of zero nothing waits for the clock."""
    backend = ScriptedBackend(latency=0)
    driver = ScriptedDriver(backend)

    async def main() -> object:
        conn = await driver.connect()
        with backend.using(conn):
            answer = await conn.request("hello")
        backend.pings = Hang()
        task = asyncio.create_task(driver.ping(conn))
        while not backend.active[Verb.PING]:  # noqa: ASYNC110
            await asyncio.sleep(0)
        conn.kill()
        with pytest.raises(ConnectionLost):
            await task
        driver.terminate(conn)
        return answer.to

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(main()) == "hello"
    backend.check(all_closed=True)
