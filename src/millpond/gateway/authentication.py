"""Who may send to a hook: a bearer token, or a signature over the body as it was sent.

Everybody else gets 401 and learns nothing: not whether a header was missing,
which secret was tried, or how old a signature may be. All secrets of a hook
are compared each time, in time that does not depend on where they differ.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Protocol, Self, TypeAlias

from pydantic import Field, SecretStr, field_validator, model_validator
from starlette.datastructures import Headers

from millpond.gateway.fields import Float, Secrets, Strict, Text

_HEADER_NAME: Final = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"
_MOST_SIGNATURES: Final = 8
"""Of one request; who sends more is not looked at."""

HeaderName: TypeAlias = Annotated[Text, Field(pattern=_HEADER_NAME, max_length=100)]
"""The name of a header, in any case."""


class Bearer(Strict):
    """Takes requests with `Authorization: Bearer` and one of the tokens."""

    type: Literal["bearer"]
    token: Secrets = Field(description="The token, or a list of tokens while one replaces another.")

    @field_validator("token")
    @classmethod
    def _can_be_sent(cls, tokens: list[SecretStr]) -> list[SecretStr]:
        if not all("!" <= letter <= "~" for each in tokens for letter in each.get_secret_value()):
            raise ValueError("a token holds a space or a character that is not ASCII: no client can send it")
        return tokens


class Hmac(Strict):
    """Takes requests whose body is signed with one of the secrets."""

    type: Literal["hmac"]
    secret: Secrets = Field(description="The secret, or a list of secrets while one replaces another.")
    header: HeaderName = Field(description="The header that brings the signature.")
    style: Literal["plain", "stripe"] = Field(
        "plain",
        description="plain: the header holds the signature; stripe: it holds t=<time>,v1=<signature>, and "
        "what is signed is <time>.<body>.",
    )
    algorithm: Literal["sha1", "sha256", "sha512"] = Field("sha256", description="The hash function.")
    encoding: Literal["hex", "base64"] = Field("hex", description="How the signature is written.")
    prefix: str = Field("", max_length=100, description="What stands before the signature, like sha256=.")
    timestamp_header: HeaderName | None = Field(
        None, description="The header with the time of signing, in seconds since 1970."
    )
    signed: str | None = Field(
        None,
        max_length=500,
        description="What is signed, with {timestamp} and {body} in their places; left out, {body}, or with "
        "a timestamp_header {timestamp}.{body}.",
    )
    tolerance: Float = Field(
        300.0,
        gt=0,
        le=86_400,
        allow_inf_nan=False,
        description="How far the time of signing may be from now, either way, seconds.",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.style == "stripe" and (self.prefix or self.timestamp_header or self.signed):
            raise ValueError("style stripe leaves no choice of prefix, timestamp_header and signed")
        if self.signed is not None:
            if self.signed.count("{body}") != 1:
                raise ValueError(
                    "signed must hold {body} once: a signature that leaves it out protects nothing"
                )
            if self.signed.count("{timestamp}") != (self.timestamp_header is not None):
                raise ValueError("signed must hold {timestamp} once with a timestamp_header, and not without")
        return self


Auth: TypeAlias = Annotated[Bearer | Hmac, Field(discriminator="type")]


class Unauthorized(Exception):
    """A request is not from whom it should be; the text says why, for the log alone."""


class Check(Protocol):
    """Looks at one hook's requests, in two steps: the second needs the body."""

    challenge: str
    """What the answer 401 asks for, in `WWW-Authenticate`."""

    def head(self, headers: Headers) -> Callable[[bytes], None]:
        """Look at the head; what is returned looks at the body, before anybody parses it.

        Raises:
            Unauthorized: from either.
        """
        ...


def check_of(model: Bearer | Hmac, *, now: Callable[[], float] = time.time) -> Check:
    """The check that `model` asks for; `now` is in seconds since 1970."""
    return BearerCheck(model) if isinstance(model, Bearer) else HmacCheck(model, now)


class BearerCheck:
    """This takes who knows a token."""

    challenge = "Bearer"

    def __init__(self, model: Bearer) -> None:
        self._tokens = _bare(model.token)

    def head(self, headers: Headers) -> Callable[[bytes], None]:
        """The head says it all."""
        given = _only(headers, "Authorization")
        scheme, _, token = given.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized("the Authorization header is not Bearer")
        # Of equal length, so that not even the length of a token can be measured.
        digest = hashlib.sha256(token.strip(" ").encode("latin-1", "replace")).digest()
        if not _any_equal(digest, (hashlib.sha256(each).digest() for each in self._tokens)):
            raise Unauthorized("the token is none of ours")
        return _enough


