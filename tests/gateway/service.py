"""`millpond serve` as a process of its own, on a free port, with files made for the test."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.servers import MariaDBServer, PostgresServer, keeper
from tests.servers.processes import Process

MILLPOND = Path(sys.executable).parent / "millpond"
START_TIMEOUT = 20.0


def environment(**more: str) -> dict[str, str]:
    """A plain environment; of the test run's own only what Python needs, and coverage."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in ("PATH", "PYTHONPATH", "HOME", "LANG", "TMPDIR") or name.startswith("COVERAGE")
    }
    return {**kept, "PYTHONWARNINGS": "default", "COLUMNS": "80", **more}


def postgresql(
    server: PostgresServer | MariaDBServer, *, database: str | None = None, **more: Any
) -> dict[str, Any]:
    """A connection to a private server, as connections.json spells it."""
    return {
        "type": "postgresql",
        "host": server.host,
        "port": server.port,
        "database": database or server.database,
        "user": server.user,
        "password": server.password,
        **more,
    }


def mysql(server: MariaDBServer, *, database: str | None = None, **more: Any) -> dict[str, Any]:
    """A connection to a private server, as connections.json spells it."""
    return {**postgresql(server, database=database), "type": "mysql", **more}


def hook(
    path: str, kind: str, connection: str, *, module: Mapping[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """A hook with one module."""
    return {"path": path, "modules": [{"type": kind, "connection": connection, **(module or {})}], **more}


class Service:
    """One `millpond serve`.

    Args:
        directory: where its files and its SQLite databases are, and from where it runs.
        connections: what connections.json says.
        webhooks: the hooks of webhooks.json.
        arguments: more for the command line.
        environ: more for its environment.
        names: of the two files; those that are not .json are for the caller to write.
    """

    def __init__(
        self,
        directory: Path,
        connections: Mapping[str, Any],
        webhooks: Sequence[Mapping[str, Any]] = (),
        *,
        arguments: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        names: tuple[str, str] = ("connections.json", "webhooks.json"),
    ) -> None:
        self.directory = directory
        self.names = names
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in zip(names, (connections, {"webhooks": list(webhooks)}), strict=True):
            if name.endswith(".json"):
                (directory / name).write_text(json.dumps(content))
        self.arguments = list(arguments)
        self.environ = environment(**(environ or {}))
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._tree: Process | None = None

    def launch(self) -> None:
        """Start it, and do not wait."""
        connections, webhooks = self.names
        command = [str(MILLPOND), "serve", "--connections", connections, "--webhooks", webhooks]
        with (self.directory / "stdout").open("wb") as out, (self.directory / "stderr").open("wb") as err:
            self._process = subprocess.Popen(
                [*command, "--port", "0", *self.arguments],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self.environ,
                start_new_session=True,
            )
        self._tree = Process.of(self._process.pid)
        keeper.keep(self._tree)

    def start(self) -> None:
        """Start it and return when it has said where it serves."""
        self.launch()
        self.await_serving()

    def await_serving(self) -> None:
        """Return when it has said where it serves."""
        deadline = time.monotonic() + START_TIMEOUT
        while " serves on " not in self.stdout:
            assert self._process is not None
            if self._process.poll() is not None:
                raise AssertionError(f"it ended with {self._process.returncode}: {self.stderr}")
            if time.monotonic() > deadline:
                raise AssertionError(f"it does not serve after {START_TIMEOUT} s: {self.stderr}")
            time.sleep(0.02)
        self.url = self.stdout.partition(" serves on ")[2].split()[0]

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._tree is not None
        self._tree.send(number)

    def wait(self, timeout: float = 30.0) -> int:
        """Its exit status, once it has ended."""
        assert self._process is not None
        assert self._tree is not None
        status = self._process.wait(timeout)
        keeper.let_go(self._tree)
        return status

    def stop(self) -> int:
        """End it as an operator would, and return its exit status."""
        self.signal(signal.SIGTERM)
        return self.wait()

    @property
    def stdout(self) -> str:
        return (self.directory / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.directory / "stderr").read_text()

    def complaints(self) -> list[str]:
        """What it said on standard error but for what is only information."""
        return [line for line in self.stderr.splitlines() if " INFO " not in line]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self.wait()
