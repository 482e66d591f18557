"""The options of drivers: checks that name the option, and options out of a URL.

A value that may be a secret is never repeated in a message.
"""

import difflib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from millpond.settings import LARGEST, must_be, shown

_TRUTHS: Final = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}

_STRAY_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_MOST_DIGITS: Final = 9  # more would not be a number of anything here, and Python may refuse to read them
_WORD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*", re.ASCII)


def text(name: str, value: object, *, optional: bool = True) -> None:
    """Refuse what is not a text, is empty, or holds NUL.

    Raises:
        ValueError: names the option.
    """
    if value is None and optional:
        return
    if not isinstance(value, str):
        raise ValueError(
            f"{name}: must be a text{' or None' if optional else ''}, got {type(value).__name__}"
        )
    if not value:
        raise ValueError(f"{name}: must not be empty")
    if "\0" in value:
        raise ValueError(f"{name}: must not hold NUL")


def texts(name: str, value: object) -> None:
    """Refuse what is not a list of texts that are not empty, or None.

    Raises:
        ValueError: names the option.
    """
    if value is None:
        return
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"{name}: must be a list of texts or None, got {type(value).__name__}")
    for each in value:
        text(name, each, optional=False)


def word(name: str, value: object) -> None:
    """Refuse what is not a name of letters, digits, `_` and `.`, as of a server's variable, or None.

    Raises:
        ValueError: names the option.
    """
    text(name, value)
    if isinstance(value, str) and not _WORD.fullmatch(value):
        raise ValueError(f"{name}: {value!r} is not a name of letters, digits, _ and .")


def whole(name: str, value: object, *, least: int, most: int | None = None) -> None:
    """Refuse what is not a whole number from `least` to `most`.

    Raises:
        ValueError: names the option and the range.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or not least <= value < LARGEST
        or (most is not None and value > most)
    ):
        bounds = f"from {least} to {most}" if most is not None else f">= {least}"
        raise ValueError(f"{name}: {must_be(f'a whole number {bounds}', value)}, got {shown(value)!r}")


def seconds(name: str, value: object, *, optional: bool = True, zero: bool = False) -> None:
    """Refuse what is not a positive, finite number of seconds; `zero` lets 0 in.

    Raises:
        ValueError: names the option and the range.
    """
    if value is None and optional:
        return
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 <= value < LARGEST
        or (value == 0 and not zero)
    ):
        bounds = (">= 0" if zero else "> 0") + (", or None" if optional else "")
        words = must_be(f"a number of seconds {bounds}", value)
        raise ValueError(f"{name}: {words}, got {shown(value)!r}")


def one_of(name: str, value: object, choices: Collection[str]) -> None:
    """Refuse what is not among `choices`.

    Raises:
        ValueError: names the option and the choices.
    """
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: must be one of {', '.join(map(repr, choices))}, got {value!r}")


def flag(name: str, value: object) -> None:
    """Refuse what is not True or False.

    Raises:
        ValueError: names the option.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name}: must be true or false, got {value!r}")


def password(value: object) -> None:
    """Refuse what is neither a text nor a function that can be asked for one.

    Raises:
        ValueError: says of what type it is, and not what it is.
    """
    if not (value is None or isinstance(value, str) or callable(value)):
        raise ValueError(f"password: must be a text, a function or None, got {type(value).__name__}")


def mapping(name: str, value: object, *, of: tuple[type, ...]) -> Mapping[str, Any]:
    """A read-only copy of a mapping from texts to `of`; None: an empty one.

    Raises:
        ValueError: names the option and the key.
    """
    if value is None:
        return MappingProxyType({})
    if not isinstance(value, Mapping):
        raise ValueError(f"{name}: must be a mapping or None, got {type(value).__name__}")
    kinds = " or ".join(kind.__name__ for kind in of)
    for key, each in value.items():
        if not isinstance(key, str) or not key:
            raise ValueError(f"{name}: its keys must be texts, got {key!r}")
        if not isinstance(each, of):
            raise ValueError(f"{name}: the value of {key!r} must be {kinds}, got {type(each).__name__}")
    return MappingProxyType(dict(value))


@dataclass(frozen=True, slots=True)
class Url:
    """The parts of a database URL, percent signs decoded; None where it says nothing."""

    user: str | None
    password: str | None
    host: str | None
    port: int | None
    path: str
    query: Mapping[str, str]


