"""What every private server can do: start, stop, die, freeze. One file a backend says how it starts."""

import abc
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.servers import keeper, ports
from tests.servers.processes import Process, continue_tree, kill_tree, stop_tree

START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0
_POLL = 0.01


class ServerFailed(Exception):
    """A private server did not do what it was told; the end of its log is in the message."""


class BinariesMissing(Exception):
    """A server that the tests need is not installed; the message says what to install."""


class Server(abc.ABC):
    """One private server on a port of its own, in a directory of its own.

    It keeps port and data over `stop`, `kill` and `restart`; `close` ends it and removes its directory.
    """

    kind: str  # for messages and the name of the directory
    stop_signal = signal.SIGTERM  # asks for a quick, clean end
    account: str | None = None  # whom to run as when the tests run as root

    def __init__(self) -> None:
        self.host = ports.HOST
        self.port = ports.free_port()
        self.account = unprivileged_account(type(self).account)
        self.directory = private_directory(self.kind, self.account)
        self._process: subprocess.Popen[bytes] | None = None
        self._tree: Process | None = None
        self._is_prepared = False

    @abc.abstractmethod
    def prepare(self) -> None:
        """Put the server's files into `directory`; called once, before the first start."""

    @abc.abstractmethod
    def command(self) -> list[str]:
        """The program that runs in the foreground and serves on `port`."""

    @abc.abstractmethod
    def is_ready(self) -> bool:
        """Whether it serves clients now; asks without waiting."""

    @property
    def pid(self) -> int:
        """The id of the server's main process.

        Raises:
            ServerFailed: if it is not running.
        """
        return self._running.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and return when it serves.

        Raises:
            ServerFailed: if it runs already, or ends or stays silent for 30 seconds.
        """
        if self.is_running:
            raise ServerFailed(f"{self.kind} on port {self.port} runs already")
        if not self._is_prepared:
            self.prepare()
            self._is_prepared = True
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **run_as(self.account),
            )
        self._tree = Process.of(self._process.pid)
        keeper.keep(self._tree)
        self.wait_ready()

    def wait_ready(self, timeout: float = START_TIMEOUT) -> None:
        """Return when it serves clients.

        Raises:
            ServerFailed: if it ended, or does not serve after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while not self.is_ready():
            if not self.is_running:
                raise ServerFailed(f"{self.kind} ended while starting. Its log:\n{self.log()}")
            if time.monotonic() > deadline:
                raise ServerFailed(f"{self.kind} does not serve after {timeout} s. Its log:\n{self.log()}")
            time.sleep(_POLL)

    def stop(self) -> None:
        """End it cleanly, and return when it has ended; killed if it takes over 10 seconds."""
        if not self.is_running:
            return
        continue_tree(self._running)
        self._running.send(self.stop_signal)
        try:
            self._reap(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
        else:
            self._forget()

    def kill(self) -> None:
        """Kill it and all of its children, with no chance to say goodbye; the port is closed then."""
        if not self.is_running:
            return
        kill_tree(self._running, reap=self._reap)
        self._forget()

    def freeze(self) -> None:
        """Stop it and all of its children: connections stay open, new ones are accepted, nobody answers."""
        stop_tree(self._running)

    def thaw(self) -> None:
        """Undo `freeze`."""
        continue_tree(self._running)

    def restart(self) -> None:
        """Stop it and start it again on the same port, with the same data."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Kill it and remove its directory; it cannot be started again."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def log_path(self) -> Path:
        return self.directory / "server.log"

    def log(self, last: int = 40) -> str:
        """The last lines of what it wrote."""
        if not self.log_path.exists():
            return "(no log)"
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-last:])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self.is_running else "not running"
        return f"<{type(self).__name__} {self.host}:{self.port}, {state}>"

    @property
    def _running(self) -> Process:
        if self._tree is None or not self.is_running:
            raise ServerFailed(f"{self.kind} on port {self.port} is not running")
        return self._tree

    def _reap(self, timeout: float = STOP_TIMEOUT) -> None:
        assert self._process is not None
        self._process.wait(timeout)

    def _forget(self) -> None:
        if self._tree is not None:
            keeper.let_go(self._tree)
        self._process = self._tree = None


def unprivileged_account(preferred: str | None) -> str | None:
    """Whom to run a server as: nobody else unless we are root, whom most servers refuse."""
    if os.geteuid() != 0 or preferred is None:
        return None
    for name in (preferred, "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise ServerFailed(f"the tests run as root and there is neither an account {preferred!r} nor 'nobody'")


def run_as(account: str | None) -> dict[str, Any]:
    """Arguments for `subprocess` that run a program as this account, with a plain environment."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
    if account is None:
        return {"env": environment}
    entry = pwd.getpwnam(account)
    return {"env": environment, "user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def private_directory(kind: str, account: str | None) -> Path:
    """A new directory that belongs to this account and does not outlive the test run."""
    path = Path(tempfile.mkdtemp(prefix=f"millpond-{kind}-"))
    keeper.keep_directory(path)
    if account is not None:
        entry = pwd.getpwnam(account)
        os.chown(path, entry.pw_uid, entry.pw_gid)
    return path
