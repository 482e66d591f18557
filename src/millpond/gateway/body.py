"""Reading a request's body: bounded in size and in time, before any connection is taken."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, NoReturn

from starlette.types import Receive

from millpond.gateway.refusals import Disconnected, Refused

DEEPEST: Final = 500
"""Most levels of objects and lists in a body, so that whoever reads it back can.

Measured: json in CPython 3.11 reads about 960, the JSON functions of SQLite 3.40 read 1,500 and not 3,000.
"""

JSON_TYPES: Final = ("application/json", "*/*+json")
"""Content types that a hook takes where it says nothing; `*` stands for any part."""

LONGEST_EXACT: Final = 100
"""Characters of a number with a fraction that is kept to its last digit; of a longer one a float is."""
_ALWAYS_EXACT: Final = sys.float_info.dig + 1  # with the point: what a float gives back as it was

_CLOSE: Final[Mapping[str, str]] = {"Connection": "close"}


def check_type(headers: Mapping[str, str], types: Sequence[str] = JSON_TYPES) -> str:
    """Refuse by what the head of the request says that its body is.

    Args:
        headers: of the request; looked up without regard to case.
        types: content types that are taken, `*` for any part.

    Returns:
        The content type, without parameters.

    Raises:
        Refused: 415, it is of another type, or packed.
    """
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not any(_pattern(each).fullmatch(media_type) for each in types):
        if tuple(types) != JSON_TYPES:
            raise Refused(415, "This Content-Type is not taken here.")
        raise Refused(415, "Send JSON: Content-Type must be application/json or end in +json.")
    if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise Refused(415, "Send the body as it is: Content-Encoding is not supported.")
    return media_type


def check_length(headers: Mapping[str, str], *, most: int) -> None:
    """Refuse by the length that the head of the request says, before a byte of its body is read.

    Args:
        headers: of the request; looked up without regard to case.
        most: bytes the body may have.

    Raises:
        Refused: 413, it is too large.
    """
    length = headers.get("content-length", "").strip()
    if length.isascii() and length.isdigit() and (len(length) > 18 or int(length) > most):
        raise _too_large(most)


@lru_cache(maxsize=256)
def _pattern(media_type: str) -> re.Pattern[str]:
    """What a content type looks like that is taken; one that is missing is only taken by `*/*`."""
    if media_type == "*/*":
        return re.compile(".*", re.DOTALL)
    return re.compile(re.escape(media_type.lower()).replace(r"\*", r"[^/\s]+"))


async def read(receive: Receive, *, most: int, timeout: float) -> bytes:
    """The body, of which never more than `most` bytes and one message are held.

    Args:
        receive: the request's.
        most: bytes it may have.
        timeout: seconds it may take to arrive.

    Raises:
        Refused: 413, it is too large; 408, it takes too long.
        Disconnected: the sender went away.
    """
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Disconnected
                piece = message.get("body", b"")
                size += len(piece)
                if size > most:
                    raise _too_large(most)
                pieces.append(piece)
                if not message.get("more_body", False):
                    return b"".join(pieces)
    except TimeoutError:
        raise Refused(408, "The body did not arrive in time.", _CLOSE) from None


def parse(body: bytes) -> tuple[str, Any]:
    """The body as text and as what it says.

    Stricter than Python's own reading: UTF-8 only, no NaN and no Infinity,
    nothing too deep or too long to be read back. A number with more digits than
    a float can hold is a `Decimal`, unless it has an exponent.

    Raises:
        Refused: 400, it is not such a document, or nested deeper than `DEEPEST`.
    """
    try:
        text = body.decode("utf-8-sig")
        document = json.loads(text, parse_constant=_no_constant, parse_float=_number)
    except ValueError:
        raise Refused(400, "The body is not a JSON document.") from None
    except RecursionError:
        raise _too_deep() from None
    # Whether the parser gives up, and where, differs from one Python to the next. What it has read is
    # looked at, not the text: finding the brackets that stand in no string takes a parser.
    if text.count("[") + text.count("{") > DEEPEST and _is_too_deep(document):
        raise _too_deep()
    return text, document


def _is_too_deep(document: Any) -> bool:
    """Counted level by level: a walk that goes down into each value would need a stack as deep."""
    level = [document]
    for _ in range(DEEPEST):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _too_deep() -> Refused:
    return Refused(400, f"The body is nested more than {DEEPEST} levels deep.")


def _too_large(most: int) -> Refused:
    return Refused(413, f"The body is larger than {most} bytes.")


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _number(digits: str) -> float | Decimal:
    if _ALWAYS_EXACT < len(digits) <= LONGEST_EXACT and "e" not in digits.lower():
        return Decimal(digits)
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError("a number is out of range")
    return number
