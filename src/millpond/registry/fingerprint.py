"""Whether two configurations are the same, without keeping or showing what they say.

The whole resolved configuration goes through HMAC-SHA-256 (RFC 2104, FIPS
180-4) with a key that this process drew at its start. Without the key a digest
of a configuration would be an oracle: who sees it could try passwords on it.
It is never shown, and means nothing to another process.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from millpond.registry.harmless import bare

if TYPE_CHECKING:
    from millpond.registry.model import ConnectionConfig

_KEY: Final = secrets.token_bytes(32)


def fingerprint(config: ConnectionConfig) -> bytes:
    """What is equal for two configurations exactly when their kind and driver options are.

    Pool settings are not in it: they are compared one by one, for most of
    them can be changed in place.
    """
    spelled = json.dumps([config.kind, _canonical(config.options)], ensure_ascii=True)
    return hmac.digest(_KEY, spelled.encode("ascii"), "sha256")


def _canonical(value: Any) -> Any:
    """`value` as JSON that is the same for equal values, and different for `1`, `1.0`, `True` and `"1"`."""
    value = bare(value)
    kind = type(value).__name__
    if isinstance(value, Mapping):
        pairs = [[_canonical(key), _canonical(each)] for key, each in value.items()]
        return ["mapping", sorted(pairs, key=json.dumps)]
    if isinstance(value, (set, frozenset)):
        return ["set", sorted((_canonical(each) for each in value), key=json.dumps)]
    if isinstance(value, (list, tuple)):
        return [kind, [_canonical(each) for each in value]]
    if isinstance(value, (bytes, bytearray)):
        return [kind, value.hex()]
    return [kind, value if value is None or isinstance(value, (str, bool)) else repr(value)]
