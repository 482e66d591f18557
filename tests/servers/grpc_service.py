"""A gRPC server as a program of its own, so that tests can kill and freeze it.

`/test.Echo/Say` gives back its request after as many milliseconds as its first word says.
`/test.Echo/Peak` says how many calls of `Say` were under way at most, and begins to count anew.
`/test.Echo/Health` sets what the health service answers, or takes the health service away.
"""

import argparse
import asyncio
import contextlib
from pathlib import Path
from typing import Any

import grpc
from grpc import aio


class Service(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Methods on bare bytes: no generated code."""

    def __init__(self) -> None:
        self.health: str = "1"
        self.under_way = self.peak = 0

    def service(self, details: Any) -> Any:
        """The handler of a method, or None."""
        method = {
            "/test.Echo/Say": self.say,
            "/test.Echo/Peak": self.count,
            "/test.Echo/Health": self.set_health,
            "/grpc.health.v1.Health/Check": None if self.health == "none" else self.check,
        }.get(details.method)
        return None if method is None else grpc.unary_unary_rpc_method_handler(method)

    async def say(self, request: bytes, _context: Any) -> bytes:
        """Give it back, later."""
        self.under_way += 1
        self.peak = max(self.peak, self.under_way)
        try:
            await asyncio.sleep(int(request.split()[0]) / 1000)
        finally:
            self.under_way -= 1
        return request

    async def count(self, _request: bytes, _context: Any) -> bytes:
        """The most calls at once since the last question."""
        peak, self.peak = self.peak, self.under_way
        return str(peak).encode()

    async def set_health(self, request: bytes, _context: Any) -> bytes:
        """A status by its number, `none`, or a name of grpc.StatusCode."""
        self.health = request.decode()
        return b""

    async def check(self, request: bytes, context: Any) -> bytes:
        """The health service; it knows the server as a whole and the service `known`."""
        if request not in (b"", b"\x0a\x05known"):
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        if not self.health.isdigit():
            await context.abort(grpc.StatusCode[self.health], "as the test wants it")
        return b"\x08" + bytes([int(self.health)])


async def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--streams", type=int)
    parser.add_argument("--calls", type=int, help="how many are served at once; more are refused")
    parser.add_argument("--tls", type=Path, help="directory with server.pem, which holds key and chain")
    chosen = parser.parse_args()
    limits = [("grpc.max_concurrent_streams", chosen.streams)] if chosen.streams else []
    server = aio.server(options=[("grpc.so_reuseport", 0), *limits], maximum_concurrent_rpcs=chosen.calls)
    server.add_generic_rpc_handlers((Service(),))
    address = f"127.0.0.1:{chosen.port}"
    if chosen.tls is None:
        server.add_insecure_port(address)
    else:
        pem = (chosen.tls / "server.pem").read_bytes()
        server.add_secure_port(address, grpc.ssl_server_credentials([(pem, pem)]))
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
