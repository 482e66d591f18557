"""Look for the servers which the tests need, and install from Debian's packages what is missing.

Exit status 0: all there. 1: something is missing and could not be installed; the message says what.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tests.servers import mariadb, pgbouncer, postgres, rabbitmq, redis
from tests.servers.server import BinariesMissing

NEEDED: Final[Mapping[str, tuple[Callable[[], Path], str]]] = {
    "MariaDB": (mariadb.find_binaries, mariadb.DEBIAN_PACKAGE),
    "PgBouncer": (pgbouncer.find_binaries, pgbouncer.DEBIAN_PACKAGE),
    "PostgreSQL": (postgres.find_binaries, postgres.DEBIAN_PACKAGE),
    "RabbitMQ": (rabbitmq.find_binaries, rabbitmq.DEBIAN_PACKAGE),
    "Redis": (redis.find_binaries, redis.DEBIAN_PACKAGE),
}


def missing() -> dict[str, str]:
    """What is not installed: the Debian package, and the message about it."""
    found: dict[str, str] = {}
    for name, (find, package) in NEEDED.items():
        try:
            print(f"{name}: {find()}")
        except BinariesMissing as error:
            found[package] = str(error)
    return found


def install(packages: list[str]) -> None:
    """Install Debian packages without asking anything.

    Raises:
        subprocess.CalledProcessError: if apt-get fails.
    """
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-q"], env=environment, check=True)
    subprocess.run(
        ["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages], env=environment, check=True
    )


def main() -> int:
    """Find, install if we may, and find again."""
    lacking = missing()
    if lacking and os.geteuid() == 0 and shutil.which("apt-get"):
        try:
            install(list(lacking))
        except subprocess.CalledProcessError as error:
            print(f"{' '.join(error.cmd)} ended with {error.returncode}", file=sys.stderr)
        lacking = missing()
    for message in lacking.values():
        print(message, file=sys.stderr)
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
