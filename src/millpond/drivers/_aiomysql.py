"""MySQL connections on aiomysql."""

from __future__ import annotations

from typing import Any, ClassVar

from millpond.drivers._mysql_session import QUIT, Session
from millpond.errors import MissingExtra

try:
    import aiomysql
    from pymysql.constants import CLIENT
    from pymysql.err import Error
    from pymysql.protocol import MysqlPacket
except ModuleNotFoundError as missing:
    raise MissingExtra("aiomysql", needed_for="MySQLDriver", module="aiomysql") from missing

# It has no types.
_Connection: Any = aiomysql.Connection


class AiomysqlConnection(Session, _Connection):  # type: ignore[misc] # see above
    """An aiomysql connection that knows in what state its session is."""

    library: ClassVar[str] = "aiomysql"
    client_state: ClassVar[tuple[str, ...]] = ("decoders", "encoders", "cursorclass", "use_unicode")

    @classmethod
    def unopened(
        cls, *, path: str | None, database: str | None, password: bytes, **options: Any
    ) -> AiomysqlConnection:
        """One that has not connected yet; `path` is a Unix socket's."""
        # The library encodes it as Latin-1, and has no other way to take bytes.
        conn = cls(
            unix_socket=path, db=database, password=password.decode("latin1"), autocommit=None, **options
        )
        # The library's are one mapping for the whole process.
        conn.decoders, conn.encoders = dict(conn.decoders), dict(conn.encoders)
        return conn

    async def open(self) -> None:
        """Connect and log in."""
        await self._connect()

    @property
    def transport(self) -> Any:
        """What the bytes go through; None when there is nothing any more."""
        return None if self._writer is None else self._writer.transport

    @property
    def is_lost(self) -> bool:
        """This side has heard that the connection is gone; `closed` does not say so before it is used."""
        if self._writer is None:
            return True
        reader = self._reader
        return bool(
            reader.eof_received or reader.exception() is not None or self._writer.transport.is_closing()
        )

    @property
    def _is_being_read(self) -> bool:
        return bool(self._reader is not None and self._reader._waiter is not None)

    @property
    def _has_unread_bytes(self) -> bool:
        return self._reader is not None and bool(self._reader._buffer)

    def close(self) -> None:
        """Close without a word, at once: what was not sent yet could wait for a dead peer for ever."""
        try:
            if self.transport is not None:
                self.transport.abort()
        finally:
            super().close()

    async def ensure_closed(self) -> None:
        """Say goodbye, and wait until the server has hung up."""
        writer, reader = self._writer, self._reader
        if writer is None:
            return
        try:
            writer.write(QUIT)
            while await reader.read(4096):
                pass
        except OSError:
            pass  # it has hung up already
        finally:
            self.close()

    async def _read_packet(self, packet_type: Any = MysqlPacket) -> Any:
        try:
            return await super()._read_packet(packet_type)
        except Error as error:
            self._note_error(error)
            raise

    async def _read_bytes(self, num_bytes: int) -> bytes:
        try:
            read: bytes = await super()._read_bytes(num_bytes)
        except BaseException:
            # The library sees to a cancellation; a coroutine that is thrown away ends in the middle as well.
            self.close()
            raise
        return read

    @property
    def _plugin_offered(self) -> str:
        return str(self._server_auth_plugin)

    def _go_on_without_tls(self) -> None:
        self._ssl_context = None
        self.client_flag &= ~CLIENT.SSL
