"""What a driver of any origin says of a configuration, made fit for a message: nothing secret stays in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import unquote

from pydantic import Secret, SecretStr

from millpond.errors import masked

_SHORTEST_MASKED: Final = 4  # shorter texts stand in every other word


def harmless(text: str, secrets: Iterable[str], others: Iterable[str] = ()) -> str | None:
    """`text` in one line, or None when it is empty or repeats a secret.

    Args:
        text: what an exception said.
        secrets: what must not stand in the text at all.
        others: text from the configuration, masked where it stands: a secret may be in the wrong place.
    """
    text = masked(" ".join(text.split()))
    if not text or any(each and each in text for each in secrets):
        return None
    for each in sorted(set(others), key=len, reverse=True):
        if len(each) >= _SHORTEST_MASKED:
            text = text.replace(each, "***")
    return text


def is_secret(value: Any) -> bool:
    """True when `value` is wrapped as a secret."""
    return isinstance(value, (Secret, SecretStr))


def bare(value: Any) -> Any:
    """`value` unwrapped."""
    return value.get_secret_value() if isinstance(value, (Secret, SecretStr)) else value


def texts(value: Any) -> list[str]:
    """Every string in a value, unwrapped."""
    value = bare(value)
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [each for inner in value.values() for each in texts(inner)]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [each for inner in value for each in texts(inner)]
    return []


def secrets_of(url: str) -> list[str]:
    """What in a URL may be secret: its userinfo, and the values after the `?`."""
    rest = url.partition("://")[2]
    userinfo, at, _ = rest.rpartition("@")
    parts = [userinfo, *userinfo.partition(":")[::2]] if at else []
    parts += [pair.partition("=")[2] for pair in rest.partition("?")[2].split("&")]
    return [each for part in parts for each in (part, unquote(part))]
