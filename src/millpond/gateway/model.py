"""What `webhooks.json` may say of a hook: strict models."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from pydantic import Field

from millpond.gateway.authentication import Auth
from millpond.gateway.body import JSON_TYPES
from millpond.gateway.fields import Int, Seconds, Strict, Text
from millpond.gateway.idempotency import Idempotency
from millpond.gateway.module_models import Module

LARGEST_BODY: Final = 1 << 20
"""Bytes a request's body may have where the hook says nothing: 1 MiB."""

_LARGEST_LIMIT: Final = 1 << 30
_PATH: Final = r"^/[A-Za-z0-9._~!$&'()*+,;=:@/-]*$"
_TYPE_PART: Final = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"

MediaType: TypeAlias = Annotated[Text, Field(pattern=rf"^{_TYPE_PART}/{_TYPE_PART}$", max_length=100)]
"""A content type without parameters, or a pattern like `application/*+json`."""


class Webhook(Strict):
    """A path and what is done with a request to it: its modules in order, all or an error."""

    path: str = Field(
        pattern=_PATH,
        max_length=500,
        description="The path, exactly as requests name it; no wildcards, no query.",
    )
    modules: list[Module] = Field(min_length=1, description="What is done with the request, in this order.")
    max_body_bytes: Int = Field(
        LARGEST_BODY, ge=1, le=_LARGEST_LIMIT, description="Largest body that is taken, bytes."
    )
    body_timeout: Seconds = Field(
        30.0, description="Longest that a client may take to send the body, seconds."
    )
    content_types: list[MediaType] = Field(
        default_factory=lambda: list(JSON_TYPES),
        min_length=1,
        description="Content types that are taken; * stands for any part. The body is always JSON.",
    )
    auth: Auth | None = Field(None, description="Who may send requests; left out, everybody.")
    idempotency: Idempotency | None = Field(
        None, description="How a request is known that comes again; left out, each is a new one."
    )


class Webhooks(Strict):
    """The whole of `webhooks.json`."""

    webhooks: list[Webhook] = Field(description="The hooks; each path stands once.")
