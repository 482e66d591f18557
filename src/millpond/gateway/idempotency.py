"""A request that comes again is known by a key that its sender gives it, and is not stored again.

Each module that can keeps the key in the same transaction as what it stores
(rows), or in the same atomic step (Redis). So a key is there exactly when its
request is stored, in each module for itself: a request of which the first
module stored its part and the second failed is tried again, the first finds
the key and the second stores. What is kept is a digest of hook, module and
key, and one of the body: the same key with another body is refused.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Self

from pydantic import Field, model_validator
from starlette.datastructures import Headers

from millpond.gateway.authentication import HeaderName
from millpond.gateway.fields import Bool, Lifetime, Strict, Text
from millpond.gateway.pointer import Pointer, Received
from millpond.gateway.refusals import Refused

_KEY: Final = re.compile(r"[!-~]{1,255}")
BATCH: Final = 500
"""Keys that are deleted at once."""

_SWEEP_EVERY_S: Final = 60.0
_SAID: Final = "1 to 255 visible ASCII characters"


class Idempotency(Strict):
    """How a hook knows a request that comes again."""

    header: HeaderName | None = Field(
        None, description="The header that brings the key; left out, and without a pointer: Idempotency-Key."
    )
    pointer: Text | None = Field(
        None, description="Where the key stands in the body, in place of a header: /id, a JSON pointer."
    )
    required: Bool = Field(False, description="Answer 400 to a request without a key; else it is a new one.")
    ttl: Lifetime = Field(
        86_400.0, description="How long a key is known, seconds: longer than senders retry."
    )
    table: Text = Field(
        "millpond_idempotency",
        description="The table that takes the keys, in the database of the rows; in Redis, what the names of "
        "its keys begin with.",
    )

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.header is not None and self.pointer is not None:
            raise ValueError("the key comes from a header or from a pointer; give one of them")
        if self.pointer is not None:
            Pointer(self.pointer)
        return self


class Keys:
    """This finds the key of a request."""

    def __init__(self, model: Idempotency) -> None:
        self._header = model.header or "Idempotency-Key"
        self._pointer = None if model.pointer is None else Pointer(model.pointer)
        self._is_required = model.required

    def key(self, headers: Headers, body: Any) -> str | None:
        """The request's key; None: it has none, and need not have one.

        Raises:
            Refused: 400, there is none, more than one, or one that cannot be a key.
        """
        found = self._found(headers, body)
        if not found:
            if self._is_required:
                raise Refused(400, f"{self._place} is missing: it must hold a key of {_SAID}.")
            return None
        if len(found) > 1 or not _KEY.fullmatch(found[0]):
            raise Refused(400, f"{self._place} must hold one key of {_SAID}.")
        return found[0]

    @property
    def _place(self) -> str:
        return f"The header {self._header}" if self._pointer is None else "The body's key"

    def _found(self, headers: Headers, body: Any) -> list[str]:
        if self._pointer is None:
            return [each.strip() for each in headers.getlist(self._header)]
        value = self._pointer.find(body)
        if value is None:
            return []
        # A number as it is written; what else there may be is no key, and an empty one is refused.
        is_key = isinstance(value, str | int) and not isinstance(value, bool)
        return [str(value) if is_key else ""]


class Sweep:
    """This says when it is time to delete keys that are known no more: not with every request."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due_at = clock()

    def is_due(self) -> bool:
        """True about once a minute; whoever asks deletes up to `BATCH` keys, and says so."""
        now = self._clock()
        if now < self._due_at:
            return False
        self._due_at = now + _SWEEP_EVERY_S
        return True

    def deleted(self, count: int) -> None:
        """Note how many there were; after a full batch there are more."""
        if count >= BATCH:
            self._due_at = self._clock()


def fingerprint(text: str) -> str:
    """The SHA-256 of a body, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Keeping:
    """How one module of a hook keeps keys.

    Attributes:
        hook: the hook's path.
        scope: tells the modules of a hook apart, wherever they stand in it.
        table: where keys are kept, see `Idempotency`.
        ttl: how long, seconds.
        sweep: when to delete those that are known no more.
    """

    hook: str
    scope: str
    table: str
    ttl: float
    sweep: Sweep = field(default_factory=Sweep, compare=False)

    def id_of(self, received: Received) -> str | None:
        """By what the request is known in this module: a SHA-256, hexadecimal; None: it is not."""
        if received.key is None:
            return None
        return hashlib.sha256("\0".join((self.hook, self.scope, received.key)).encode()).hexdigest()
