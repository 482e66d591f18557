"""The command `millpond`: as a process, as people run it, or in this one, which is quicker."""

import contextlib
import io
import json
import logging
import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from millpond.cli.commands import run
from millpond.cli.words import QUIETENED
from tests.gateway.service import MILLPOND, environment


@dataclass(frozen=True)
class Ran:
    """What a run of the command came to."""

    status: int
    out: str
    err: str

    @property
    def complaints(self) -> list[str]:
        return self.err.splitlines()


def millpond(*arguments: str, directory: Path, timeout: float = 30.0, **environ: str) -> Ran:
    """Run it to its end, as a process of its own."""
    done = subprocess.run(
        [str(MILLPOND), *arguments],
        cwd=directory,
        env=environment(**environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def here(*arguments: str, directory: Path, **environ: str) -> Ran:
    """Run it to its end in this process, all but the interpreter's start and exit."""
    out, err = io.StringIO(), io.StringIO()
    root = logging.getLogger()
    loggers = [root, *map(logging.getLogger, QUIETENED)]
    handlers, levels = root.handlers[:], [each.level for each in loggers]
    root.handlers.clear()
    try:
        with (
            contextlib.chdir(directory),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            mock.patch.dict(os.environ, environ),
        ):
            status = run(arguments)
    finally:
        root.handlers[:] = handlers
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)  # not the attribute: loggers remember what they need not say
    return Ran(status, out.getvalue(), err.getvalue())


def write(directory: Path, name: str, content: Any) -> Path:
    """A file in `directory`: text as it is, anything else as JSON."""
    path = directory / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def check(directory: Path, connections: Any, webhooks: Any = None, **environ: str) -> Ran:
    """`millpond check` with these files."""
    write(directory, "connections.json", connections)
    arguments = ["check", "--connections", "connections.json", "--timeout", "2"]
    if webhooks is not None:
        write(directory, "webhooks.json", webhooks)
        arguments += ["--webhooks", "webhooks.json"]
    return here(*arguments, directory=directory, **environ)


def says_in_one_line(ran: Ran, status: int, words: Iterable[str], *, secrets: set[str]) -> None:
    """See that a check ended with this status and one complaint, which holds the words and no secret."""
    assert ran.status == status
    (line,) = ran.complaints
    for word in words:
        assert word in line
    assert line.startswith("millpond: connections.json: ")
    assert not secrets & set(re.findall(r"[\w-]+", ran.out + ran.err))
