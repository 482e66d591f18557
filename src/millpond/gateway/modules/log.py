"""A request becomes one line of the log `millpond.gateway.requests`: what is known of it, not what it says.

    /webhook/orders: 217 bytes of application/json from 10.0.0.7 (order='A-17')

Values and bodies appear only where the hook asks for them. Whatever a sender
chose is written with everything escaped that is not printable ASCII, so that
no request can write lines of its own.
"""

from __future__ import annotations

import logging
from decimal import Decimal
from typing import Any, Final

from millpond.errors import describe
from millpond.gateway.module_models import LogModule
from millpond.gateway.pointer import Json, Received, as_json, source
from millpond.gateway.refusals import Fault, NotStored, Outcome

_log = logging.getLogger("millpond.gateway.requests")
_LONGEST: Final = 1000
_LONGEST_VALUE: Final = 200


class LogLine:
    """This writes a line for each request."""

    kind = "log"
    connection = None
    timeout = 0.0

    def __init__(self, model: LogModule) -> None:
        self._level = logging.getLevelNamesMapping()[model.level.upper()]
        self._values = [(name, source(words)) for name, words in model.values.items()]
        self._writes_body = model.body

    async def store(self, conn: Any, received: Received) -> Outcome:
        """Write the line."""
        if _log.isEnabledFor(self._level):
            key = "" if received.key is None else f", key {_shown(received.key)}"
            _log.log(
                self._level,
                "%s: %d bytes of %s from %s%s%s%s",
                received.path,
                received.size,
                ascii(received.media_type)[1:-1][:_LONGEST_VALUE] or "unknown type",
                received.sender or "an unknown sender",
                key,
                self._asked_for(received),
                f": {received.text[:_LONGEST]!a}" if self._writes_body else "",
            )
        return Outcome.DONE

    def explain(self, error: Exception) -> NotStored:
        """A log that raises is set up wrong."""
        return NotStored(Fault.MISFIT, describe(error))

    def _asked_for(self, received: Received) -> str:
        pairs = ", ".join(f"{name}={_shown(value_of(received))}" for name, value_of in self._values)
        return f" ({pairs})" if pairs else ""


def _shown(value: Any) -> str:
    text = (
        as_json(value)
        if isinstance(value, Decimal)
        else ascii(value.text if isinstance(value, Json) else value)
    )
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."
