"""The keeper: ends what a test run started, however the test run itself ends.

It is a small process of its own that reads lines from a pipe held open by the test run: which process
trees and directories are ours. When the pipe closes, because the run ended, crashed or was killed, the
keeper kills the trees that are left, frozen ones too, and removes the directories. (A parent-death
signal would do less: it is tied to a thread, and a frozen tree outlives it.)
"""

import atexit
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.servers.processes import Process, kill_tree

_ROOT = Path(__file__).resolve().parents[2]
_keeper: subprocess.Popen[str] | None = None
_keeper_of = 0


def keep(process: Process) -> None:
    """See to it that this process tree does not outlive the test run."""
    _tell("keep", [process.pid, process.started])


def let_go(process: Process) -> None:
    """It has ended; there is nothing to see to."""
    _tell("let_go", [process.pid, process.started])


def keep_directory(path: Path) -> None:
    """See to it that this directory does not outlive the test run."""
    _tell("keep_directory", str(path))


def _tell(order: str, subject: object) -> None:
    global _keeper, _keeper_of
    if _keeper is None or _keeper_of != os.getpid():
        _keeper = _start()
        _keeper_of = os.getpid()
    assert _keeper.stdin is not None
    _keeper.stdin.write(json.dumps([order, subject]) + "\n")
    _keeper.stdin.flush()


def _start() -> subprocess.Popen[str]:
    keeper = subprocess.Popen(
        [sys.executable, "-c", "from tests.servers import keeper; keeper.main()"],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # an interrupt from the terminal is for the test run
    )
    assert keeper.stdout is not None
    if keeper.stdout.readline() != "ready\n":
        raise RuntimeError("the keeper of test servers did not start")
    atexit.register(_finish, keeper, os.getpid())
    return keeper


def _finish(keeper: subprocess.Popen[str], owner: int) -> None:
    if os.getpid() == owner:
        with keeper:
            pass  # closes the pipe and waits


def main() -> None:
    """Listen until the pipe closes, then clean up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("ready", flush=True)
    processes: set[Process] = set()
    directories: set[Path] = set()
    for line in sys.stdin:
        match json.loads(line):
            case ["keep", [pid, started]]:
                processes.add(Process(pid, started))
            case ["let_go", [pid, started]]:
                processes.discard(Process(pid, started))
            case ["keep_directory", path]:
                directories.add(Path(path))
    for process in processes:
        with contextlib.suppress(TimeoutError):
            kill_tree(process)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)
