"""Private Redis servers.

Clients come over TCP or a Unix socket as the user `app`, or with the password of the user `default`, so that
a wrong password is wrong. The tests' own administration comes over the Unix socket as a user of its own.
"""

import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.servers.server import BinariesMissing, Server, ServerFailed

USER = "app"
PASSWORD = "app-secret"
DEFAULT_PASSWORD = "default-secret"
ADMIN = "admin"
DEBIAN_PACKAGE = "redis-server"

_ACCOUNT = "redis"
_PROGRAM = "redis-server"

# Every confirmed write survives `kill`: it is with the kernel before the answer is. Only a crash of the
# machine would lose it, and no test does that; hence no fsync.
_SETTINGS: Mapping[str, str | int] = {
    "bind": "127.0.0.1",
    "save": "",
    "appendonly": "yes",
    "appendfsync": "no",
    "databases": 16,
    "daemonize": "no",
    "repl-diskless-sync-delay": 0,
}


@dataclass(frozen=True, slots=True)
class RedisClient:
    """One client connection, as CLIENT LIST shows it."""

    id: int
    name: str
    user: str
    database: int
    flags: str
    command: str


def find_binaries() -> Path:
    """The Redis server's program.

    Raises:
        BinariesMissing: if there is none.
    """
    found = shutil.which(_PROGRAM, path="/usr/bin:/usr/local/bin:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise BinariesMissing(
            f"the tests need a Redis server and found none (looked for {_PROGRAM}): "
            f"install it (on Debian: apt-get install {DEBIAN_PACKAGE})"
        )
    return Path(found)


class RedisServer(Server):
    """A Redis server on a free port.

    Args:
        max_connections: how many connections clients may open; the administrator's come on top.
        settings: more of redis.conf.
        unknown: commands that it does not know.
    """

    kind = "redis"
    account = _ACCOUNT

    def __init__(
        self,
        *,
        max_connections: int = 100,
        settings: Mapping[str, str | int] | None = None,
        unknown: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.user, self.password = USER, PASSWORD
        self.default_password = DEFAULT_PASSWORD
        self._unknown = unknown
        self._program = find_binaries()
        self._settings = {
            **_SETTINGS,
            "maxclients": max_connections + 1,
            "port": self.port,
            "unixsocket": str(self.socket),
            "unixsocketperm": "777",
            "dir": str(self.directory),
            **(settings or {}),
        }

    @property
    def socket(self) -> Path:
        """The Unix socket."""
        return self.directory / "server.sock"

    @property
    def configuration(self) -> Path:
        """The file of settings; whoever changes it restarts the server."""
        return self.directory / "redis.conf"

    def prepare(self) -> None:
        everything = "~* &* +@all"
        lines = [
            *(f'{name} "{value}"' for name, value in self._settings.items()),
            *(f'rename-command {name} ""' for name in self._unknown),
            f"user default on >{DEFAULT_PASSWORD} {everything}",
            f"user {USER} on >{PASSWORD} {everything}",
            f"user {ADMIN} on nopass {everything}",
        ]
        self.configuration.write_text("\n".join(lines) + "\n")
        shutil.copystat(self.directory, self.configuration)
        shutil.chown(self.configuration, self.directory.owner(), self.directory.group())

    def command(self) -> list[str]:
        return [str(self._program), str(self.configuration)]

    def is_ready(self) -> bool:
        """Whether the administrator gets an answer, and the data is loaded."""
        try:
            with self._connect(1.0) as client:
                client.ping()
        except redis.RedisError:
            return False
        return True

    def dsn(self, *, database: int = 0, user: str | None = None, password: str | None = None) -> str:
        """The URL under which a client finds it; by default as the user `app` in database 0."""
        user = quote(self.user if user is None else user, safe="")
        password = quote(self.password if password is None else password, safe="")
        return f"redis://{user}:{password}@{self.host}:{self.port}/{database}"

    def execute(self, *command: str | int, database: int = 0, timeout: float = 30.0) -> Any:
        """Run a command as the administrator and return its answer, texts as texts.

        Raises:
            ServerFailed: if it fails; the message is the server's.
        """
        try:
            with self._connect(timeout, database) as client:
                return client.execute_command(*command)
        except redis.RedisError as error:
            raise ServerFailed(f"{command!r} failed: {error}") from error

    def connections(self) -> list[RedisClient]:
        """The client connections that are open now, but for the administrator's and replicas'."""
        found = [RedisClient(
            id=int(each["id"]), name=each["name"], user=each.get("user", ""), database=int(each["db"]),
            flags=each["flags"], command=each["cmd"],
        ) for each in self.execute("CLIENT LIST")]  # fmt: skip
        return [each for each in found if each.user != ADMIN and not set(each.flags) & set("SM")]

    def set_before_start(self, name: str, value: str | int) -> None:
        """Change a setting of a server that does not run."""
        with self.configuration.open("a") as configuration:
            configuration.write(f'{name} "{value}"\n')

    def demote(self, primary: "RedisServer | None" = None) -> None:
        """Make it a replica of `primary`, or of nobody who answers; returns when it says so."""
        where = (self.host, 1) if primary is None else (primary.host, primary.port)
        self.execute("REPLICAOF", *where)

    def promote(self) -> None:
        """Make it a primary again."""
        self.execute("REPLICAOF", "NO", "ONE")

    def _connect(self, timeout: float, database: int = 0) -> Any:
        return redis.Redis(
            unix_socket_path=str(self.socket),
            username=ADMIN,
            password="any",
            db=database,
            socket_timeout=timeout,
            decode_responses=True,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            single_connection_client=True,
        )
