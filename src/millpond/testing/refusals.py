"""What a simulated loop does not do: sockets, threads, processes, signals.

Each refusal says what to use instead.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from millpond.testing.failures import NotSimulated

_NETWORK: Final = "put a scripted backend in its place (millpond.testing.driver)"
_THREADS: Final = "threads cannot be replayed; call the function directly, or test on a real loop"
_PROCESSES: Final = "test what needs a process on a real loop"
_SIGNALS: Final = "signals cannot be replayed; call the handler with call_later"


def _refused(name: str, instead: str) -> Any:
    def refuse(self: object, *args: object, **options: object) -> Any:
        raise NotSimulated(name, instead)

    refuse.__name__ = name
    refuse.__qualname__ = f"SimulatedLoop.{name}"
    refuse.__doc__ = f"Raise `NotSimulated`: {instead}."
    return refuse


def _nothing_to_remove(self: object, *args: object) -> bool:
    """Return False: nothing was ever added."""
    return False


class NoRealWorld(asyncio.AbstractEventLoop):
    """The part of a loop that touches the world outside; all of it raises `NotSimulated`."""

    add_reader = _refused("add_reader", _NETWORK)
    add_writer = _refused("add_writer", _NETWORK)
    remove_reader: Any = _nothing_to_remove
    remove_writer: Any = _nothing_to_remove

    sock_recv = _refused("sock_recv", _NETWORK)
    sock_recv_into = _refused("sock_recv_into", _NETWORK)
    sock_recvfrom = _refused("sock_recvfrom", _NETWORK)
    sock_recvfrom_into = _refused("sock_recvfrom_into", _NETWORK)
    sock_sendall = _refused("sock_sendall", _NETWORK)
    sock_sendto = _refused("sock_sendto", _NETWORK)
    sock_connect = _refused("sock_connect", _NETWORK)
    sock_accept = _refused("sock_accept", _NETWORK)
    sock_sendfile = _refused("sock_sendfile", _NETWORK)

    sendfile = _refused("sendfile", _NETWORK)
    start_tls = _refused("start_tls", _NETWORK)
    create_connection = _refused("create_connection", _NETWORK)
    create_server = _refused("create_server", _NETWORK)
    create_unix_connection = _refused("create_unix_connection", _NETWORK)
    create_unix_server = _refused("create_unix_server", _NETWORK)
    create_datagram_endpoint = _refused("create_datagram_endpoint", _NETWORK)
    connect_accepted_socket = _refused("connect_accepted_socket", _NETWORK)
    getaddrinfo = _refused("getaddrinfo", _NETWORK)
    getnameinfo = _refused("getnameinfo", _NETWORK)
    connect_read_pipe = _refused("connect_read_pipe", _NETWORK)
    connect_write_pipe = _refused("connect_write_pipe", _NETWORK)

    run_in_executor = _refused("run_in_executor", _THREADS)
    set_default_executor = _refused("set_default_executor", _THREADS)

    subprocess_exec = _refused("subprocess_exec", _PROCESSES)
    subprocess_shell = _refused("subprocess_shell", _PROCESSES)

    add_signal_handler = _refused("add_signal_handler", _SIGNALS)
    remove_signal_handler: Any = _nothing_to_remove
