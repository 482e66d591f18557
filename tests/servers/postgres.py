"""Private PostgreSQL servers.

`initdb` runs once, into a template which every server copies. Clients come over TCP with SCRAM, as
the role `app`, so that a wrong password is wrong. The tests' own administration comes over a socket in
the server's private directory, on connections that are kept free for it.
"""

import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tests.servers.server import (
    BinariesMissing,
    Server,
    ServerFailed,
    private_directory,
    run_as,
    unprivileged_account,
)

ROLE = "app"
PASSWORD = "app-secret"
DATABASE = "app"
ADMIN = "postgres"
DEBIAN_PACKAGE = "postgresql"

_ACCOUNT = "postgres"
_PROGRAMS = ("initdb", "postgres", "psql")
_RESERVED = 3  # connections for the administrator, beyond max_connections
_FIELD, _RECORD = "\x1f", "\x1e"

# Every confirmed commit survives `kill`: what a killed process has written stays with the kernel. Only a
# crash of the machine would lose it, and no test does that; hence no fsync and no full pages, which are
# what makes a server slow to start. synchronous_commit stays on: without it a kill loses commits.
_SETTINGS: Mapping[str, str | int] = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "on",
    "shared_buffers": "16MB",
    "superuser_reserved_connections": _RESERVED,
    "logging_collector": "off",
    "log_connections": "off",
    "max_wal_size": "64MB",
    "min_wal_size": "8MB",
}

_ACCESS = """\
# TYPE  DATABASE  USER  ADDRESS       METHOD
local   all       all                 trust
local   replication  all              trust
host    all       all   127.0.0.1/32  scram-sha-256
"""


@dataclass(frozen=True, slots=True)
class Client:
    """One client connection, as pg_stat_activity sees it."""

    pid: int
    database: str
    user: str
    application_name: str
    state: str
    query: str


def find_binaries() -> Path:
    """The directory that holds PostgreSQL's own programs, the newest if there are several.

    Raises:
        BinariesMissing: if there is none.
    """
    found = [directory for directory in _candidates() if all((directory / p).exists() for p in _PROGRAMS)]
    if not found:
        raise BinariesMissing(
            f"the tests need a PostgreSQL server and found none (looked for {', '.join(_PROGRAMS)}): "
            f"install it (on Debian: apt-get install {DEBIAN_PACKAGE})"
        )
    return found[0]


def _candidates() -> list[Path]:
    """Debian's place first: elsewhere on the PATH there may be wrappers."""
    debian = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"),
        key=lambda path: [int(number) for number in re.findall(r"\d+", path.parent.name)],
        reverse=True,
    )
    candidates = list(debian)
    if config := shutil.which("pg_config"):
        told = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False, timeout=30)
        if told.returncode == 0:
            candidates.append(Path(told.stdout.strip()))
    if postgres := shutil.which("postgres"):
        candidates.append(Path(postgres).resolve().parent)
    return candidates


