"""What of a request goes where: a JSON pointer into its body, or one of a few special words.

- `/order/items/0`: a JSON pointer (RFC 6901) into the body; NULL where it finds nothing
- `$body`: the whole body, a JSON document; one that is null is JSON's null and not NULL
- `$path`: the path of the request
- `$received_at`: when it arrived; UTC, ISO 8601, microseconds

Names of keys, channels and queues are templates: `orders:{/customer/id}`.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from millpond.gateway.refusals import Fault, NotStored

_BROKEN_ESCAPE: Final = re.compile(r"~(?![01])")
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,9}")
_MARK: Final = secrets.token_hex(16)  # nobody outside can have put it into a body
_MARKED: Final = re.compile(rf'"{_MARK}([-.0-9]+)"')
_PLACE: Final = re.compile(r"\{(/[^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Received:
    """One request whose body has been read and understood.

    Attributes:
        path: the path it was sent to.
        received_at: when it arrived: UTC, ISO 8601.
        text: the body as it was sent, which is one JSON document.
        body: the same, parsed.
        size: bytes that were sent as the body.
        media_type: what the sender says the body is, without parameters.
        sender: the address that the request came from; empty where nobody knows.
        key: by which the request is known when it comes again; None: there is none.
        fingerprint: SHA-256 of the body, hexadecimal; empty where there is no key.
    """

    path: str
    received_at: str
    text: str = field(repr=False)
    body: Any = field(repr=False)
    size: int = 0
    media_type: str = ""
    sender: str = ""
    key: str | None = None
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Json:
    """A value that is written as a JSON document, whatever it is: `text` is that document."""

    text: str


class Pointer:
    """A JSON pointer (RFC 6901).

    Raises:
        ValueError: `text` is not one.
    """

    def __init__(self, text: str) -> None:
        if not text.startswith("/"):
            raise ValueError("a JSON pointer begins with /")
        if _BROKEN_ESCAPE.search(text):
            raise ValueError("in a JSON pointer, ~ is written ~0 and / inside a name ~1")
        self._steps = tuple(
            step.replace("~1", "/").replace("~0", "~") for step in text.removeprefix("/").split("/")
        )

    def find(self, document: Any) -> Any:
        """What it points at in `document`; None when there is nothing."""
        for step in self._steps:
            if isinstance(document, dict):
                document = document.get(step)
            elif isinstance(document, list) and _INDEX.fullmatch(step) and int(step) < len(document):
                document = document[int(step)]
            else:
                return None
        return document


SPECIAL: Final[dict[str, Callable[[Received], Any]]] = {
    "$body": lambda received: Json(received.text),
    "$path": lambda received: received.path,
    "$received_at": lambda received: received.received_at,
}


def source(words: str) -> Callable[[Received], Any]:
    """The function that takes from a request what `words` say.

    Raises:
        ValueError: they are neither a JSON pointer nor a special word; the text says which there are.
    """
    if words in SPECIAL:
        return SPECIAL[words]
    if words.startswith("/"):
        find = Pointer(words).find
        return lambda received: find(received.body)
    raise ValueError(f"takes a JSON pointer, which begins with /, or one of {', '.join(SPECIAL)}")


def encoded(value: Any) -> bytes | None:
    """A value as bytes: texts as they are, all else as JSON; None: there is none.

    Raises:
        UnicodeError: a text holds half a character.
    """
    if value is None:
        return None
    if isinstance(value, Json):
        return value.text.encode()
    return (value if isinstance(value, str) else as_json(value)).encode()


def as_json(value: Any, *, ensure_ascii: bool = False) -> str:
    """A value as a JSON document, in which numbers have all the digits that they were sent with."""
    if isinstance(value, Decimal):
        return f"{value:f}"
    is_marked = False

    def mark(number: object) -> str:
        nonlocal is_marked
        if not isinstance(number, Decimal):
            raise TypeError(f"{type(number).__name__} is not JSON")
        is_marked = True
        return f"{_MARK}{number:f}"

    # The library's fast encoder has no way to write a Decimal but as a text, which loses its quotes here.
    text = json.dumps(value, ensure_ascii=ensure_ascii, default=mark)
    return _MARKED.sub(r"\1", text) if is_marked else text


class Template:
    """A name, parts of which may come from the body: `orders:{/customer/id}`.

    `{/` begins a JSON pointer that ends at the next `}`; all other braces stand for themselves.

    Raises:
        ValueError: `text` is not one.
    """

    def __init__(self, text: str) -> None:
        # Every second piece is a pointer.
        pieces = _PLACE.split(text)
        if any("{/" in piece for piece in pieces[::2]):
            raise ValueError("a pointer in a name begins with {/ and ends with }, with no other brace inside")
        self._pieces = [
            Pointer(piece).find if at % 2 else _always(piece) for at, piece in enumerate(pieces) if piece
        ]

    def filled(self, received: Received) -> str:
        """The name for this request.

        Raises:
            NotStored: a pointer finds nothing, or no text, number or truth.
        """
        return "".join(_part(find(received.body)) for find in self._pieces)


def _always(text: str) -> Callable[[Any], Any]:
    return lambda _: text


def _part(value: Any) -> str:
    if value is None or value == "" or isinstance(value, dict | list):
        raise NotStored(Fault.UNFIT, "a pointer in a name finds nothing that can be part of one")
    return value if isinstance(value, str) else as_json(value)
