"""Free ports for private servers."""

import random
import socket
from pathlib import Path

HOST = "127.0.0.1"

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 15_000
_handed_out: set[int] = set()


def free_port() -> int:
    """A loopback port that nobody listens on and that this process has not handed out before.

    It lies below the range from which the kernel numbers outgoing connections. A port inside that
    range could be taken by a client while its server is down, and a client which keeps knocking on a
    closed port of that range sooner or later connects to itself.
    """
    first_ephemeral = int(_EPHEMERAL.read_text().split()[0]) if _EPHEMERAL.exists() else 32_768
    highest = max(first_ephemeral, _LOWEST + 1_000)
    draw = random.SystemRandom()  # test runs side by side must not draw the same ports from one seed
    for _ in range(1_000):
        port = draw.randrange(_LOWEST, highest)
        if port not in _handed_out and is_free(port):
            _handed_out.add(port)
            return port
    raise RuntimeError(f"no free port between {_LOWEST} and {highest} on {HOST}")


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT is no owner
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def answers(port: int) -> bool:
    """Whether something accepts connections on this loopback port now."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0