def split(url: str, schemes: Collection[str]) -> Url:
    """The parts of `url`. Unlike `urllib`, this keeps the case of the host, and its errors hold no secret.

    Raises:
        ValueError: another scheme, or not well formed.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in schemes:
        raise ValueError(f"the URL must begin with {' or '.join(f'{each}://' for each in schemes)}")
    if "#" in rest:
        raise ValueError("the URL holds a #; in a password it is written %23")
    rest, _, query = rest.partition("?")
    # A password may hold an unquoted @ or /, a host may not: so the last @ counts, and it comes first.
    userinfo, at, place = rest.rpartition("@")
    if not at and "@" in query:
        # Whatever comes after the ? may be the rest of a password: no part of it may reach a message.
        raise ValueError("the URL holds a ? before its @; in a password it is written %3F")
    hostport, slash, path = place.partition("/")
    user, colon, password = userinfo.partition(":")
    host, port = _host_and_port(hostport)
    return Url(
        user=decoded(user) if at and user else None,
        password=decoded(password) if colon and password else None,
        host=decoded(host) if host else None,
        port=port,
        path=decoded(slash + path),
        query=pairs(query),
    )


def _host_and_port(hostport: str) -> tuple[str, int | None]:
    if "," in hostport:
        raise ValueError("the URL names several hosts; a pool connects to one")
    if hostport.startswith("["):
        host, bracket, port = hostport[1:].partition("]")
        if not bracket or (port and not port.startswith(":")) or not _is_ipv6(decoded(host)):
            raise ValueError("the URL's host begins with [ and is not an IPv6 address in brackets")
        port = port[1:]
    else:
        host, _, port = hostport.partition(":")
    if not port:
        return host, None
    if not (port.isascii() and port.isdigit() and len(port) <= _MOST_DIGITS):
        raise ValueError("the URL's port is not a number (is a / or @ in the password not quoted?)")
    return host, int(port)


def _is_ipv6(host: str) -> bool:
    try:
        IPv6Address(host)
    except ValueError:
        return False
    return True


def decoded(part: str) -> str:
    """A part of a URL, percent signs decoded.

    Raises:
        ValueError: it is not well formed; the text does not repeat it.
    """
    if _STRAY_PERCENT.search(part):
        raise ValueError("the URL holds a % that no two hexadecimal digits follow; a % itself is written %25")
    try:
        return unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("the URL holds a %-sequence that is not UTF-8") from None


def pairs(query: str) -> dict[str, str]:
    """What stands after the `?` of a URL.

    Raises:
        ValueError: it is not key=value&key=value, or names a key twice.
    """
    if not query:
        return {}
    decoded(query)
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict")
    except ValueError:
        raise ValueError("the part of the URL after ? is not key=value&key=value") from None
    found: dict[str, str] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the URL names {key} twice")
        found[key] = value
    return found


def from_query(
    query: Mapping[str, str], takes: Mapping[str, Callable[[str], Any]], aliases: Mapping[str, str]
) -> dict[str, Any]:
    """Options out of the pairs after the `?` of a URL.

    Args:
        query: the pairs.
        takes: for each option that may stand there, what makes its value of a text.
        aliases: other names, and the options they mean.

    Raises:
        ValueError: an unknown key, or a value that is not of its kind; names the key.
    """
    options: dict[str, Any] = {}
    for key, value in query.items():
        name = aliases.get(key, key)
        if name not in takes:
            near = difflib.get_close_matches(key, [*takes, *aliases], n=1)
            raise ValueError(
                f"the URL's key {key!r} is not an option" + (f"; did you mean {near[0]!r}?" if near else "")
            )
        if name in options:
            raise ValueError(f"the URL names {name} twice")
        try:
            options[name] = takes[name](value)
        except ValueError:
            raise ValueError(f"the URL's value of {key!r} is not of its kind") from None
    return options


def with_query(
    said: Mapping[str, Any],
    query: Mapping[str, str],
    takes: Mapping[str, Callable[[str], Any]],
    aliases: Mapping[str, str],
) -> dict[str, Any]:
    """Options out of both halves of a URL.

    Args:
        said: by the part before the `?`; None where it says nothing.
        query: as for `from_query`.
        takes: as for `from_query`.
        aliases: as for `from_query`.

    Raises:
        ValueError: as `from_query`, or both halves name one option.
    """
    options = {name: value for name, value in said.items() if value is not None}
    asked = from_query(query, takes, aliases)
    for name in asked:
        if name in options:
            raise ValueError(f"the URL names {name} twice")
    return {**options, **asked}


def truth(value: str) -> bool:
    """True or False as a text says it: true, yes, on, 1; false, no, off, 0.

    Raises:
        ValueError: it says neither.
    """
    if value.lower() not in _TRUTHS:
        raise ValueError("neither true nor false")
    return _TRUTHS[value.lower()]
