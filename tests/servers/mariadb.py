"""Private MariaDB servers.

The system tables are made once, into a template which every server copies. Clients come over TCP, as the
account `app`, whose password is checked. The tests' own administration comes over a socket in the server's
private directory, for which the server keeps one connection beyond `max_connections`.
"""

import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pymysql
from pymysql.constants import CLIENT

from tests.servers.server import (
    BinariesMissing,
    Server,
    ServerFailed,
    private_directory,
    run_as,
    unprivileged_account,
)

USER = "app"
PASSWORD = "app-secret"
DATABASE = "app"
ADMIN = "root"
DEBIAN_PACKAGE = "mariadb-server"

_ACCOUNT = "mysql"
_PROGRAMS = ("mariadbd", "mariadb-install-db")

# Every confirmed commit survives `kill`: it has been written to the kernel, though not to the disk. What
# else stands here makes a server start in a quarter of a second.
_SETTINGS: Mapping[str, str | int] = {
    "bind-address": "127.0.0.1",
    "skip-name-resolve": "on",
    "performance-schema": "off",
    "innodb-flush-log-at-trx-commit": 2,
    "debug-no-sync": "on",
    "innodb-data-file-path": "ibdata1:8M:autoextend",
    "innodb-autoextend-increment": 1,
    "innodb-log-file-size": "4M",
    "innodb-buffer-pool-size": "8M",
    "innodb-buffer-pool-dump-at-shutdown": "off",
    "key-buffer-size": "1M",
    "aria-pagecache-buffer-size": "1M",
    "table-open-cache": 64,
}

_ACCESS = f"""\
CREATE DATABASE IF NOT EXISTS {DATABASE};
CREATE USER IF NOT EXISTS {USER}@127.0.0.1 IDENTIFIED BY '{PASSWORD}';
GRANT ALL ON {DATABASE}.* TO {USER}@127.0.0.1;
"""


@dataclass(frozen=True, slots=True)
class Visitor:
    """One client connection, as the process list shows it; its user may not be known yet."""

    id: int
    user: str
    database: str
    command: str
    statement: str


def find_binaries() -> Path:
    """The server's program.

    Raises:
        BinariesMissing: if it, or the one that makes its system tables, is not there.
    """
    return _programs()[0]


def _programs() -> list[Path]:
    found = [
        shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin") for name in _PROGRAMS
    ]
    if None in found:
        raise BinariesMissing(
            f"the tests need a MariaDB server and found none (looked for {', '.join(_PROGRAMS)}): "
            f"install it (on Debian: apt-get install {DEBIAN_PACKAGE})"
        )
    return [Path(path) for path in found if path]


class MariaDBTemplate:
    """A data directory with nothing but the system tables; servers copy it."""

    def __init__(self) -> None:
        self.server, installer = _programs()
        self.account = unprivileged_account(_ACCOUNT)
        self.directory = private_directory("mariadb-template", self.account)
        self.path = self.directory / "data"
        self._run(
            *(str(installer), "--no-defaults", f"--datadir={self.path}"),
            *("--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"),
            *(f"--{name}={value}" for name, value in _SETTINGS.items() if name.startswith("innodb")),
        )

    def copy_to(self, target: Path) -> None:
        """Make a data directory of one's own."""
        self._run("/bin/cp", "-a", "--reflink=auto", str(self.path), str(target))

    def close(self) -> None:
        """Remove it; the servers made from it stay."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            command,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
            **run_as(self.account),
        )
        if done.returncode != 0:
            raise ServerFailed(f"{command[0]} failed:\n{done.stdout}")


class MariaDBServer(Server):
    """A MariaDB server on a free port.

    Args:
        template: where the data comes from.
        max_connections: how many connections clients may open, 10 at least.
        settings: more options of the server, as its command line spells them.
    """

    kind = "mariadb"
    stop_signal = signal.SIGTERM
    account = _ACCOUNT

    def __init__(
        self,
        template: MariaDBTemplate,
        *,
        max_connections: int = 100,
        settings: Mapping[str, str | int] | None = None,
    ) -> None:
        super().__init__()
        self.user, self.password, self.database = USER, PASSWORD, DATABASE
        self._template = template
        self._settings = {**_SETTINGS, "max-connections": max_connections, **(settings or {})}

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.directory / "data"

    @property
    def socket(self) -> Path:
        """The Unix socket."""
        return self.directory / "server.sock"

    def prepare(self) -> None:
        self._template.copy_to(self.data)
        (self.directory / "access.sql").write_text(_ACCESS)

    def command(self) -> list[str]:
        return [
            str(self._template.server),
            "--no-defaults",
            f"--datadir={self.data}",
            # Or all servers of this machine would keep their temporary tables in one place.
            f"--tmpdir={self.directory}",
            f"--socket={self.socket}",
            f"--pid-file={self.directory / 'server.pid'}",
            f"--port={self.port}",
            f"--init-file={self.directory / 'access.sql'}",
            *(f"--{name}={value}" for name, value in self._settings.items()),
        ]

    def is_ready(self) -> bool:
        """Whether the administrator gets in; the socket is open before anybody answers there."""
        try:
            self._connect(1.0).close()
        except pymysql.MySQLError:
            return False
        return True

    def dsn(
        self, *, database: str | None = None, user: str | None = None, password: str | None = None
    ) -> str:
        """The URL under which a client finds it; by default as the account `app` in the database `app`."""
        user = quote(self.user if user is None else user, safe="")
        password = quote(self.password if password is None else password, safe="")
        database = quote(self.database if database is None else database, safe="")
        return f"mysql://{user}:{password}@{self.host}:{self.port}/{database}"

    def execute(
        self, sql: str, *, database: str | None = None, timeout: float = 30.0
    ) -> list[tuple[str, ...]]:
        """Run statements as the administrator; return the rows of the last, values as text (NULL: empty).

        Raises:
            ServerFailed: if a statement fails; the message is the server's.
        """
        try:
            with closing(self._connect(timeout, database)) as conn, conn.cursor() as cursor:
                cursor.execute(sql)
                rows = cursor.fetchall()
                while cursor.nextset():
                    rows = cursor.fetchall()
        except pymysql.MySQLError as error:
            raise ServerFailed(f"{sql!r} failed: {error}") from error
        return [tuple("" if value is None else str(value) for value in row) for row in rows]

    def connections(self) -> list[Visitor]:
        """The client connections that are open now, but for the administrator's."""
        rows = self.execute(
            "SELECT id, user, db, command, info FROM information_schema.processlist"
            f" WHERE user NOT IN ('{ADMIN}', 'system user') ORDER BY id"
        )
        return [Visitor(int(number), *rest) for number, *rest in rows]

    def _connect(self, timeout: float, database: str | None = None) -> Any:
        conn = pymysql.Connection(
            unix_socket=str(self.socket),
            user=ADMIN,
            database=database,
            charset="utf8mb4",
            autocommit=True,
            read_timeout=timeout,
            client_flag=CLIENT.MULTI_STATEMENTS,
            defer_connect=True,
        )
        wire = socket.socket(socket.AF_UNIX)
        try:
            # The library would leave its own socket open if nobody listens.
            wire.connect(str(self.socket))
            conn.connect(wire)
        except OSError as error:
            wire.close()
            raise pymysql.OperationalError(*error.args) from error
        except pymysql.MySQLError:
            wire.close()
            raise
        return conn
