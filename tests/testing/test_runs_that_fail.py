"""What ends a simulation: deadlocks, limits, leaks, errors nobody awaits, and what the messages say."""

import asyncio
import gc
import threading
from typing import Any

import pytest

from millpond.testing import (
    Deadlock,
    NotSimulated,
    SimulatedLoop,
    StepLimit,
    TasksLeft,
    UnhandledErrors,
    current,
    run,
)


def test_a_program_that_can_never_go_on_is_a_deadlock() -> None:
    """It ends at once, and says which task waits where and for what."""

    async def inner() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.create_task(inner(), name="child")

    with pytest.raises(Deadlock) as caught:
        run(main)

    parent, child = caught.value.tasks
    assert (parent.name, parent.waits_for) == ("main", "task child")
    assert (child.name, child.waits_for) == ("child", "a future")
    assert child.stack[0].startswith("test_runs_that_fail.py:")
    assert "in Event.wait" in child.stack[-1]
    assert all(str(task) in str(caught.value) for task in (parent, child))


def test_a_timer_at_the_end_of_time_does_not_hide_a_deadlock() -> None:
    """Nobody wakes from an infinite sleep."""

    async def main() -> None:
        await asyncio.sleep(float("inf"))

    with pytest.raises(Deadlock):
        run(main)


def test_an_endless_loop_ends_at_max_steps() -> None:
    """The error names the tasks and the last steps."""

    async def main() -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    with pytest.raises(StepLimit, match=r"500 steps taken at 0 s.*main \(500 at 0 s\)") as caught:
        run(main, max_steps=500)

    assert caught.value.tasks[0].name == "main"


def test_a_task_left_behind_is_an_error() -> None:
    """The leak check names it and where it waits, then ends it."""
    ended = []

    async def lingers() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    async def main() -> None:
        current().leaked = asyncio.create_task(lingers(), name="lingering")  # type: ignore[attr-defined]
        await asyncio.sleep(1)

    with pytest.raises(TasksLeft, match=r"lingering: test_runs_that_fail.py:\d+ in .*lingers"):
        run(main)

    assert ended == [True]


def test_a_task_left_behind_may_be_told_to_be_no_error() -> None:
    """Without the check it is ended all the same."""
    tasks: list[asyncio.Task[None]] = []

    async def main() -> str:
        tasks.append(asyncio.create_task(asyncio.sleep(60)))
        return "done"

    assert run(main, check_tasks=False) == "done"
    assert tasks[0].cancelled()


def test_a_timer_left_behind_is_an_error_on_request() -> None:
    """The message says which callback it would have called."""

    async def main() -> None:
        asyncio.get_running_loop().call_later(60, print, "never")

    run(main)

    with pytest.raises(TasksLeft, match=r"1 timer\(s\) behind.*\n.*print"):
        run(main, check_timers=True)


@pytest.mark.filterwarnings("error")
def test_a_task_that_refuses_to_end_does_not_keep_the_run_from_ending() -> None:
    """It is dropped without a warning when everything else has ended."""

    async def refuses() -> None:
        while True:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                continue

    async def main() -> str:
        current().kept = asyncio.create_task(refuses())  # type: ignore[attr-defined]
        await asyncio.sleep(1)
        return "done"

    assert run(main, check_tasks=False) == "done"
    gc.collect()


def test_an_error_in_a_callback_ends_in_an_error_of_the_run() -> None:
    """The program goes on, as under asyncio; the run fails at its end."""
    after: list[bool] = []

    def breaks() -> None:
        raise ZeroDivisionError("oops")

    async def main() -> None:
        asyncio.get_running_loop().call_soon(breaks)
        await asyncio.sleep(1)
        after.append(True)

    with pytest.raises(UnhandledErrors, match="ZeroDivisionError: oops") as caught:
        run(main)

    assert after == [True]
    assert isinstance(caught.value.contexts[0]["exception"], ZeroDivisionError)


def test_an_error_of_a_task_that_nobody_asks_for_ends_in_an_error_of_the_run() -> None:
    """Also when a reference cycle hides the task from its own destructor."""

    async def breaks() -> None:
        me = asyncio.current_task()
        await asyncio.sleep(0)
        raise ZeroDivisionError(me)

    async def main() -> None:
        task = asyncio.create_task(breaks(), name="careless")
        await asyncio.sleep(1)
        del task

    with pytest.raises(UnhandledErrors, match=r"careless|never retrieved"):
        run(main)


def test_errors_may_be_told_to_be_no_error() -> None:
    """`check_errors=False` returns the result; they are on the loop."""
    errors: list[list[dict[str, Any]]] = []

    async def main() -> str:
        current().call_exception_handler({"message": "something"})
        errors.append(current().errors)
        return "done"

    assert run(main, check_errors=False) == "done"
    assert errors[0][0]["message"] == "something"


def test_a_handler_of_the_program_replaces_the_record() -> None:
    """Who handles errors has handled them; a handler that raises has not."""
    heard: list[str] = []

    async def main() -> None:
        loop = current()
        loop.set_exception_handler(lambda _, context: heard.append(context["message"]))
        loop.call_exception_handler({"message": "first"})
        assert loop.errors == []
        loop.set_exception_handler(lambda *_: 1 / 0)
        loop.call_exception_handler({"message": "second"})

    with pytest.raises(UnhandledErrors, match="the exception handler itself raised: ZeroDivisionError"):
        run(main)

    assert heard == ["first"]


