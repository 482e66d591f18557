"""A gRPC server of the tests' own, in a process of its own."""

import socket
import sys
from pathlib import Path

from tests.servers.server import Server

_OPEN = (True, "01")  # on our port, and established


class GrpcServer(Server):
    """`grpc_service.py` on a free port.

    Args:
        streams: most calls at once on one connection; None: no limit.
        calls: most calls at once altogether, what is more is refused; None: no limit.
        tls: directory of `server.pem`; None: plain text.
    """

    kind = "grpc"

    def __init__(
        self, *, streams: int | None = None, calls: int | None = None, tls: Path | None = None
    ) -> None:
        super().__init__()
        self.streams, self.calls, self.tls = streams, calls, tls

    def prepare(self) -> None:
        """It needs no files."""

    def command(self) -> list[str]:
        """This interpreter, which has the library."""
        program = str(Path(__file__).with_name("grpc_service.py"))
        options = [] if self.streams is None else ["--streams", str(self.streams)]
        options += [] if self.calls is None else ["--calls", str(self.calls)]
        options += [] if self.tls is None else ["--tls", str(self.tls)]
        return [sys.executable, program, str(self.port), *options]

    def is_ready(self) -> bool:
        """Whether somebody listens."""
        try:
            socket.create_connection((self.host, self.port), timeout=0.5).close()
        except OSError:
            return False
        return True

    def connections(self) -> int:
        """How many clients are connected, as the kernel knows it."""
        # gRPC listens on one socket for both families: the kernel then files IPv4 under IPv6.
        mine = {f"{address}:{self.port:04X}" for address in ("0100007F", "0000000000000000FFFF00000100007F")}
        lines = "".join(Path("/proc/net", name).read_text() for name in ("tcp", "tcp6")).splitlines()
        return sum(1 for _, local, _, state, *_ in map(str.split, lines) if (local in mine, state) == _OPEN)
