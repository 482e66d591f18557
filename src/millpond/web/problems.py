"""Answers for what went wrong: problem details (RFC 9457) that give nothing away.

What a client may know is whether to try again and when. Which database is
behind it, what it said and how large the pool is goes to the log.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from millpond.errors import CircuitOpen, ConnectFailed, PoolClosed, PoolError, PoolExhausted, PoolTimeout
from millpond.web.sparing import Sparing

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request

UNAVAILABLE: Final[tuple[type[PoolError], ...]] = (
    PoolTimeout,
    PoolExhausted,
    PoolClosed,
    ConnectFailed,
    CircuitOpen,
)
"""The errors that mean "not now": answered with 503 and Retry-After."""


class Problem(BaseModel):
    """A problem as RFC 9457 writes it; `type` is always `about:blank`, so `title` is the status in words."""

    type: str = "about:blank"
    title: str = Field(examples=["Service Unavailable"])
    status: int = Field(examples=[503])
    detail: str | None = Field(default=None, examples=["Not available at the moment; try again later."])


class ProblemResponse(JSONResponse):
    """An answer of type `application/problem+json`."""

    media_type = "application/problem+json"


def problem(
    status: int, detail: str | None = None, headers: Mapping[str, str] | None = None
) -> ProblemResponse:
    """The answer that says `status` and, in words fit for anyone, `detail`."""
    said = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail)
    return ProblemResponse(said.model_dump(exclude_none=True), status_code=status, headers=headers)


def unavailable(retry_after: int | None = None) -> ProblemResponse:
    """The answer 503.

    Args:
        retry_after: whole seconds, at least 1, after which to try again; None: 1.
    """
    return problem(
        503, "Not available at the moment; try again later.", {"Retry-After": str(max(1, retry_after or 1))}
    )


def add_exception_handlers(app: Starlette) -> None:
    """Make `app` answer 503 with `Retry-After` whenever a pool cannot serve.

    Covers `PoolTimeout`, `PoolExhausted`, `PoolClosed`, `ConnectFailed` and
    `CircuitOpen`, in handlers and in dependencies. Every other error of
    Millpond is a fault of the program and stays a 500.
    """
    log = Sparing(logging.getLogger("millpond.web"))

    async def answer_unavailable(request: Request, error: Exception) -> ProblemResponse:
        assert isinstance(error, PoolError)  # noqa: S101 - it was registered for nothing else
        log.warning((error.pool, type(error)), "answered 503: %s", error)
        return unavailable(error.retry_after_seconds)

    for kind in UNAVAILABLE:
        app.add_exception_handler(kind, answer_unavailable)
