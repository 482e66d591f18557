"""Who may send to a hook: tokens, signatures as well-known senders make them, and not a word to others."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import TypeAdapter
from starlette.datastructures import Headers

from millpond import ConnectionPoolRegistry
from millpond.gateway import load_webhooks
from millpond.gateway.authentication import Auth, Unauthorized, check_of
from millpond.gateway.model import Webhooks
from tests.gateway.backends import Sqlite
from tests.gateway.service import Service, hook

NOW = 1_700_000_000.0
OLD, NEW = "planted-secret-of-yesterday", "planted-secret-of-today"
BODY = b'{"number": 1}'
GITHUB = {"type": "hmac", "header": "X-Hub-Signature-256", "prefix": "sha256="}
STRIPE = {"type": "hmac", "style": "stripe", "header": "Stripe-Signature", "secret": NEW}
SLACK = {
    "type": "hmac", "header": "X-Slack-Signature", "prefix": "v0=", "secret": NEW,
    "timestamp_header": "X-Slack-Request-Timestamp", "signed": "v0:{timestamp}:{body}",
}  # fmt: skip


def mac(secret: str, content: bytes, algorithm: str = "sha256") -> str:
    return hmac.new(secret.encode(), content, algorithm).hexdigest()


def is_let_in(auth: dict[str, Any], headers: dict[str, str], body: bytes = BODY) -> bool:
    """Whether a check of this configuration takes the request."""
    check = check_of(TypeAdapter(Auth).validate_python(auth), now=lambda: NOW)
    try:
        check.head(Headers(headers))(body)
    except Unauthorized as stranger:
        assert "planted" not in str(stranger)  # noqa: PT017 - either outcome may be right
        return False
    return True


def test_github_s_own_example_is_right() -> None:
    """Source: GitHub Docs, "Validating webhook deliveries", testing the webhook payload validation."""
    auth = {**GITHUB, "secret": "It's a Secret to Everybody"}
    digest = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"

    assert is_let_in(auth, {"X-Hub-Signature-256": f"sha256={digest}"}, b"Hello, World!")
    assert not is_let_in(auth, {"X-Hub-Signature-256": f"sha256={digest}"}, b"Hello, World?")


def test_slack_s_own_example_is_right() -> None:
    """Source: Slack's documentation, "Verifying requests from Slack", its step-by-step walk-through."""
    at = 1_531_420_618
    body = (
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&"
        b"channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&"
        b"response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F"
        b"96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
    )
    model = TypeAdapter(Auth).validate_python({**SLACK, "secret": "8f742231b10e8888abcd99yyyzzz85a5"})
    digest = "a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"
    headers = Headers({"X-Slack-Signature": f"v0={digest}", "X-Slack-Request-Timestamp": str(at)})

    check_of(model, now=lambda: at + 5.0).head(headers)(body)


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha512"])
@pytest.mark.parametrize("encoding", ["hex", "base64"])
def test_a_signature_may_be_of_any_usual_make(algorithm: str, encoding: str) -> None:
    """As hexadecimal digits of either case, or in base64."""
    auth = {"type": "hmac", "header": "S", "secret": NEW, "algorithm": algorithm, "encoding": encoding}
    digest = mac(NEW, BODY, algorithm)
    written = digest.upper() if encoding == "hex" else base64.b64encode(bytes.fromhex(digest)).decode()

    assert is_let_in(auth, {"S": written})
    assert not is_let_in(auth, {"S": written}, BODY + b" ")


@pytest.mark.parametrize("auth", [STRIPE, SLACK], ids=["in the signature's header", "in one of its own"])
@pytest.mark.parametrize(
    ("away", "expected"), [(0, True), (299, True), (-299, True), (301, False), (-301, False)]
)
def test_a_time_of_signing_holds_for_so_long(auth: dict[str, Any], away: int, expected: bool) -> None:
    """Either way: clocks differ, and an old request may be sent again by somebody who overheard it."""
    at = int(NOW) - away
    stripe, slack = (mac(NEW, before + BODY) for before in (b"%d." % at, b"v0:%d:" % at))
    headers = {
        "Stripe-Signature": f"t={at},v1={stripe},v0=abc",
        "X-Slack-Signature": f"v0={slack}",
        "X-Slack-Request-Timestamp": str(at),
    }

    assert is_let_in(auth, headers) is expected


def test_a_time_cannot_be_exchanged_for_a_younger_one() -> None:
    """It is signed too."""
    digest = mac(NEW, b"%d." % (NOW - 10_000) + BODY)

    assert not is_let_in(STRIPE, {"Stripe-Signature": f"t={int(NOW)},v1={digest}"})


