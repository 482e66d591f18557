"""A timer that can be moved, and that knows when it went off too late to condemn anybody."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextvars import Context
from typing import Final

from millpond._core.whereabouts import slack_of

STALLED_S: Final = 1.0
"""A timer this late (seconds) means that the loop stood still, not that the other side is slow."""


class Alarm:
    """One pending timer at most; setting it to a later instant than it has costs nothing.

    It may go off earlier than the last `set` said: who is called looks at the clock.

    Attributes:
        due: when it goes off; infinity while it is not set.
    """

    __slots__ = ("_callback", "_handle", "_loop", "_slack", "due")

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[float], None]) -> None:
        self._loop = loop
        # One that goes off too early is set again at once, and would spin until its instant has come.
        self._slack = slack_of(loop)
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None
        self.due = math.inf

    def set(self, due: float) -> None:
        """Go off at `due` (loop time) at the latest."""
        if self._handle is not None:
            if self.due <= due:
                return
            self._handle.cancel()
        self.due = due
        # An empty context: the timer must not keep the context variables of whoever came by alive.
        self._handle = self._loop.call_at(due + self._slack, self._ring, context=Context())

    def cancel(self) -> None:
        """Do not go off."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
            self.due = math.inf

    def _ring(self) -> None:
        self._handle = None
        late = self._loop.time() - self.due
        self.due = math.inf
        self._callback(late)
