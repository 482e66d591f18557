"""`millpond serve`: the gateway on a socket, from the first check to the last answer."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from millpond.cli import NOT_THERE, OK, TO_BE_CHANGED, words
from millpond.cli.checking import check_all
from millpond.cli.files import Loaded, load
from millpond.cli.server import Server
from millpond.errors import masked
from millpond.gateway.service import create_app

if TYPE_CHECKING:
    from pathlib import Path

    from millpond.registry import ConnectionPoolRegistry
    from millpond.registry.reloader import Reloader

_CHECK_TIMEOUT: Final = 5.0
"""Seconds that each connection has to answer before the service starts without it."""
_CLOSE_SHARE: Final = 0.25
"""Of the shutdown timeout: what is kept for closing the pools."""
_log = logging.getLogger("millpond.serve")


@dataclass(frozen=True, slots=True)
class Serving:
    """Where to serve, and how to end.

    Attributes:
        host: the address to listen on.
        port: 0: any that is free.
        shutdown_timeout: seconds from the signal to the end of the process, at most.
    """

    host: str
    port: int
    shutdown_timeout: float


async def serve_files(connections: Path, webhooks: Path | None, serving: Serving) -> int:
    """Serve until a signal says to stop; return the exit status.

    Raises:
        ConfigError: a file cannot be used.
        MissingExtra: a client library is not installed.
    """
    loaded = load(connections, webhooks)
    try:
        listener = _bound(serving)
    except OSError as error:
        await loaded.registry.close(0)
        return _cannot_listen(serving, error)
    with listener:
        return await _serve(loaded, connections, listener, serving)


async def _serve(loaded: Loaded, connections: Path, listener: socket.socket, serving: Serving) -> int:
    closing = serving.shutdown_timeout * _CLOSE_SHARE
    app = create_app(loaded.registry, loaded.hooks, close_timeout=closing, webhooks=loaded.webhooks)
    reloader: Reloader = app.state.reloader
    reloader.debounce = loaded.debounce
    reloader.note_files()
    # From now on: before the service is ready, and while it ends, the signal would end the process.
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, reloader.reload_soon, "signal")
    server = Server(
        app,
        timeout=serving.shutdown_timeout - closing,
        on_started=lambda: words.say(*_welcome(loaded, listener)),
    )
    try:
        with _stopped_by_signals(server):
            if not await _ready(loaded.registry, connections):
                return TO_BE_CHANGED
            if not server.should_exit:
                if loaded.watching:
                    reloader.watch()
                await server.serve(sockets=[listener])
    except OSError as error:
        # Somebody else began to listen on the same address between `bind` and now.
        return _cannot_listen(serving, error)
    finally:
        await reloader.stop()
        # The application has closed it, unless there was none.
        await loaded.registry.close(closing)
        loop.remove_signal_handler(signal.SIGHUP)
    _log.info("ended; all pools are closed")
    return OK


async def _ready(registry: ConnectionPoolRegistry, connections: Path) -> bool:
    """Ask every backend once and open the pools; False if something must be changed first, which is said.

    A pool whose backend is not there is opened too: it tries by itself until
    there is one, and its health shows that.
    """
    results = await check_all(registry, timeout=_CHECK_TIMEOUT)
    if any(each.is_permanent for each in results):
        words.complain(*(f"{connections}: {each.fault}" for each in results if each.is_permanent))
        return False
    for each in results:
        if each.fault is not None:
            _log.warning("%s: %s; serving without it until it is back", connections, each.fault)
    # With `eager_init` a pool waits for its backend here, and gives up; what is missing has been said.
    await asyncio.gather(
        *(registry.get_pool(name).initialize(_CHECK_TIMEOUT) for name in registry.names),
        return_exceptions=True,
    )
    return True


@contextmanager
def _stopped_by_signals(server: Server) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        _log.info("%s: finishing what is under way", number.name)
        server.stop()

    signals = (signal.SIGTERM, signal.SIGINT)
    for each in signals:
        loop.add_signal_handler(each, stop, each)
    try:
        yield
    finally:
        for each in signals:
            loop.remove_signal_handler(each)


def _bound(serving: Serving) -> socket.socket:
    """A socket with the address taken, but not listening yet: nobody is let in before all is ready."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        serving.host, serving.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _cannot_listen(serving: Serving, error: OSError) -> int:
    # A name that cannot be resolved has a negative number, which strerror does not know.
    why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror)
    words.complain(f"cannot listen on {masked(serving.host)} port {serving.port}: {why.lower()}")
    return NOT_THERE


def _welcome(loaded: Loaded, listener: socket.socket) -> list[str]:
    """What to show once the socket listens: the addresses, and a line to try."""
    host, port = listener.getsockname()[:2]
    base = f"http://{_reachable(host)}:{port}"
    rows = [
        (
            "POST",
            f"{base}{hook.path}",
            f"-> {', '.join(module.connection or 'log' for module in hook.modules)}",
        )
        for hook in loaded.hooks.values()
    ]
    rows += [
        ("GET", f"{base}/health", "from memory"),
        ("GET", f"{base}/health/db", "asks every backend"),
        ("GET", f"{base}/admin/status", "needs CONFIG_RELOAD_ADMIN_TOKEN"),
    ]
    lines = [f"millpond {version('millpond')} serves on {base}", ""]
    lines += [f"  {line}" for line in words.aligned(rows)]
    for hook in list(loaded.hooks.values())[:1]:
        body = json.dumps({"hello": "millpond"})
        header = "-H 'Content-Type: application/json'"
        lines += ["", "Try it:", "", f"  curl -i {base}{hook.path} {header} -d '{body}'", ""]
    return lines


def _reachable(host: str) -> str:
    """An address that a client on this machine can use, as a URL spells it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"[{host}]" if ":" in host else host
