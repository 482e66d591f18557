"""Why a request was not taken, and what its sender is told. Nothing here repeats what a database said."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final


class Fault(enum.Enum):
    """What a failed statement means to whoever sent the request; the value is the status of the answer."""

    CONFLICT = 409  # the database has such a row already
    UNFIT = 422  # these values cannot be stored, now or later
    MISFIT = 500  # the configuration and the database do not fit: a missing table, a missing right
    AWAY = 503  # not now: the database is gone, busy, or did not answer in time


WORDS: Final[Mapping[Fault, str]] = {
    Fault.CONFLICT: "A row like this one is stored already.",
    Fault.UNFIT: "The values of this request cannot be stored.",
    Fault.MISFIT: "This webhook is not set up correctly.",
    Fault.AWAY: "Not available at the moment; try again later.",
}


class Refused(Exception):
    """A request that is answered with something else than success.

    Args:
        status: of the answer.
        detail: words fit for anyone.
        headers: more for the answer.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers


class NotStored(Exception):
    """A module could not store a request, or cannot tell whether it did.

    Attributes:
        fault: what it means to the sender.
        why: one line for the log, without values of the request.
    """

    def __init__(self, fault: Fault, why: str) -> None:
        super().__init__(why)
        self.fault = fault
        self.why = why


class NoRow(Exception):
    """A statement succeeded and stored nothing; a trigger or a rule may do that."""


class Outcome(enum.Enum):
    """What became of a request in one module that did not fail."""

    DONE = "done"  # now
    BEFORE = "before"  # when this request, known by its key, came the first time
    OTHER = "other"  # nothing: its key belongs to a request with another body


class Disconnected(Exception):
    """The sender went away before its body was complete."""
