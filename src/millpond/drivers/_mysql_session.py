"""What a MySQL session is to its next borrower: who is reading from it, and what the server last said of it.

Both client libraries forget some of what the server tells them, and let a second task write into a
conversation. `Session` goes between a library's connection class and its users; it knows neither library.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final

from millpond.drivers._mysql_errors import NO_PLUGIN, NO_TLS, code_of, is_servers

_IN_TRANSACTION: Final = 0x0001
_AUTOCOMMIT: Final = 0x0002
_TLS: Final = 0x0800  # CLIENT_SSL, of the server's capabilities

QUIT: Final = b"\x01\0\0\0\x01"
"""A whole packet that says goodbye: COM_QUIT."""

_COM_RESET_CONNECTION: Final = 0x1F
# The server answers these with nothing: COM_QUIT, COM_STMT_SEND_LONG_DATA, COM_STMT_CLOSE.
_UNANSWERED: Final = frozenset({0x01, 0x18, 0x19})
# With these a server asks for the password as it is.
_OPEN_PLUGINS: Final = frozenset({"mysql_clear_password", "dialog"})

if TYPE_CHECKING:

    class _Client:
        """What the two libraries have in common, as far as it is used here."""

        Error: ClassVar[type[Exception]]
        InterfaceError: ClassVar[type[Exception]]
        OperationalError: ClassVar[type[Exception]]
        server_status: int
        server_capabilities: int
        server_version: str
        _result: Any
        _charset: str
        _encoding: str
        _password: str | bytes
        _secure: bool
        _ssl_context: Any
        _unix_socket: str | None

        async def _execute_command(self, command: int, sql: str | bytes) -> None: ...
        async def _read_query_result(self, unbuffered: bool = False) -> None: ...
        async def _read_ok_packet(self) -> Any: ...
        async def _get_server_information(self) -> None: ...
        async def _process_auth(self, plugin_name: bytes, auth_packet: Any) -> Any: ...
        async def query(self, sql: str, unbuffered: bool = False) -> int: ...
        async def next_result(self) -> int: ...
        async def rollback(self) -> None: ...
        async def commit(self) -> None: ...
        def cursor(self) -> Any: ...
        async def ping(self, reconnect: bool = ...) -> None: ...
        async def ensure_closed(self) -> None: ...
        async def set_charset(self, charset: str) -> None: ...
        async def show_warnings(self) -> Any: ...
        def get_autocommit(self) -> bool: ...
        def close(self) -> None: ...

else:
    _Client = object


class Session(_Client):
    """A library's connection that knows in what state it is, and does not let two tasks talk at once."""

    library: ClassVar[str]
    client_state: ClassVar[tuple[str, ...]]  # attributes that say how the client reads and writes
    tells_status = False  # the end of a result set says how the transaction stands
    insists_on_tls = False
    role: str | None = None  # what SET ROLE takes to come back to the role of the login; None: there is none

    # A command was sent, and the end of its answer has not been read.
    _is_asking = False
    _fresh: Mapping[str, Any] = MappingProxyType({})
    # An error was the last answer: a procedure may have failed in a transaction that it began.
    _is_in_doubt = False

    @property
    def transport(self) -> Any:
        """What the bytes go through; None when there is nothing any more."""
        raise NotImplementedError

    async def open(self) -> None:
        """Connect and log in."""
        raise NotImplementedError

    @property
    def is_lost(self) -> bool:
        """This side has heard that the connection is gone."""
        raise NotImplementedError

    @property
    def _is_being_read(self) -> bool:
        raise NotImplementedError

    @property
    def _has_unread_bytes(self) -> bool:
        raise NotImplementedError

    @property
    def _has_more(self) -> bool:
        """Rows or further results of the last statement are still to be fetched."""
        result = self._result
        return result is not None and bool(result.unbuffered_active or result.has_next)

    @property
    def is_unfinished(self) -> bool:
        """There is something to read that nobody has read: the next question would get its answer."""
        result = self._result
        if result is None:
            if self._is_asking:
                return True
        elif result.unbuffered_active or result.has_next:
            return True
        return self._is_being_read or self._has_unread_bytes

    @property
    def is_in_transaction(self) -> bool:
        """The server's last word on it; None of what it says is lost, see `_note`."""
        return bool(self.server_status & _IN_TRANSACTION)

    @property
    def is_in_doubt(self) -> bool:
        """The last answer did not say whether there is a transaction."""
        return self._is_in_doubt

    def remember(self) -> None:
        """Take the client's side as it is for the one to come back to."""
        self._fresh = {name: _own(getattr(self, name)) for name in self.client_state}

    def put_back(self) -> None:
        """Bring the client's side back to what it was when it was last remembered."""
        for name, value in self._fresh.items():
            if getattr(self, name) != value:
                setattr(self, name, _own(value))

    def set_tls(self, *, is_required: bool) -> None:
        """Whether a server without TLS is refused; before connecting."""
        self.insists_on_tls = is_required

    def forget_password(self) -> None:
        """Keep no secret longer than it is needed; whoever reconnects behind the pool's back fails."""
        self._password = type(self._password)()

    async def run(self, statements: str) -> Any:
        """Run one or more statements, and return the rows of the first."""
        await self.query(statements)
        rows = self._result.rows
        while self._result.has_next:
            await self.next_result()
        return rows

    async def start_over(self) -> None:
        """Let the server forget the session, all but the current database and the role."""
        await self._execute_command(_COM_RESET_CONNECTION, b"")
        await self._read_ok_packet()
        # The server is back at the character set of the login: so must be who encodes.
        self._charset, self._encoding = "utf8mb4", "utf8"
        self._forget_statements()

    def _forget_statements(self) -> None:
        """The server has dropped its prepared statements."""

    async def _execute_command(self, command: int, sql: str | bytes) -> None:
        if self._is_being_read or (self._is_asking and self._result is None):
            raise self.InterfaceError(
                0, "another operation is in progress on this connection, or was given up in the middle"
            )
        if self._has_unread_bytes and not self._has_more:
            self.close()
            raise self.InterfaceError(0, "the server has said something that nobody asked for")
        self._is_asking = command not in _UNANSWERED
        await super()._execute_command(command, sql)

    async def _read_ok_packet(self) -> Any:
        packet = await super()._read_ok_packet()
        self._is_asking = self._is_in_doubt = False
        return packet

    async def _read_query_result(self, unbuffered: bool = False) -> None:
        self._is_asking = True
        await super()._read_query_result(unbuffered)
        self._is_asking = False
        self._note()

    def _note(self) -> None:
        """Keep what the end of an answer said of the session; both libraries lose some of it."""
        result = self._result
        is_told = result.description is None or (self.tells_status and not result.unbuffered_active)
        if is_told:
            # asyncmy takes a status of 0 for none: SET autocommit=0 would go unnoticed.
            self.server_status = result.server_status
            self._is_in_doubt = False
        elif not self.server_status & _AUTOCOMMIT:
            # Any query may have begun one.
            self.server_status |= _IN_TRANSACTION

    def _note_error(self, error: Exception) -> None:
        """The server's error ends its answer; the library's own errors end nothing."""
        if is_servers(code_of(error)):
            self._is_asking, self._is_in_doubt = False, True

    async def ping(self, reconnect: bool = False) -> None:
        """As the library's, but never another session under the same object."""
        await super().ping(False)

    async def set_charset(self, charset: str) -> None:
        """As the library's."""
        await super().set_charset(charset)
        self._is_asking = False

    async def show_warnings(self) -> Any:
        """As the library's."""
        rows = await super().show_warnings()
        self._is_asking = False
        return rows

    async def _get_server_information(self) -> None:
        await super()._get_server_information()
        if self._ssl_context is not None and not self.server_capabilities & _TLS:
            # Nothing secret is said yet; one library would now go on in the open.
            if self.insists_on_tls:
                raise self.OperationalError(NO_TLS, "TLS is required, and the server does not offer it")
            self._go_on_without_tls()
        self._check_plugin(self._plugin_offered)

    @property
    def _plugin_offered(self) -> str:
        raise NotImplementedError

    def _go_on_without_tls(self) -> None:
        raise NotImplementedError

    async def _process_auth(self, plugin_name: bytes, auth_packet: Any) -> Any:
        self._check_plugin(plugin_name.decode("ascii", "replace"))
        return await super()._process_auth(plugin_name, auth_packet)

    def _check_plugin(self, plugin: str) -> None:
        if plugin in _OPEN_PLUGINS and self._ssl_context is None and not self._unix_socket:
            raise self.OperationalError(
                NO_PLUGIN, f"the server asks for the password in the open ({plugin}), and there is no TLS"
            )


def _own(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value
