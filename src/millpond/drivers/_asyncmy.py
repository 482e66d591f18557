"""MySQL connections on asyncmy."""

from __future__ import annotations

from typing import Any, ClassVar

from millpond.drivers._mysql_session import QUIT, Session
from millpond.errors import MissingExtra

try:
    from asyncmy import connection, errors
    from asyncmy.constants import CLIENT
    from asyncmy.protocol import MysqlPacket
except ModuleNotFoundError as missing:
    raise MissingExtra("mysql", needed_for="MySQLDriver", module="asyncmy") from missing

# Its types leave out what a subclass needs.
_Connection: Any = connection.Connection


class AsyncmyConnection(Session, _Connection):  # type: ignore[misc] # see above
    """An asyncmy connection that knows in what state its session is."""

    library: ClassVar[str] = "asyncmy"
    client_state: ClassVar[tuple[str, ...]] = ("_decoders", "_encoders", "_cursor_cls")

    @classmethod
    def unopened(cls, *, path: str | None, database: str | None, **options: Any) -> AsyncmyConnection:
        """One that has not connected yet; `path` is a Unix socket's."""
        conn = cls(unix_socket=path, database=database, autocommit=None, **options)
        conn._connect_timeout = None  # the pool sets the limit, and wait_for() may swallow a cancellation
        return conn

    async def open(self) -> None:
        """Connect and log in."""
        await self.connect()
        self.tells_status = self._deprecate_eof

    @property
    def transport(self) -> Any:
        """What the bytes go through; None when there is nothing any more."""
        return self._transport

    @property
    def is_lost(self) -> bool:
        """This side has heard that the connection is gone; `connected` does not say so before it is used."""
        return bool(not self._connected or self._stream_broken)

    @property
    def _is_being_read(self) -> bool:
        proto = self._proto
        return proto is not None and proto._read_waiter is not None

    @property
    def _has_unread_bytes(self) -> bool:
        proto = self._proto
        return proto is not None and bool(proto.length > proto.pos)

    def close(self) -> None:
        """Close without a word, at once: what was not sent yet could wait for a dead peer for ever."""
        try:
            if self.transport is not None:
                self.transport.abort()
        finally:
            super().close()

    async def ensure_closed(self) -> None:
        """Say goodbye, and wait until the server has hung up."""
        if self.is_lost:
            self.close()
            return
        try:
            self._write_bytes(QUIT)
            await self._proto.wait_closed()
        except errors.OperationalError:
            pass  # it has hung up already
        finally:
            self.close()

    async def read_packet(self, packet_type: Any = MysqlPacket) -> Any:
        """As the library's."""
        try:
            return await super().read_packet(packet_type)
        except errors.Error as error:
            self._note_error(error)
            raise

    async def _fill_buffer(self, need: int) -> None:
        try:
            await super()._fill_buffer(need)
        except BaseException:
            # The library sees to a cancellation; a coroutine that is thrown away ends in the middle as well.
            self.close()
            raise

    async def prepare(self, query: str | bytes) -> Any:
        """As the library's."""
        statement = await super().prepare(query)
        self._is_asking = False
        return statement

    def _forget_statements(self) -> None:
        self._stmt_cache.clear()

    @property
    def _plugin_offered(self) -> str:
        return str(self._auth_plugin_name)

    def _go_on_without_tls(self) -> None:
        self._ssl_context = None
        self._client_flag &= ~CLIENT.SSL
