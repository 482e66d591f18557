"""A private PgBouncer in front of a private PostgreSQL, in transaction mode.

Clients come as the role `app`, whose password it knows; a session of the server serves one transaction and
then somebody else's.
"""

import shutil
from pathlib import Path

from tests.servers import ports
from tests.servers.postgres import PostgresServer
from tests.servers.server import BinariesMissing, Server

DEBIAN_PACKAGE = "pgbouncer"

_PROGRAM = "pgbouncer"


def find_binaries() -> Path:
    """PgBouncer's program.

    Raises:
        BinariesMissing: if there is none.
    """
    found = shutil.which(_PROGRAM, path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if found is None:
        raise BinariesMissing(
            f"the tests need PgBouncer and found none (looked for {_PROGRAM}): "
            f"install it (on Debian: apt-get install {DEBIAN_PACKAGE})"
        )
    return Path(found)


class PgBouncer(Server):
    """PgBouncer on a free port.

    Args:
        postgres: the server behind it; it has to be there before this one starts.
        sessions: how many sessions it opens there at most, for each database.
    """

    kind = "pgbouncer"
    account = "postgres"

    def __init__(self, postgres: PostgresServer, *, sessions: int = 2) -> None:
        super().__init__()
        self._program = find_binaries()
        self.postgres, self.sessions = postgres, sessions
        self.user, self.password = postgres.user, postgres.password

    def prepare(self) -> None:
        files = {
            "users.txt": f'"{self.user}" "{self.password}"\n',
            "pgbouncer.ini": (
                f"[databases]\n* = host={self.postgres.host} port={self.postgres.port}\n"
                "[pgbouncer]\npool_mode = transaction\nauth_type = scram-sha-256\n"
                f"auth_file = {self.directory / 'users.txt'}\n"
                f"listen_addr = {self.host}\nlisten_port = {self.port}\nunix_socket_dir =\n"
                f"default_pool_size = {self.sessions}\nmax_client_conn = 200\nserver_login_retry = 0.1\n"
            ),
        }
        for name, text in files.items():
            path = self.directory / name
            path.write_text(text)
            shutil.chown(path, self.directory.owner(), self.directory.group())

    def command(self) -> list[str]:
        return [str(self._program), str(self.directory / "pgbouncer.ini")]

    def is_ready(self) -> bool:
        """Whether somebody listens."""
        return ports.answers(self.port)
