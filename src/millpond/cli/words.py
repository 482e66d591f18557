"""How the command talks: answers on stdout, the rest on stderr. One line each, no secrets."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Final

from millpond.errors import describe, masked

QUIETENED: Final = ("uvicorn", "asyncio", "aiosqlite", "watchfiles")
"""Loggers that say warnings and worse only. What uvicorn says of its own starting and
stopping is said by `serve`, in fewer words. watchfiles tells of every change of a directory:
where the log itself is written there, each line would make another."""


def say(*lines: str) -> None:
    """Print to standard output, at once."""
    for line in lines:
        print(line, flush=True)


def complain(*problems: str) -> None:
    """Print each problem as one line on standard error."""
    for problem in problems:
        print(f"millpond: {' '.join(problem.split())}", file=sys.stderr, flush=True)


def aligned(rows: Iterable[Sequence[str]], *, right: frozenset[int] = frozenset()) -> list[str]:
    """Rows as lines, each column as wide as its widest cell.

    Args:
        rows: cells; every row has as many.
        right: numbers of the columns that are aligned to the right, from 0.
    """
    table = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def log_to_stderr(level: int) -> None:
    """Send every log record of this level and above to standard error, one line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in QUIETENED:
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))


class OneLine(logging.Formatter):
    """A formatter that writes every record as one line, with nothing in it that looks like a secret.

    An exception is its type, its masked text and the way it came, without the
    lines of source between.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        return masked(" ".join(super().format(record).split()))

    def formatException(self, ei: object) -> str:
        """An exception in one line: what, and where from, innermost call last."""
        error = ei[1] if isinstance(ei, tuple) else None
        if not isinstance(error, BaseException):
            return ""
        way = " > ".join(
            f"{PurePath(frame.filename).name}:{frame.lineno}"
            for frame in traceback.extract_tb(error.__traceback__)[-8:]
        )
        return f"{describe(error)} (at {way})" if way else describe(error)