@pytest.mark.parametrize(
    "value",
    [
        "", "v1=abc", "t=1700000000", "t=1700000000,t=1700000000,v1={}", "t=17e8,v1={}", "t=-1,v1={}",
        "t=\u0661,v1={}", "t=" + "9" * 5000 + ",v1={}", "{}", "t=1700000000,v0={}",
        "t=1700000000," + ",".join(["v1={}"] * 9),
    ],
)  # fmt: skip
def test_what_is_no_signature_is_none(value: str) -> None:
    """However odd it is, it is refused and nothing fails."""
    right = mac(NEW, b"1700000000." + BODY)

    assert is_let_in(STRIPE, {"Stripe-Signature": f"t=1700000000,v1={right}"})
    assert not is_let_in(STRIPE, {"Stripe-Signature": value.format(*[right] * 9).encode().decode("latin-1")})


def test_while_a_secret_changes_both_are_right() -> None:
    """The sender may change at any moment of it, and may sign with both, as Stripe does."""
    bearer = {"type": "bearer", "token": [NEW, "", OLD]}  # an empty one is the place of one that is not there
    stripe = {**STRIPE, "secret": [NEW, OLD]}
    signed = {name: mac(name, b"1700000000." + BODY) for name in (NEW, OLD)}

    for name in (NEW, OLD):
        assert is_let_in(bearer, {"Authorization": f"Bearer {name}"})
        assert is_let_in(stripe, {"Stripe-Signature": f"t=1700000000,v1={signed[name]}"})
    assert is_let_in(STRIPE, {"Stripe-Signature": f"t=1700000000,v1={signed[OLD]},v1={signed[NEW]}"})
    assert not is_let_in(STRIPE, {"Stripe-Signature": f"t=1700000000,v1={signed[OLD]}"})
    assert not is_let_in(bearer, {"Authorization": "Bearer "})


def test_a_header_that_is_there_twice_says_nothing() -> None:
    """What stands before this service may look at the other one."""
    check = check_of(TypeAdapter(Auth).validate_python({"type": "bearer", "token": NEW}))
    twice = [(b"authorization", f"Bearer {name}".encode()) for name in (NEW, OLD)]

    with pytest.raises(Unauthorized):
        check.head(Headers(raw=twice))


@pytest.mark.parametrize(
    "value", ["", "Bearer", f"Basic {NEW}", NEW, f"Bearer {NEW}x", f"Bearer {NEW[:-1]}", "Bearer \xff"]
)
def test_only_the_token_is_the_token(value: str) -> None:
    bearer = {"type": "bearer", "token": NEW}

    assert is_let_in(bearer, {"Authorization": f"bearer {NEW}"})
    assert not is_let_in(bearer, {"Authorization": value})