def test_an_error_of_main_says_how_to_repeat_the_run() -> None:
    """The note holds the seed, the step and the time; further errors are notes too."""

    async def main() -> None:
        await asyncio.sleep(5)
        current().call_exception_handler({"message": "by the way"})
        raise LookupError("wrong")

    with pytest.raises(LookupError) as caught:
        run(main, seed=42)

    notes = "\n".join(caught.value.__notes__)
    assert "seed=42" in notes
    assert "at 5 s" in notes
    assert "by the way" in notes


def test_a_cancelled_main_is_a_cancelled_run() -> None:
    """Nothing is swallowed at the end."""

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    with pytest.raises(asyncio.CancelledError):
        run(main)


def test_what_the_step_hook_raises_ends_the_run_at_that_step() -> None:
    """An auditor's complaint is not one more error in a callback."""
    seen: list[int] = []

    def audit(loop: SimulatedLoop) -> None:
        seen.append(loop.steps)
        if loop.steps == 7:
            raise AssertionError("the books do not balance")

    async def main() -> None:
        for _ in range(100):
            await asyncio.sleep(0)

    def setup(loop: SimulatedLoop) -> None:
        loop.after_step = lambda: audit(loop)

    with pytest.raises(AssertionError, match="balance") as caught:
        run(main, setup=setup)

    assert seen == [1, 2, 3, 4, 5, 6, 7]
    assert "ended after step 7" in caught.value.__notes__[0]


def test_a_call_at_a_step_comes_right_before_that_step() -> None:
    """That is how a sweep cancels a task at each of its steps in turn."""
    cancelled_at: list[int] = []

    async def main() -> None:
        try:
            for _ in range(10):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            cancelled_at.append(current().steps)

    async def sweep(step: int) -> None:
        victim = asyncio.create_task(main())
        current().at_step(current().steps + step, victim.cancel)
        await asyncio.wait([victim])

    for step in range(3, 8):
        run(sweep(step))

    assert cancelled_at == sorted(cancelled_at)
    assert len(cancelled_at) == 5


def test_a_step_that_has_passed_is_refused() -> None:
    """The call would never come."""

    async def main() -> None:
        current().at_step(1, int)

    with pytest.raises(ValueError, match="step 1 has passed"):
        run(main)


def test_a_call_at_a_step_may_cancel_that_very_step() -> None:
    """A callback that is cancelled at the last moment does not run and does not count."""

    async def main() -> list[str]:
        ran: list[str] = []
        loop = current()
        first = loop.call_soon(ran.append, "first")
        loop.call_soon(ran.append, "second")
        loop.at_step(loop.steps + 1, first.cancel)
        await asyncio.sleep(1)
        return ran

    assert run(main, seed=None) == ["second"]


@pytest.mark.parametrize(
    "call",
    [
        lambda loop: asyncio.to_thread(int),
        lambda loop: loop.getaddrinfo("localhost", 80),
        lambda loop: asyncio.open_connection("localhost", 80),
        lambda loop: asyncio.start_server(print, "localhost", 80),
        lambda loop: asyncio.create_subprocess_exec("true"),
        lambda loop: loop.add_reader(0, print),
        lambda loop: loop.sock_recv(None, 1),
        lambda loop: loop.add_signal_handler(10, print),
    ],
    ids=["thread", "getaddrinfo", "connection", "server", "process", "reader", "socket", "signal"],
)
def test_the_real_world_is_refused_by_name(call: Any) -> None:
    """The error names the method and what to use instead."""

    async def main() -> None:
        answer = call(asyncio.get_running_loop())
        if answer is not None:
            await answer

    with pytest.raises(NotSimulated, match=r"refuses \w+\(\): .*") as caught:
        run(main)

    assert hasattr(asyncio.AbstractEventLoop, caught.value.call)


def test_nothing_of_the_real_world_is_forgotten() -> None:
    """Every method of a loop is either simulated or refused on purpose."""
    left_out = [
        name
        for name in dir(asyncio.AbstractEventLoop)
        if not name.startswith("_")
        and getattr(SimulatedLoop, name) is getattr(asyncio.AbstractEventLoop, name)
    ]

    assert left_out == []


def test_another_thread_is_refused() -> None:
    """Its timing could not be replayed."""
    errors: list[Exception] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def call() -> None:
            for method in (loop.call_soon_threadsafe, loop.call_soon):
                try:
                    method(int)
                except NotSimulated as error:
                    errors.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        loop.call_soon_threadsafe(int)
        await asyncio.sleep(0)

    run(main)

    assert [str(error).partition(":")[2] for error in errors] == [
        " another thread called, and its timing cannot be replayed; stay in the loop's own thread"
    ] * 2


def test_a_closed_loop_takes_nothing() -> None:
    """As with asyncio."""
    loop = SimulatedLoop()
    loop.close()

    with pytest.raises(RuntimeError, match="closed"):
        loop.call_soon(int)
    with pytest.raises(RuntimeError, match="closed"):
        loop.run_forever()


def test_a_loop_within_a_loop_is_refused() -> None:
    """Neither the same one again nor another."""

    async def main() -> None:
        with pytest.raises(RuntimeError, match="runs already"):
            current().run_forever()
        with pytest.raises(RuntimeError, match="another event loop"):
            SimulatedLoop().run_forever()
        with pytest.raises(RuntimeError, match="await the coroutine instead"):
            run(asyncio.sleep(0))
        with pytest.raises(RuntimeError, match="cannot be closed"):
            current().close()

    run(main)


async def test_the_current_loop_must_be_a_simulated_one() -> None:
    """On another loop the error says which."""
    with pytest.raises(RuntimeError, match="not on a SimulatedLoop"):
        current()


def test_a_coroutine_is_not_a_callback() -> None:
    """The error says what to call instead."""
    loop = SimulatedLoop()

    with pytest.raises(TypeError, match="create_task"):
        loop.call_soon(asyncio.sleep)
