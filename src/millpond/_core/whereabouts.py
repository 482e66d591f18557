"""Where are we? Which loop or thread, which task, which clock; as cheaply as each interpreter allows."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Final

# `here` answers a mark that is compared with the one of a pool's loop. In CPython 3.11 current_task()
# is Python code, and asking for the running loop costs a system call (it looks for a fork). A
# thread's number does as well there: whoever is inside a task of a loop, in the thread that the
# loop runs in, is where the loop runs. Later versions do both fast.
if sys.version_info >= (3, 12):
    from asyncio import _get_running_loop as here
    from asyncio import current_task as task_of
else:
    from asyncio.tasks import _current_tasks  # type: ignore[attr-defined]
    from threading import get_ident as here

    task_of = _current_tasks.get

__all__ = ["NOWHERE", "clock_of", "here", "task_of"]

NOWHERE: Final = object()
"""Compares equal with nothing that `here` answers."""


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """What `loop.time` answers, without the call in between where it is the standard one."""
    return time.monotonic if type(loop).time is asyncio.BaseEventLoop.time else loop.time