class PostgresTemplate:
    """A freshly initialized data directory with the role and database `app`; servers copy it."""

    def __init__(self) -> None:
        self.binaries = find_binaries()
        self.account = unprivileged_account(_ACCOUNT)
        self.directory = private_directory("postgres-template", self.account)
        self.path = self.directory / "pgdata"
        self._run(
            *("initdb", "--pgdata", str(self.path), "--username", ADMIN, "--encoding", "UTF8"),
            *("--locale", "C", "--no-sync", "--no-instructions", "--wal-segsize", "1"),
            *("--auth-local", "trust", "--auth-host", "scram-sha-256"),
        )
        self._run(
            *("postgres", "--single", "-D", str(self.path), "-c", "fsync=off", "postgres"),
            text=f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'\nCREATE DATABASE {DATABASE} OWNER {ROLE}\n",
        )

    def copy_to(self, target: Path) -> None:
        """Make a data directory of one's own."""
        self._run("/bin/cp", "-a", "--reflink=auto", str(self.path), str(target))

    def copy_of(self, primary: "PostgresServer", target: Path) -> None:
        """Make the data directory of a standby of a running server."""
        self._run(
            *("pg_basebackup", "--pgdata", str(target), "--write-recovery-conf", "--wal-method", "stream"),
            *("--checkpoint", "fast", "--no-sync", "--no-manifest"),
            *("--host", str(primary.directory), "--port", str(primary.port), "--username", ADMIN),
        )

    def close(self) -> None:
        """Remove it; the servers made from it stay."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _run(self, program: str, *arguments: str, text: str = "") -> None:
        done = subprocess.run(
            [str(self.binaries / program), *arguments],
            cwd=self.directory,
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
            **run_as(self.account),
        )
        # The single-user server goes on after a failed statement and ends with 0.
        if done.returncode != 0 or "ERROR:" in done.stdout:
            raise ServerFailed(f"{program} failed:\n{done.stdout}")


class PostgresServer(Server):
    """A PostgreSQL server on a free port.

    Args:
        template: where the data comes from.
        max_connections: how many connections the role `app` may open; the administrator's come on top,
            so that the server's own setting is greater by 3.
        settings: more of postgresql.conf.
        primary: makes it a hot standby of this server, whose data it copies; it is read-only until `promote`.
    """

    kind = "postgres"
    stop_signal = signal.SIGINT  # "fast": ends sessions, writes a checkpoint
    account = _ACCOUNT

    def __init__(
        self,
        template: PostgresTemplate,
        *,
        max_connections: int = 100,
        settings: Mapping[str, str | int] | None = None,
        primary: "PostgresServer | None" = None,
    ) -> None:
        super().__init__()
        self.user, self.password, self.database = ROLE, PASSWORD, DATABASE
        self._template = template
        self._primary = primary
        self._settings = {
            **_SETTINGS,
            "unix_socket_directories": str(self.directory),
            "max_connections": max_connections + _RESERVED,
            **(settings or {}),
        }

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.directory / "pgdata"

    def prepare(self) -> None:
        if self._primary is None:
            self._template.copy_to(self.data)
        else:
            self._template.copy_of(self._primary, self.data)
        (self.data / "pg_hba.conf").write_text(_ACCESS)

    def command(self) -> list[str]:
        options = [f"--{name}={value}" for name, value in self._settings.items()]
        return [
            str(self._template.binaries / "postgres"),
            "-D",
            str(self.data),
            "-p",
            str(self.port),
            *options,
        ]

    def is_ready(self) -> bool:
        """What the postmaster itself says in its pid file; a file left by a killed one names another pid."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def dsn(
        self, *, database: str | None = None, user: str | None = None, password: str | None = None
    ) -> str:
        """The URL under which a client finds it; by default as the role `app` in the database `app`."""
        user = quote(self.user if user is None else user, safe="")
        password = quote(self.password if password is None else password, safe="")
        database = quote(self.database if database is None else database, safe="")
        return f"postgresql://{user}:{password}@{self.host}:{self.port}/{database}"

    def execute(
        self, sql: str, *, database: str | None = None, timeout: float = 30.0
    ) -> list[tuple[str, ...]]:
        """Run statements as the administrator and return the rows, every value as text (NULL: empty).

        Raises:
            ServerFailed: if a statement fails; the message is the server's.
            subprocess.TimeoutExpired: if it takes longer than `timeout` seconds.
        """
        done = subprocess.run(
            [
                *(str(self._template.binaries / "psql"), "--no-psqlrc", "--quiet", "--no-align"),
                *("--tuples-only", f"--field-separator={_FIELD}", f"--record-separator={_RECORD}"),
                *("--set", "ON_ERROR_STOP=1", "--host", str(self.directory), "--port", str(self.port)),
                *("--username", ADMIN, "--dbname", database or self.database, "--file", "-"),
            ],
            input=sql,
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=timeout,
            env={**run_as(None)["env"], "PGCLIENTENCODING": "UTF8"},
        )
        if done.returncode != 0:
            raise ServerFailed(f"{sql!r} failed: {done.stderr.strip()}")
        records = done.stdout.removesuffix("\n").removesuffix(_RECORD)
        return [tuple(record.split(_FIELD)) for record in records.split(_RECORD)] if records else []

    def wait_for_standby(self) -> None:
        """From now on a commit is confirmed when a standby has it too."""
        self.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.execute("SELECT pg_reload_conf()")

    def promote(self) -> None:
        """Make a standby a primary; returns when it is one."""
        if self.execute("SELECT pg_promote(true, 30)") != [("t",)]:
            raise ServerFailed("it is not promoted after 30 s")

    def connections(self) -> list[Client]:
        """The client connections that are open now, but for the one that asks."""
        rows = self.execute(
            "SELECT pid, datname, usename, application_name, coalesce(state, ''), query FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY backend_start"
        )
        return [Client(int(pid), *rest) for pid, *rest in rows]
