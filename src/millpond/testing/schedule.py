"""In which order ready callbacks run: pure decisions, drawn from a seed.

What is never reordered, because programs rightly count on it:

- the callbacks of one future among themselves, the wake-up of a task that
  awaits it included: they run in the order in which they were registered;
- the steps of one task (it never has more than one scheduled);
- callbacks handed to `call_soon`, `call_later` and `call_at` among themselves:
  first scheduled, first run; an earlier timer before a later one.

Each of these is a *lane*. What a policy may interleave is lanes: the steps of
different tasks, wake-ups through different futures, a timer's callback and a
task's step. Only callbacks of the same iteration are interleaved, and each of
them runs in that iteration: none is held back, none starves.

Timers of the same instant have no order at all: outside a simulation no two
fall due together. They may fire in any order, in one iteration or in several,
so that what the first sets going may finish before the second.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

PLAIN: Final = "plain"
"""The lane of all callbacks that belong to neither a task nor a future."""


class Policy(Protocol):
    """This decides the order of what is ready at the same instant."""

    def arrange(self, lanes: Sequence[Hashable]) -> Sequence[int]:
        """The order to run in: a permutation of the indexes of `lanes`.

        Indexes whose lanes are equal keep their order.
        """
        ...

    def together(self, timers: int) -> int:
        """How many of `timers` (at least 1) that fall due together fire in this iteration: 1 to all."""
        ...


class Fifo:
    """The order of asyncio: first scheduled, first run."""

    def arrange(self, lanes: Sequence[Hashable]) -> Sequence[int]:
        """0, 1, 2 and so on."""
        return range(len(lanes))

    def together(self, timers: int) -> int:
        """All of them."""
        return timers

    def __repr__(self) -> str:
        return "Fifo()"


class Shuffled:
    """Any order that keeps each lane's own, drawn from a seed.

    Every interleaving of the lanes is equally likely.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._random = random.Random(seed)

    def arrange(self, lanes: Sequence[Hashable]) -> Sequence[int]:
        """A fresh interleaving; draws nothing when there is no choice."""
        if len(lanes) < 2:
            return range(len(lanes))
        waiting: dict[Hashable, deque[int]] = {}
        for index, lane in enumerate(lanes):
            waiting.setdefault(lane, deque()).append(index)
        if len(waiting) == 1:
            return range(len(lanes))
        turns = list(lanes)
        self._random.shuffle(turns)
        return [waiting[lane].popleft() for lane in turns]

    def together(self, timers: int) -> int:
        """Any number, each as likely."""
        return timers if timers < 2 else self._random.randint(1, timers)

    def __repr__(self) -> str:
        return f"Shuffled({self.seed})"


def policy_for(seed: int | None) -> Policy:
    """`Shuffled(seed)`; without a seed `Fifo()`."""
    return Fifo() if seed is None else Shuffled(seed)


def lane_of(callback: Callable[..., object], args: tuple[Any, ...]) -> Hashable:
    """Whose order this callback has to keep: a future's, a task's, or that of the plain ones."""
    if len(args) == 1 and asyncio.isfuture(args[0]):
        # A done callback or a task's wake-up: both are called with the future alone.
        return args[0]
    if _is_step(callback):
        return callback.__self__  # type: ignore[attr-defined, no-any-return]
    return PLAIN


def label_of(callback: Callable[..., object]) -> str:
    """A short name of a callback for messages: the task's, or the function's."""
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return (
            owner.get_name()
            if _is_step(callback) or _is_wakeup(callback)
            else f"{owner.get_name()}.{_name(callback)}"
        )
    return _name(callback)


def _is_step(callback: Callable[..., object]) -> bool:
    # The C task schedules a wrapper without a name, the Python task a private method.
    return type(callback).__name__ == "TaskStepMethWrapper" or getattr(callback, "__name__", "") == "__step"


def _is_wakeup(callback: Callable[..., object]) -> bool:
    return getattr(callback, "__name__", "") in ("task_wakeup", "__wakeup")


def _name(callback: Callable[..., object]) -> str:
    inner = getattr(callback, "func", callback)  # functools.partial
    return getattr(inner, "__qualname__", None) or type(inner).__name__
