"""Run a test in an event loop of its own, and see what it leaves: tasks, threads, sockets, complaints."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import stat
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

from millpond.testing.contract.promises import Promise

_DESCRIPTORS: Final = "/dev/fd"
_PAUSE_S: Final = 0.005
_BEFORE_COLLECTING_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Possessions:
    """The sockets and threads of this process at one instant."""

    sockets: frozenset[tuple[int, int]]
    threads: frozenset[threading.Thread]

    @classmethod
    def now(cls) -> Possessions:
        """What there is."""
        return cls(frozenset(_sockets()), frozenset(threading.enumerate()))

    def since(self) -> str:
        """What came after this instant and is still there, in words; empty: nothing."""
        now = self.now()
        threads = sorted(thread.name for thread in now.threads - self.threads)
        sockets = len(now.sockets - self.sockets)
        return ", ".join([f"thread {name!r}" for name in threads] + [f"{sockets} sockets"] * bool(sockets))


def _sockets() -> set[tuple[int, int]]:
    found = set()
    # Windows and the like have no such directory: there, only threads are counted.
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(_DESCRIPTORS):
            with contextlib.suppress(OSError):  # the listing's own, closed by now
                status = os.fstat(int(name))
                if stat.S_ISSOCK(status.st_mode):
                    found.add((status.st_dev, status.st_ino))
    return found


def run(
    test: Callable[[], Awaitable[None]],
    *,
    patience: float,
    noise: Collection[str],
    left_behind: Promise,
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """Run `test` in a new event loop.

    Args:
        test: makes the coroutine.
        patience: seconds that threads, sockets and tasks may take to end after it.
        noise: parts of what may be told to the loop's exception handler.
        left_behind: what is broken when sockets or threads stay.
        new_loop: makes the loop.

    Raises:
        ContractBroken: something was left behind, or the loop was told of an error that nobody handled.
    """
    before = Possessions.now()
    complaints: list[str] = []
    with _unclosed() as unclosed:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            loop = runner.get_loop()
            loop.set_exception_handler(lambda _, context: complaints.append(_in_words(context)))
            runner.run(_to_the_end(test, patience))
        left = _what_stays(before, patience)
    if left:
        raise left_behind.broken(f"after the test there are still: {left}")
    if unclosed:
        raise left_behind.broken(f"nobody has closed: {'; '.join(unclosed)}")
    heard = [each for each in complaints if not any(part in each for part in noise)]
    if heard:
        raise Promise.QUIET.broken("; ".join(heard))


@contextlib.contextmanager
def _unclosed() -> Iterator[list[str]]:
    """Collects ResourceWarnings, which are of what was dropped without being closed; others go their way."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", ResourceWarning)
        yield found
    for each in warned:
        if issubclass(each.category, ResourceWarning):
            found.append(str(each.message))
        else:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


async def _to_the_end(test: Callable[[], Awaitable[None]], patience: float) -> None:
    await test()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        _, others = await asyncio.wait(others, timeout=patience)
    if others:
        names = ", ".join(sorted(task.get_name() for task in others))
        raise Promise.RESIDUE.broken(f"after the test these tasks still run: {names}")


def _what_stays(before: Possessions, patience: float) -> str:
    began = time.monotonic()
    has_collected = False
    while left := before.since():
        waited = time.monotonic() - began
        if waited > _BEFORE_COLLECTING_S and not has_collected:
            gc.collect()  # or a cycle that was given up properly would count as kept
            has_collected = True
        elif waited > patience:
            break
        time.sleep(_PAUSE_S)
    return left


def _in_words(context: dict[str, Any]) -> str:
    error = context.get("exception")
    return f"{context['message']}" + ("" if error is None else f": {type(error).__name__}: {error}")
