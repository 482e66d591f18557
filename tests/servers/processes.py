"""Process trees, read from /proc: who descends from whom, and how to stop or end all of them.

A process is always named by its id and its start time together, so that an id which the kernel has
given to somebody else meanwhile is never signalled.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_STOPPED = frozenset("Tt")
_DEAD = frozenset("ZX")


@dataclass(frozen=True, slots=True)
class Process:
    """One process, whoever gets its id later."""

    pid: int
    started: int  # clock ticks after boot, field 22 of /proc/<pid>/stat

    @classmethod
    def of(cls, pid: int) -> "Process":
        """This process as it runs now.

        Raises:
            ProcessLookupError: if there is none with this id.
        """
        fields = _stat(pid)
        if fields is None:
            raise ProcessLookupError(pid)
        return cls(pid, int(fields[19]))

    @property
    def state(self) -> str | None:
        """The kernel's letter for its state, or None when it is gone."""
        fields = _stat(self.pid)
        if fields is None or int(fields[19]) != self.started or fields[0] in _DEAD:
            return None
        return fields[0]

    @property
    def is_alive(self) -> bool:
        return self.state is not None

    def is_standing_still(self) -> bool:
        """Whether it is stopped, or gone."""
        state = self.state
        return state is None or state in _STOPPED

    def children(self) -> "list[Process]":
        """The processes whose parent this is; a server's workers may sit in sessions of their own."""
        return [
            Process(pid, int(fields[19]))
            for pid, fields in _all_stats()
            if int(fields[1]) == self.pid and fields[0] not in _DEAD
        ]

    def send(self, signum: int) -> None:
        """Signal it; nothing happens when it is gone."""
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signum)


def stop_tree(root: Process, *, timeout: float = 10.0) -> list[Process]:
    """Stop a process and all of its descendants, top first, so that none of them can have more children.

    Returns:
        All of them, the root first.
    """
    stopped: list[Process] = []
    pending = [root]
    while pending:
        process = pending.pop(0)
        process.send(signal.SIGSTOP)
        _wait_until(process.is_standing_still, timeout, f"{process} to stop")
        stopped.append(process)
        pending.extend(process.children())
    return stopped


def continue_tree(root: Process) -> None:
    """Let a stopped tree go on, descendants first."""
    for child in root.children():
        continue_tree(child)
    root.send(signal.SIGCONT)


def kill_tree(root: Process, *, reap: Callable[[], object] = lambda: None, timeout: float = 10.0) -> None:
    """Kill a process and all of its descendants at once, and return when they are gone.

    Args:
        root: the top of the tree.
        reap: collects the root's exit status, when the caller is its parent.
        timeout: longest wait for the kernel, seconds.
    """
    tree = stop_tree(root, timeout=timeout)
    for process in tree:
        process.send(signal.SIGKILL)
    reap()
    _wait_until(lambda: not any(process.is_alive for process in tree), timeout, f"{tree} to die")


def _wait_until(done: Callable[[], bool], timeout: float, what: str) -> None:
    deadline = time.monotonic() + timeout
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout} s for {what}")
        time.sleep(0.002)


def _all_stats() -> Iterator[tuple[int, list[str]]]:
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None:
            yield int(entry.name), fields


def _stat(pid: int) -> list[str] | None:
    """Fields 3 and on of /proc/<pid>/stat: state, parent, ...; the name before them may hold anything."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()
