"""What drivers have in common: walking errors, masking secrets, quoting names, sockets and forks.

Nothing here knows a backend, and nothing here needs a client library.
"""

import contextlib
import inspect
import json
import os
import socket
import sys
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, TypeAlias
from urllib.parse import quote, quote_plus

Password: TypeAlias = str | Callable[[], str | Awaitable[str]]
"""A password, or a function, sync or async, that is asked for it at each connect."""

_MOST_ERRORS: Final = 64
_SECRETS_REMEMBERED: Final = 8
_KEEPALIVE_PROBES: Final = 3


class Unfit(ConnectionError):
    """The backend answers, but it is not the one that this pool is for: a demoted primary, another file."""


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """`error` and all it hangs on: causes, contexts, members of exception groups; at most 64, each once."""
    seen: set[int] = set()
    ahead = deque([error])
    while ahead and len(seen) < _MOST_ERRORS:
        here = ahead.popleft()
        if here is None or id(here) in seen:
            continue
        seen.add(id(here))
        yield here
        if isinstance(here, BaseExceptionGroup):
            ahead.extend(here.exceptions)
        ahead.extend((here.__cause__, here.__context__))


class Secrets:
    """The last few secrets that a driver has used, so that it can mask them in any text.

    More than one, because a rotated password may still stand in an older error.
    """

    def __init__(self) -> None:
        self._words: deque[str] = deque(maxlen=_SECRETS_REMEMBERED)

    def add(self, word: str) -> None:
        """Remember one secret; the empty one hides nothing."""
        if word and word not in self._words:
            self._words.append(word)

    def redact(self, text: str) -> str:
        """`text` with every secret masked, also where it stands quoted for a URL, JSON or Python."""
        spellings = {
            spelling
            for word in self._words
            for spelling in (
                word,
                quote(word, errors="replace"),
                quote(word, safe="", errors="replace"),
                quote_plus(word, errors="replace"),
                json.dumps(word)[1:-1],
                repr(word)[1:-1],
            )
        }
        # The longest first: a short one may be part of it, and would leave the rest standing.
        for spelling in sorted(spellings, key=len, reverse=True):
            text = text.replace(spelling, "***")
        return text


async def ask(password: Password, secrets: Secrets) -> str:
    """The password of now; `secrets` masks it from then on.

    Raises:
        TypeError: the function returned something else than a text; says what, and not which.
        Exception: whatever the function raises.
    """
    answer = password() if callable(password) else password
    if inspect.isawaitable(answer):
        answer = await answer
    if not isinstance(answer, str):
        raise TypeError(f"password: the function must return a text, it returned {type(answer).__name__}")
    secrets.add(answer)
    return answer


def quoted(*parts: str, most_bytes: int | None = None, mark: str = '"') -> str:
    """A name as an SQL identifier in quotes; several parts are joined by dots.

    Args:
        parts: the name, or schema and name. They may hold dots and quotes.
        most_bytes: the longest a part may be in UTF-8; None: any length.
        mark: the quote; doubled where it stands in a part.

    Raises:
        ValueError: a part is empty, too long, not text that UTF-8 can carry, or holds NUL.
    """
    if not parts:
        raise ValueError("an identifier needs at least one part")
    return ".".join(_quoted(part, most_bytes, mark) for part in parts)


def _quoted(part: str, most_bytes: int | None, mark: str) -> str:
    if not part:
        raise ValueError("an identifier must not be empty")
    if "\0" in part:
        raise ValueError(f"an identifier must not hold NUL: {part!r}")
    try:
        size = len(part.encode())
    except UnicodeEncodeError:
        raise ValueError(f"an identifier must be valid Unicode: {part!r}") from None
    if most_bytes is not None and size > most_bytes:
        # The server would cut it off, and so name something else.
        raise ValueError(f"an identifier has at most {most_bytes} bytes, this one has {size}: {part!r}")
    return mark + part.replace(mark, mark * 2) + mark


def tune_socket(sock: Any, *, keepalive: float | None, user_timeout: float | None) -> None:
    """Let the kernel notice a peer that is gone without a word; no effect on Unix sockets.

    Args:
        sock: a socket, or what a transport shows of it.
        keepalive: seconds of silence before the first probe, a third of it between probes,
            three probes; None: no probes.
        user_timeout: seconds that sent bytes may stay unacknowledged (Linux); None: the
            kernel's own limit, a quarter of an hour and more.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    if keepalive is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # macOS calls the idle time TCP_KEEPALIVE.
        idle = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
        for option, value in (
            (idle, max(1, round(keepalive))),
            (getattr(socket, "TCP_KEEPINTVL", None), max(1, round(keepalive / 3))),
            (getattr(socket, "TCP_KEEPCNT", None), _KEEPALIVE_PROBES),
        ):
            if option is not None:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
    if user_timeout is not None and sys.platform == "linux":
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(user_timeout * 1000)))


def cut(abort: Callable[[], object], transport: Any) -> None:
    """Cut a connection by its own `abort`; where that fails, by what `transport` is made of; never raises."""
    try:
        abort()
    except Exception:
        # The loop is closed, so nobody would ever carry out what asyncio now has in hand: hang up, so
        # that the server need not wait for us, and do at once what the loop would have done next.
        with contextlib.suppress(Exception):
            transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(Exception):
            transport._call_connection_lost(None)


_live: Final[weakref.WeakSet[Any]] = weakref.WeakSet()
_inherited: Final[list[Any]] = []


def outlive_fork(conn: object) -> None:
    """See to it that `conn` is never finalized in the child of a fork.

    A client library's finalizer may say goodbye on a session that is the
    parent's, or close a descriptor whose number has been given to another.
    """
    _live.add(conn)


def _keep_what_is_the_parents() -> None:
    _inherited.extend(_live)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_what_is_the_parents)
