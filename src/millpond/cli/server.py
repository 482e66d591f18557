"""A uvicorn server that ends without losing a request.

On SIGTERM or SIGINT it stops listening, after it has taken in whoever was in
the queue already. Connections that stay open get `Connection: close` with
their next answer, and a moment in which to send that request: to close an idle
one at once would be to cut off a request that is on its way. Then it waits for
what is under way, as long as it may, and closes the application.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, cast

import uvicorn
from starlette.datastructures import MutableHeaders

from millpond.web.problems import unavailable

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LINGER: Final = 1.0
"""Seconds that an idle connection has to send one more request once the end has begun."""
_POLL: Final = 0.02


class Ending:
    """ASGI middleware that, once `has_begun`, tells clients with each answer not to use the connection again.

    A request that has to be cut off at the very end is answered with 503.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.has_begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_and_close(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if self.has_begun:
                    MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        try:
            await self._app(scope, receive, send_and_close)
        except asyncio.CancelledError:
            if started or not self.has_begun:
                raise
            await unavailable()(scope, receive, send_and_close)


class Server(uvicorn.Server):
    """This serves `app` on one socket until it is told to stop.

    Args:
        app: the application.
        timeout: seconds that requests under way have at the end.
        on_started: called once the socket listens.
    """

    def __init__(self, app: ASGIApp, *, timeout: float, on_started: Callable[[], None]) -> None:
        self._ending = Ending(app)
        self._on_started = on_started
        self._is_hurried = False
        super().__init__(
            uvicorn.Config(
                self._ending,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                lifespan="on",
                ws="none",
                timeout_graceful_shutdown=round(timeout),
            )
        )

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Nothing: whoever watches the signals calls `stop`, and decides how the process ends."""
        yield

    def stop(self) -> None:
        """Begin the end; a second call cuts off what is still under way."""
        if self.should_exit:
            self._is_hurried = True
            for task in self.server_state.tasks:
                task.cancel()
        self.should_exit = self._ending.has_begun = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the application and listen."""
        await super().startup(sockets)
        if self.started:
            self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End as the module's text says."""
        for listener in sockets or ():
            await self._take_in_the_last(listener)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _LINGER
        while self.server_state.connections and not self._is_hurried and loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_POLL)
        await super().shutdown(sockets)

    async def _take_in_the_last(self, listener: socket.socket) -> None:
        """Accept whoever is in the queue, and close at once: nothing may happen in between.

        A connection that the kernel has queued is established for its client,
        who may have sent a request already; closing the listener would reset it.
        """
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        # What the loop has accepted becomes a connection in its next turn, if the server is still open.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        late: list[socket.socket] = []
        with suppress(OSError):  # BlockingIOError: the queue is empty
            while True:
                late.append(listener.accept()[0])
        for server in self.servers:
            server.close()
        for connection in late:
            connection.setblocking(False)
            with suppress(OSError):  # gone meanwhile
                await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        """One more connection, as uvicorn makes them for its own listeners."""
        make = cast("Callable[..., asyncio.Protocol]", self.config.http_protocol_class)
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
