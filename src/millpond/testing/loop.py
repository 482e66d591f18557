"""Run a program on the simulated loop: `run()`, and what a program may ask of the loop it runs on.

The loop itself is in `simulated`, its refusals in `refusals`, its order in
`schedule`, its errors in `failures`; all of it can be imported from here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeAlias, TypeVar

from millpond.testing.failures import (
    Deadlock,
    NotSimulated,
    PendingTask,
    SimulationError,
    StepLimit,
    TasksLeft,
    TimeLimit,
    UnhandledErrors,
    pending,
)
from millpond.testing.schedule import Fifo, Policy, Shuffled
from millpond.testing.simulated import SimulatedLoop

__all__ = [
    "Deadlock",
    "Fifo",
    "NotSimulated",
    "PendingTask",
    "Policy",
    "Shuffled",
    "SimulatedLoop",
    "SimulationError",
    "StepLimit",
    "TasksLeft",
    "TimeLimit",
    "UnhandledErrors",
    "current",
    "run",
    "settle",
]

T = TypeVar("T")
Main: TypeAlias = Coroutine[Any, Any, T] | Callable[[], Coroutine[Any, Any, T]]

_STEPS_TO_END: Final = 20_000  # after main is done, for tasks that are being cancelled


def current() -> SimulatedLoop:
    """The simulated loop that runs this code.

    Raises:
        RuntimeError: no loop runs here, or another kind of loop.
    """
    loop = asyncio.get_running_loop()
    if not isinstance(loop, SimulatedLoop):
        raise RuntimeError(f"this runs on {type(loop).__name__}, not on a SimulatedLoop")
    return loop


async def settle() -> None:
    """Let everything run that can run now, without letting time pass; on a `SimulatedLoop` only."""
    await current().settle()


def run(
    main: Main[T],
    *,
    seed: int | None = 0,
    policy: Policy | None = None,
    max_steps: int | None = 1_000_000,
    max_time: float | None = None,
    setup: Callable[[SimulatedLoop], object] | None = None,
    check_tasks: bool = True,
    check_timers: bool = False,
    check_errors: bool = True,
) -> T:
    """Run `main` on a fresh `SimulatedLoop` and return its result.

    Whatever `main` leaves behind is cancelled at the end. An error that ends
    the run carries a note with the seed, the step and the time.

    Args:
        main: a coroutine, or a function that makes one.
        seed: of the schedule; None: asyncio's own order.
        policy: decides the order instead of `seed`.
        max_steps: most callbacks to run.
        max_time: the furthest the clock may go, seconds.
        setup: called with the loop before `main` starts: for `at_step` and `after_step`.
        check_tasks: raise when tasks are pending one iteration after `main` returned.
        check_timers: raise when timers are still set then.
        check_errors: raise when errors reached the loop's exception handler.

    Raises:
        Deadlock: nothing can ever happen again, and `main` is not done.
        StepLimit: `max_steps` callbacks have run.
        TimeLimit: the next timer lies beyond `max_time`.
        TasksLeft: `main` returned and left tasks (or timers) behind.
        UnhandledErrors: errors reached the exception handler.
        RuntimeError: an event loop runs here already.
    """
    if asyncio._get_running_loop() is not None:
        if asyncio.iscoroutine(main):
            main.close()
        raise RuntimeError("run() inside a running event loop: await the coroutine instead")
    loop = SimulatedLoop(seed, policy=policy, max_steps=max_steps, max_time=max_time)
    try:
        try:
            if setup is not None:
                setup(loop)
            coro = main() if callable(main) else main
            result: T = loop.run_until_complete(loop.create_task(coro, name="main"))
        except BaseException as error:
            how_to_repeat = _how_to_repeat(loop)
            _end(loop)
            if asyncio.iscoroutine(main):
                main.close()  # when it never started: no warning on top of the error
            error.add_note(how_to_repeat)
            if loop.errors:
                error.add_note(str(UnhandledErrors(loop.errors)))
            raise
        how_to_repeat = _how_to_repeat(loop)
        tasks = pending(loop.pending_tasks()) if check_tasks else ()
        timers = [repr(timer) for timer in loop.pending_timers()] if check_timers else []
        _end(loop)
        failures: list[SimulationError] = []
        if check_errors and loop.errors:
            failures.append(UnhandledErrors(loop.errors))
        if tasks or timers:
            failures.append(TasksLeft(tasks, timers))
        if failures:
            for further in failures[1:]:
                failures[0].add_note(str(further))
            failures[0].add_note(how_to_repeat)
            raise failures[0]
        return result
    finally:
        loop.close()


def _how_to_repeat(loop: SimulatedLoop) -> str:
    ended = f"ended after step {loop.steps} at {loop.time():g} s"
    return f"simulated with seed={loop.seed}, {loop.policy!r}: {ended}"


def _end(loop: SimulatedLoop) -> None:
    """Cancel what is left and let it end; what refuses to is dropped without a word."""
    loop.after_step = loop.at_rest = None
    loop.forget_steps()
    loop.max_steps, loop.max_time = loop.steps + _STEPS_TO_END, None
    while left := loop.pending_tasks():
        for task in left:
            task.cancel()
        try:
            loop.run_until_complete(asyncio.wait(left))
        except SimulationError:
            break
    with contextlib.suppress(SimulationError):
        loop.run_until_complete(loop.shutdown_asyncgens())
    for task in loop.tasks():
        if not task.done():
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        elif getattr(task, "_log_traceback", False):
            # A cycle keeps it alive, so its own destructor has not complained yet.
            message = f"nobody asked for the error of task {task.get_name()}"
            loop.call_exception_handler({"message": message, "exception": task.exception(), "task": task})
