"""What may be wrong with a hook's authentication, keys and modules: one line, with the file and the key."""

from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import check
from tests.cli.test_check import SECRET, SQLITE, assert_one_line

EVENTS = {"type": "sqlite", "connection": "events"}
PUSH = {"type": "redis", "connection": "cache", "action": "list_push", "key": "jobs"}
HMAC = {"type": "hmac", "secret": SECRET, "header": "X-Signature"}
BROKER = {"type": "rabbitmq", "pool": {"connect_retries": 0}}
MESSAGE = {"type": "rabbitmq", "connection": "broker"}
CACHE = {"type": "redis", "password": SECRET, "pool": {"connect_retries": 0}}


def assert_fault(directory: Path, hook: dict[str, Any], *words: str) -> None:
    """One line about this hook, and nothing about any other."""
    hooks = {"webhooks": [{"path": "/hook", "modules": [EVENTS], **hook}]}

    assert_one_line(
        check(directory, {"events": SQLITE, "cache": CACHE, "broker": BROKER}, hooks),
        2,
        "webhooks.json: webhooks[0]",
        *words,
    )


@pytest.mark.parametrize(
    ("auth", "words"),
    [
        (
            {"type": "basic", "password": SECRET},
            ["auth.type: there is nothing of this type; known: bearer, hmac"],
        ),
        ({"token": SECRET}, ["auth.type: is missing; known: bearer, hmac"]),
        (SECRET, ["auth: must be an object"]),
        ({"type": "bearer"}, ["auth.token: is missing"]),
        ({"type": "bearer", "token": ""}, ["auth.token[0]: must not be empty"]),
        ({"type": "bearer", "token": ["${NONE:-}"]}, ["auth.token[0]: must not be empty"]),
        ({"type": "bearer", "token": []}, ["auth.token: must not be empty"]),
        ({"type": "bearer", "token": 5}, ["auth.token: must be a list"]),
        ({"type": "bearer", "token": [SECRET, 5]}, ["auth.token[1]: must be a string"]),
        ({"type": "bearer", "token": f"{SECRET} x"}, ["auth.token: a token holds a space"]),
        ({"type": "bearer", "token": SECRET, "tokn": SECRET}, ["auth.tokn", "did you mean 'token'?"]),
        ({"type": "bearer", "token": "${PLANTED_NOWHERE}"}, ["auth.token", "PLANTED_NOWHERE is not set"]),
        ({**HMAC, "algorithm": "md5"}, ["auth.algorithm: must be sha1, sha256 or sha512"]),
        ({**HMAC, "header": "X Signature"}, ["auth.header: must be the name of a header"]),
        ({**HMAC, "tolerance": 0}, ["auth.tolerance: must be greater than 0"]),
        ({**HMAC, "signed": "{timestamp}"}, ["auth: signed must hold {body} once"]),
        ({**HMAC, "signed": "{timestamp}.{body}"}, ["auth: signed must hold {timestamp} once with"]),
        ({**HMAC, "style": "stripe", "prefix": "v0="}, ["auth: style stripe leaves no choice of prefix"]),
    ],
)
def test_authentication_is_checked(tmp_path: Path, auth: Any, words: list[str]) -> None:
    """And no line repeats a secret."""
    assert_fault(tmp_path, {"auth": auth}, *words)


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        ({"idempotency": {"header": "A", "pointer": "/a"}}, ["idempotency: the key comes from a header or"]),
        ({"idempotency": {"pointer": "id"}}, ["idempotency: a JSON pointer begins with /"]),
        ({"idempotency": {"ttl": 0}}, ["idempotency.ttl: must be greater than or equal to 1"]),
        ({"idempotency": {"tll": 5}}, ["idempotency.tll", "did you mean 'ttl'?"]),
        ({"idempotency": {"table": "a.b"}}, ["idempotency.table: hook /hook: ", "no dot"]),
        (
            {"idempotency": {}, "modules": [{"type": "log"}]},
            ["idempotency: hook /hook: no module of it keeps a key"],
        ),
        ({"content_types": ["json"]}, ["content_types[0]: must be a content type"]),
        ({"content_types": []}, ["content_types: must not be empty"]),
    ],
)
def test_the_rest_of_a_hook_is_checked(tmp_path: Path, hook: dict[str, Any], words: list[str]) -> None:
    assert_fault(tmp_path, hook, *words)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (
            {**PUSH, "action": "pop"},
            ["action: there is no action of this name; known: list_push, stream_add"],
        ),
        ({"type": "redis", "connection": "cache", "key": "x"}, ["action: is missing; known: list_push"]),
        ({**PUSH, "key": ""}, [".key: must not be empty"]),
        ({**PUSH, "key": "jobs:{/a"}, [".key: a pointer in a name begins with {/ and ends with }"]),
        ({**PUSH, "key": "jobs:{/a~}"}, [".key: in a JSON pointer, ~ is written ~0"]),
        ({**PUSH, "value": "job"}, [".value: takes a JSON pointer"]),
        ({**PUSH, "sid": "left"}, [".sid: is not a known key; did you mean 'side'?"]),
        ({**PUSH, "side": "top"}, [".side: must be left or right"]),
        ({**PUSH, "channel": "x"}, [".channel: is not a known key"]),
        ({**PUSH, "connection": "events"}, [".type: hook /hook: is 'redis', but the connection 'events'"]),
        ({**PUSH, "action": "set", "ttl": 0}, [".ttl: must be greater than or equal to 1"]),
        ({**PUSH, "action": "stream_add", "fields": {}}, [".fields: must not be empty"]),
        ({"type": "rabbitmq", "connection": "b"}, [": give a queue or an exchange, one of them"]),
        ({"type": "rabbitmq", "connection": "b", "queue": "q", "routing_key": "k"}, [": a routing_key goes"]),
        ({**MESSAGE, "exchange": "caf\u00e9"}, [".exchange: hook /hook: its name may hold only letters"]),
        ({**MESSAGE, "exchange": "x" * 128}, [".exchange: hook /hook: its name may hold only letters"]),
        ({**MESSAGE, "queue": "a|b", "create_queue": True}, [".queue: hook /hook: the name of one that is"]),
        ({"type": "log", "connection": "events"}, [".connection: is not a known key"]),
        ({"type": "log", "values": {"a": "b"}}, [".values.a: takes a JSON pointer"]),
    ],
)
def test_modules_are_checked(tmp_path: Path, module: dict[str, Any], words: list[str]) -> None:
    """The path is that of the file: pydantic's own names for what it tried are not in it."""
    assert_fault(tmp_path, {"modules": [EVENTS, module]}, "webhooks[0].modules[1]", *words)
