"""A logger that says a thing once, not a thousand times a second."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

_LONGEST_MEMORY: Final = 256


@dataclass(slots=True)
class _Said:
    at: float
    left_out: int = 0


class Sparing:
    """This logs a message at most once per `interval` for each key, and then says how many it left out.

    Args:
        log: where the lines go.
        interval: seconds of silence after a line.
        clock: monotonic seconds.
    """

    def __init__(
        self, log: logging.Logger, *, interval: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._interval = interval
        self._clock = clock
        # Invariant: at most _LONGEST_MEMORY keys, the least recently logged first.
        self._said: OrderedDict[Hashable, _Said] = OrderedDict()

    def warning(self, key: Hashable, message: str, *facts: object) -> None:
        """Log `message % facts` as a warning, unless `key` has just been logged."""
        self._say(logging.WARNING, key, message, facts)

    def error(self, key: Hashable, message: str, *facts: object) -> None:
        """Log `message % facts` as an error, unless `key` has just been logged."""
        self._say(logging.ERROR, key, message, facts)

    def _say(self, level: int, key: Hashable, message: str, facts: tuple[object, ...]) -> None:
        now = self._clock()
        said = self._said.get(key)
        if said is not None and now - said.at < self._interval:
            said.left_out += 1
            return
        if said is not None and said.left_out:
            message += " (%d more of these in the last %.0f s)"
            facts = (*facts, said.left_out, now - said.at)
        self._said[key] = _Said(now)
        self._said.move_to_end(key)
        if len(self._said) > _LONGEST_MEMORY:
            self._said.popitem(last=False)
        self._log.log(level, message, *facts)