class HmacCheck:
    """This takes who signed the body, lately where there is a time."""

    challenge = "Signature"

    def __init__(self, model: Hmac, now: Callable[[], float]) -> None:
        self._secrets = _bare(model.secret)
        self._model = model
        self._now = now
        signed = model.signed
        if signed is None:
            is_timed = model.style == "stripe" or model.timestamp_header is not None
            signed = "{timestamp}.{body}" if is_timed else "{body}"
        # `{timestamp}` may stand on either side of the body.
        before, _, after = signed.partition("{body}")
        self._around = (before, after)

    def head(self, headers: Headers) -> Callable[[bytes], None]:
        """Read signature and time, and refuse what no body could make right."""
        given = self._given(headers)
        if given.timestamp is not None:
            self._refuse_old(given.timestamp)

        def body(content: bytes) -> None:
            if not self._is_signed(content, given):
                raise Unauthorized("no signature is made with one of our secrets")

        return body

    def _given(self, headers: Headers) -> _Given:
        value = _only(headers, self._model.header)
        if self._model.style == "stripe":
            return _stripes(value)
        prefix = self._model.prefix
        if not value.startswith(prefix):
            raise Unauthorized(f"the {self._model.header} header does not begin with the prefix")
        name = self._model.timestamp_header
        timestamp = None if name is None else _only(headers, name)
        return _Given(timestamp, [value.removeprefix(prefix)])

    def _refuse_old(self, timestamp: str) -> None:
        if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
            raise Unauthorized("the time of signing is no number of seconds")
        away = abs(self._now() - int(timestamp))
        if away > self._model.tolerance:
            raise Unauthorized(
                f"signed {away:.0f} s away from now, and the tolerance is {self._model.tolerance:g} s"
            )

    def _is_signed(self, content: bytes, given: _Given) -> bool:
        before, after = (each.replace("{timestamp}", given.timestamp or "").encode() for each in self._around)
        right = []
        for secret in self._secrets:
            mac = hmac.new(secret, before, self._model.algorithm)
            mac.update(content)
            mac.update(after)
            right.append(mac.digest())
        # All of them, whatever the first says.
        found = [_any_equal(self._read(each), right) for each in given.signatures]
        return any(found)

    def _read(self, signature: str) -> bytes:
        """The signature's bytes; none for what is not one."""
        try:
            if self._model.encoding == "hex":
                return bytes.fromhex(signature) if signature.isalnum() else b""
            return base64.b64decode(signature, validate=True)
        except ValueError:
            return b""


@dataclass(frozen=True, slots=True)
class _Given:
    """What a request says of its signature."""

    timestamp: str | None
    signatures: Sequence[str]


def _stripes(value: str) -> _Given:
    """What `t=1492774577,v1=5257a8...,v1=...` says; other schemes than v1 are not looked at.

    Source: Stripe's documentation, "Verify webhook signatures manually".
    """
    pairs = [pair.strip().partition("=") for pair in value.split(",")]
    times = [given for name, _, given in pairs if name == "t"]
    signatures = [given for name, _, given in pairs if name == "v1"]
    if len(times) != 1 or not 1 <= len(signatures) <= _MOST_SIGNATURES:
        raise Unauthorized("the signature's header is not of the form t=...,v1=...")
    return _Given(times[0], signatures)


def _only(headers: Headers, name: str) -> str:
    """The value of a header that must be there once: of two, nobody could say which one counts."""
    found = headers.getlist(name)
    if len(found) != 1:
        raise Unauthorized(
            f"the {name} header is missing" if not found else f"the {name} header is there twice"
        )
    return found[0].strip()


def _any_equal(given: bytes, right: Iterable[bytes]) -> bool:
    # All are compared, also after one that is equal.
    found = [hmac.compare_digest(given, each) for each in right]
    return any(found)


def _bare(secrets: Sequence[SecretStr]) -> list[bytes]:
    return [each.get_secret_value().encode() for each in secrets]


def _enough(content: bytes) -> Any:
    """The head was enough."""
