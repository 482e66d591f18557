"""What a PostgreSQL server or libpq means by refusing a connection, where only their words are there."""

from __future__ import annotations

import enum
import re
from typing import Final


class Refusal(enum.Enum):
    """What is wrong; the value is the option that it is about. HOST and PORT may be right later."""

    PASSWORD = "password"  # noqa: S105 - the option's name
    USER = "user"
    DATABASE = "database"
    SETTING = "server_settings"
    CERTIFICATE = "ssl"
    HOST = "host"
    PORT = "port"


# In the order in which they are tried. Source: PostgreSQL 15 to 18, src/backend (auth.c, miscinit.c,
# postinit.c, guc.c, variable.c) and src/interfaces/libpq (fe-auth.c, fe-secure-openssl.c); and where an
# authentication names no user, a startup parameter, "no such": PgBouncer 1.18, all with the code 08P01.
_WORDS: Final[tuple[tuple[Refusal, re.Pattern[str]], ...]] = tuple(
    (refusal, re.compile(words, re.MULTILINE))
    for refusal, words in (
        (Refusal.PASSWORD, r"password authentication failed for user|no password supplied"),
        (Refusal.PASSWORD, r"(SASL|password) authentication failed$"),
        (Refusal.USER, r"no such user"),
        (Refusal.DATABASE, r"no such database"),
        (Refusal.SETTING, r"unsupported startup parameter"),
        (Refusal.SETTING, r"invalid value for parameter"),
        (
            Refusal.USER,
            r"authentication failed for user|no pg_hba\.conf entry for|is not permitted to log in",
        ),
        (Refusal.USER, r'role "[^"]*" does not exist'),
        (Refusal.DATABASE, r'database "[^"]*" (does not exist|is not currently accepting connections)'),
        (Refusal.DATABASE, r"permission denied for database"),
        (Refusal.SETTING, r"unrecognized configuration parameter|permission denied to set (parameter|role)"),
        (Refusal.SETTING, r'parameter "[^"]*" cannot be (changed|set)'),
        (Refusal.CERTIFICATE, r"certificate verify failed|does not match host name|private key file"),
        (Refusal.CERTIFICATE, r"root certificate file|could not read certificate file|weak sslmode"),
        (Refusal.CERTIFICATE, r"server does not support SSL, but SSL was required"),
        (
            Refusal.HOST,
            r"failed to resolve host|on socket .* failed: (No such file|Not a dir|Permission denied)",
        ),
        (Refusal.PORT, r"Connection refused"),
    )
)


def refusal_in(words: str) -> Refusal | None:
    """What `words`, English ones, complain of; None: nobody can tell."""
    return next((refusal for refusal, pattern in _WORDS if pattern.search(words)), None)
