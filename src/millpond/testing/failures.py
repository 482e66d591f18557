"""How a simulation fails, as types that carry their facts, and what pending tasks wait for.

SimulationError
├── Deadlock           nothing can ever happen again, and the main task is not done
├── StepLimit          more callbacks ran than `max_steps`
├── TimeLimit          the virtual clock would pass `max_time`
├── NotSimulated       something asked for the real world: a socket, a thread, a process
├── TasksLeft          tasks or timers were left behind at the end of `run()`
└── UnhandledErrors    errors reached the loop's exception handler
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import CodeType, FrameType


class SimulationError(Exception):
    """Base of everything that the simulated loop raises by itself."""


class Deadlock(SimulationError):
    """Nothing is ready, no timer is set, and the main task is not done.

    Attributes:
        tasks: the pending tasks.
    """

    def __init__(self, message: str, tasks: Sequence[PendingTask] = ()) -> None:
        self.tasks = tuple(tasks)
        super().__init__(message + _listed(self.tasks))


class StepLimit(SimulationError):
    """More callbacks ran than `max_steps` allows: probably an endless loop.

    Attributes:
        tasks: the pending tasks.
    """

    def __init__(self, message: str, tasks: Sequence[PendingTask] = ()) -> None:
        self.tasks = tuple(tasks)
        super().__init__(message + _listed(self.tasks))


class TimeLimit(SimulationError):
    """The next timer lies beyond `max_time`.

    Attributes:
        tasks: the pending tasks.
    """

    def __init__(self, message: str, tasks: Sequence[PendingTask] = ()) -> None:
        self.tasks = tuple(tasks)
        super().__init__(message + _listed(self.tasks))


class NotSimulated(SimulationError, RuntimeError):
    """The simulated loop does no real I/O, starts no thread and no process.

    Attributes:
        call: the name of the loop's method.
    """

    def __init__(self, call: str, instead: str) -> None:
        self.call = call
        super().__init__(f"the simulated loop refuses {call}(): {instead}")


class TasksLeft(SimulationError):
    """The main coroutine returned and left tasks or timers behind.

    Attributes:
        tasks: the tasks, as they were when the main coroutine returned.
        timers: the callbacks of the timers left, in words.
    """

    def __init__(self, tasks: Sequence[PendingTask], timers: Sequence[str] = ()) -> None:
        self.tasks, self.timers = tuple(tasks), tuple(timers)
        count = [f"{len(tasks)} pending task(s)"] * bool(tasks) + [f"{len(timers)} timer(s)"] * bool(timers)
        text = f"the main coroutine returned and left {' and '.join(count)} behind{_listed(self.tasks)}"
        super().__init__(text + "".join(f"\n  timer: {timer}" for timer in timers))


class UnhandledErrors(SimulationError):
    """Errors reached the loop's exception handler.

    Attributes:
        contexts: what the handler was called with, in order.
    """

    def __init__(self, contexts: Sequence[Mapping[str, Any]]) -> None:
        self.contexts = tuple(contexts)
        lines = [f"\n  {told(context)}" for context in contexts]
        super().__init__(f"{len(contexts)} error(s) reached the loop's exception handler:{''.join(lines)}")


@dataclass(frozen=True, slots=True)
class PendingTask:
    """A task that is not done, in words: it keeps nothing of it alive.

    Attributes:
        name: the task's name.
        stack: where it is suspended, outermost coroutine first: "file.py:12 in function".
        waits_for: the future it awaits, in words; empty when it is about to run.
    """

    name: str
    stack: tuple[str, ...]
    waits_for: str

    def __str__(self) -> str:
        where = " > ".join(self.stack) or "not started"
        return f"{self.name}: {where}" + (
            f", waits for {self.waits_for}" if self.waits_for else ", about to run"
        )


def pending(tasks: Iterable[asyncio.Task[Any]]) -> tuple[PendingTask, ...]:
    """The tasks that are not done, described, in the order given."""
    return tuple(described(task) for task in tasks if not task.done())


def described(task: asyncio.Task[Any]) -> PendingTask:
    """Where a task is suspended and what it waits for."""
    waits_for = getattr(task, "_fut_waiter", None)
    return PendingTask(
        name=task.get_name(),
        stack=stack_of(task),
        waits_for="" if waits_for is None else _awaited(waits_for),
    )


def stack_of(task: asyncio.Task[Any]) -> tuple[str, ...]:
    """The chain of awaits of a suspended task, outermost first: "file.py:12 in function"."""
    places: list[str] = []
    awaiting: Any = task.get_coro()
    # A coroutine, a generator, or an asynchronous generator; ends at whatever is none of these.
    for _ in range(200):
        if awaiting is None:
            break
        frame: FrameType | None = None
        code: CodeType | None = None
        following = None
        for kind, inner in (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await")):
            if hasattr(awaiting, f"{kind}_code"):
                frame = getattr(awaiting, f"{kind}_frame")
                code = getattr(awaiting, f"{kind}_code")
                following = getattr(awaiting, inner)
                break
        if code is None:
            break
        line = code.co_firstlineno if frame is None else frame.f_lineno
        places.append(f"{os.path.basename(code.co_filename)}:{line} in {code.co_qualname}")
        awaiting = following
    return tuple(places)


def told(context: Mapping[str, Any]) -> str:
    """One line about what an exception handler was called with."""
    error = context.get("exception")
    words = str(context.get("message") or "Unhandled exception in the event loop")
    return words if error is None else f"{words}: {type(error).__name__}: {error}"


def _awaited(future: object) -> str:
    if isinstance(future, asyncio.Task):
        return f"task {future.get_name()}"
    return "a future" if type(future).__name__.endswith("Future") else type(future).__name__


def _listed(tasks: Sequence[PendingTask]) -> str:
    return "".join(f"\n  {task}" for task in tasks)