@pytest.fixture(scope="module")
def service(sqlite_backend: Sqlite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service with a hook for each way; the secrets come from the environment."""

    def to(path: str, auth: dict[str, Any], **more: Any) -> dict[str, Any]:
        return hook(path, "sqlite", "events", module={"create_table": True}, auth=auth, **more)

    hooks = [
        to("/bearer", {"type": "bearer", "token": ["${TOKEN}", "${OLD_TOKEN}"]}),
        to("/signed", {**GITHUB, "secret": "${TOKEN}"}, max_body_bytes=1000),
        to("/stripe", {**STRIPE, "secret": "${TOKEN}"}),
    ]  # fmt: skip
    environ = {"TOKEN": NEW, "OLD_TOKEN": OLD}
    connections = {"events": sqlite_backend.connection()}
    with Service(tmp_path_factory.mktemp("service"), connections, hooks, environ=environ) as running:
        yield running
        assert running.stop() == 0
        assert "planted" not in running.stdout + running.stderr


def signed(content: bytes) -> dict[str, str]:
    return {"X-Hub-Signature-256": f"sha256={mac(NEW, content)}", "Content-Type": "application/json"}


def stamped(content: bytes) -> dict[str, str]:
    at = int(time.time())
    return {
        "Stripe-Signature": f"t={at},v1={mac(NEW, b'%d.' % at + content)}",
        "Content-Type": "application/json",
    }


def with_token(content: bytes) -> dict[str, str]:
    return {"Authorization": f"Bearer {OLD}", "Content-Type": "application/json"}


WAYS = [("/bearer", with_token), ("/signed", signed), ("/stripe", stamped)]


@pytest.mark.parametrize(("path", "headers_of"), WAYS, ids=[path for path, _ in WAYS])
def test_who_may_send_is_stored_and_who_may_not_is_not(
    client: httpx2.Client, sqlite_backend: Sqlite, path: str, headers_of: Callable[[bytes], dict[str, str]]
) -> None:
    """Through a whole service, with the body exactly as it was sent."""
    content = json.dumps({"number": len(path), "x": "w\u00f6rd"}, ensure_ascii=False, indent=1).encode()
    other = content.replace(b"number", b"numbers")
    before = len(sqlite_backend.run("SELECT name FROM sqlite_master")) and len(sqlite_backend.numbers())

    let_in = client.post(path, content=content, headers=headers_of(content))
    strangers = [
        client.post(path, content=content, headers={"Content-Type": "application/json"}),
        client.post(
            path, content=other, headers={"Content-Type": "application/json", "Authorization": "Bearer x"}
        ),
    ]
    if path != "/bearer":
        strangers.append(client.post(path, content=other, headers=headers_of(content)))

    assert let_in.status_code == 201
    assert {answer.status_code for answer in strangers} == {401}
    assert len(sqlite_backend.numbers()) == before + 1


def test_strangers_all_get_the_same_answer(client: httpx2.Client) -> None:
    """Whatever is wrong, and before anything is said of the body: its type, its size, its syntax."""
    kinds = [
        {"headers": {}, "content": b""},
        {"headers": {"Content-Type": "text/plain"}, "content": BODY},
        {"headers": {"X-Hub-Signature-256": "sha256=zz"}, "content": b"x" * 1000},
        {"headers": signed(b"other"), "content": b"no json"},
        {"headers": signed(b"other"), "content": BODY},
        {"headers": {"X-Hub-Signature-256": "sha1=abc"}, "content": BODY},
    ]

    answers = [client.post("/signed", **kind) for kind in kinds]

    assert {answer.status_code for answer in answers} == {401}
    assert {answer.text for answer in answers} == {
        '{"type":"about:blank","title":"Unauthorized","status":401}'
    }
    assert {answer.headers["www-authenticate"] for answer in answers} == {"Signature"}
    # Nobody can check a signature over more than the limit.
    assert client.post("/signed", headers=signed(BODY), content=b"x" * 1001).status_code == 413


def test_a_right_signature_does_not_make_a_right_body(client: httpx2.Client) -> None:
    """The limit holds for everybody, and what is signed is still to be JSON of a type that is taken."""
    large, broken = b" " * 1001, b"{"

    too_large = client.post("/signed", content=large, headers=signed(large))
    no_json = client.post("/signed", content=broken, headers=signed(broken))
    no_type = client.post("/signed", content=BODY, headers={**signed(BODY), "Content-Type": "text/html"})

    assert [each.status_code for each in (too_large, no_json, no_type)] == [413, 400, 415]


def test_the_log_says_why_once_and_quotes_nothing(client: httpx2.Client, service: Service) -> None:
    """For who sets the sender up; a thousand attempts are one line."""
    for _ in range(20):
        client.post("/bearer", content=BODY, headers={"Authorization": "Bearer planted-guess"})

    lines = [line for line in service.stderr.splitlines() if "the token is none of ours" in line]
    assert len(lines) == 1
    assert "/bearer: answered 401" in lines[0]
    assert "planted" not in service.stderr


def test_a_hash_of_the_wrong_length_is_wrong() -> None:
    """A comparison that stops at the shorter one would take it."""
    auth = {"type": "hmac", "header": "S", "secret": NEW}
    digest = hashlib.sha256(b"").hexdigest()

    assert not any(
        is_let_in(auth, {"S": each}) for each in ("", "00", mac(NEW, BODY)[:32], digest, mac(NEW, BODY) * 2)
    )


def test_no_repr_shows_a_secret(tmp_path: Path) -> None:
    """Of what the file said, of the hooks that come of it, and of their schema."""
    said = {"path": "/x", "modules": [{"type": "log"}], "auth": {**STRIPE, "secret": [NEW, OLD]}}
    tokens = {**said, "path": "/y", "auth": {"type": "bearer", "token": NEW}}
    (tmp_path / "webhooks.json").write_text(json.dumps({"webhooks": [said, tokens]}))

    hooks = load_webhooks(tmp_path / "webhooks.json", ConnectionPoolRegistry())

    model = Webhooks.model_validate({"webhooks": [said, tokens]})
    shown = [repr(model), str(model), model.model_dump_json(), repr(hooks)]
    shown += [repr(each.check) for each in hooks.values()]
    assert not any("planted" in each for each in shown)
    assert json.dumps(Webhooks.model_json_schema()).count('"format": "password"') >= 4
