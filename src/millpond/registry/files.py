"""Reading small files whose names come from outside, without ever waiting for somebody."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

_NEVER_WAITS: Final = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)


class NotOrdinary(OSError):
    """It is there, and no file: a directory, a pipe, a socket, a device."""

    def __init__(self) -> None:
        super().__init__("is not an ordinary file")


def read_ordinary(path: Path, most: int) -> bytes:
    """What is in an ordinary file; one byte more than `most` when there is more.

    A pipe that nobody writes to would hold up the loop for ever, and a device may never end. So it is opened
    without waiting, and looked at before anything is read; nobody can put something else there in between.

    Args:
        path: the file, or a link to it.
        most: bytes.

    Raises:
        NotOrdinary: it is no ordinary file.
        OSError: it cannot be opened or read.
        ValueError: its name holds NUL.
    """
    try:
        descriptor = os.open(path, _NEVER_WAITS)
    except OSError:
        # A socket cannot be opened at all, and the system's words for it do not say so.
        if path.exists() and not path.is_file():
            raise NotOrdinary from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotOrdinary
        content = bytearray()
        while len(content) <= most and (more := os.read(descriptor, most + 1 - len(content))):
            content += more
    finally:
        os.close(descriptor)
    return bytes(content)


def why_unreadable(error: OSError | ValueError) -> str:
    """What is wrong with a file, in words fit to follow its name."""
    if isinstance(error, NotOrdinary):
        return str(error)
    return f"cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}"
