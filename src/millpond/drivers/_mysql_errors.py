"""What the numbers of MySQL's and MariaDB's errors mean to a pool.

Source: the error references of MySQL 8.4 and MariaDB 10.11. Numbers from 2000 to 2999 are the client
library's own; all others come from the server.
"""

from typing import Final

NO_TLS: Final = 2026  # CR_SSL_CONNECTION_ERROR
NO_PLUGIN: Final = 2059  # CR_AUTH_PLUGIN_CANNOT_LOAD
UNKNOWN_COMMAND: Final = 1047  # ER_UNKNOWN_COM_ERROR

# The connection is of no use after these, whatever the library has noticed so far.
_LOST: Final = frozenset({
    1053,  # ER_SERVER_SHUTDOWN
    1080,  # ER_FORCING_CLOSE
    1152, 1184,  # ER_ABORTING_CONNECTION, ER_NEW_ABORTING_CONNECTION
    1153, 1156, 1157, 1158, 1159, 1160, 1161,  # ER_NET_...: packets too large, out of order, cut short
    1317,  # ER_QUERY_INTERRUPTED: of a KILL; that it was for the connection is heard only later
    1927,  # ER_CONNECTION_KILLED
    2006, 2013, 2014, 2027, 2045, 2055,  # CR_...: gone, lost, out of sync, malformed
    4031,  # ER_CLIENT_INTERACTION_TIMEOUT
})  # fmt: skip

_OPTION_PREVENTS_STATEMENT: Final = 1290  # read-only is one of several options that do
_READ_ONLY_NODE: Final = frozenset({1836, 1874})  # ER_READ_ONLY_MODE, ER_INNODB_READ_ONLY
# A transaction is read-only because its borrower says so, or because the server's default does: nobody
# here can tell. A new connection asks the server what it is.
_READ_ONLY_TRANSACTION: Final = 1792

# What a server, asked again, would only say again: about who we are, where to, and with which settings.
WRONG_CREDENTIALS: Final = frozenset({1045, 1698})
PERMANENT: Final = frozenset({
    1044, 1049,  # no right to the database, no such database
    1064, 1115, 1193, 1227, 1229, 1231, 1232, 1238, 1273,  # wrong in server_settings or init_statements
    1130, 1251, 1524, 1862, NO_TLS, NO_PLUGIN, 2061,  # host not allowed, plugins, expired password
    3118, 4151,  # ER_ACCOUNT_HAS_BEEN_LOCKED, of MySQL and of MariaDB
})  # fmt: skip

# Which option is wrong; of a user and a password that do not belong together the server does not say which.
OPTIONS: Final = {
    1045: "password", 1698: "password", 1044: "database", 1049: "database", 1273: "collation", NO_TLS: "ssl",
}  # fmt: skip


def code_of(error: BaseException) -> int:
    """The number of a MySQL error, the server's or the library's; 0: it has none."""
    code = error.args[0] if error.args else None
    return code if isinstance(code, int) else 0


def is_servers(code: int) -> bool:
    """Whether the server said so; the library's own errors do not end an answer."""
    return code > 0 and not 2000 <= code < 3000


def is_loss(error: BaseException, *, must_write: bool) -> bool:
    """Whether the connection is of no use after this; also when it may lead to a node that is read-only."""
    code = code_of(error)
    return code in _LOST or (must_write and code == _READ_ONLY_TRANSACTION)


def is_demotion(error: BaseException) -> bool:
    """Whether a write was refused because of what the node is, not because of what the borrower did."""
    code = code_of(error)
    if code == _OPTION_PREVENTS_STATEMENT:
        # The same error says that --secure-file-priv is in the way; only the option's name tells.
        return any(isinstance(each, str) and "read-only" in each.replace("_", "-") for each in error.args)
    return code in _READ_ONLY_NODE
