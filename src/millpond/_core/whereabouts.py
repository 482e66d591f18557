"""Where are we? Which loop or thread, which task, which clock; as cheaply as each interpreter allows."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

# `task_of(loop)` is the task that runs in a loop now, whichever thread asks. `here` answers a mark that
# is compared with the one of a pool's loop. In CPython 3.11 current_task() is Python code, and asking
# for the running loop costs a system call (it looks for a fork). A thread's number does as well
# there: whoever is inside a task of a loop, in the thread that the loop runs in, is where the loop
# runs. Later versions do both fast.
if sys.version_info >= (3, 12):
    from asyncio import _get_running_loop as here
    from asyncio import current_task as task_of
else:
    from asyncio.tasks import _current_tasks  # type: ignore[attr-defined]
    from threading import get_ident as here

    task_of = _current_tasks.get

__all__ = ["NOWHERE", "clock_of", "future_of", "here", "slack_of", "task_of"]

NOWHERE: Final = object()
"""No loop, and nothing that `here` answers; no task runs in it."""


def future_of(loop: asyncio.AbstractEventLoop) -> Callable[[], asyncio.Future[Any]]:
    """What `loop.create_future` answers, without the call in between where it is the standard one."""
    if type(loop).create_future is asyncio.BaseEventLoop.create_future:
        return partial(asyncio.Future, loop=loop)
    return loop.create_future


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """The clock by which `loop` sets its timers, as cheap and as fine as it comes.

    `loop.time` of uvloop is the same clock cut to whole milliseconds: too coarse to say
    how long somebody has waited or held a connection.
    """
    is_standard = type(loop).time is asyncio.BaseEventLoop.time
    return time.monotonic if is_standard or (_is_uvloop(loop) and sys.platform == "linux") else loop.time


def slack_of(loop: asyncio.AbstractEventLoop) -> float:
    """Seconds to add to the instant of a timer, so that it does not go off before.

    uvloop counts timers in milliseconds, to the nearest: half of one makes it the next.
    """
    return 0.0005 if _is_uvloop(loop) else 0.0


def _is_uvloop(loop: asyncio.AbstractEventLoop) -> bool:
    return any(kind.__module__ == "uvloop.loop" for kind in type(loop).__mro__)
