"""The admin API. Behind a bearer token; without a configured token it is off."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field
from starlette.requests import Request

from millpond.status import PoolStatus
from millpond.web.lifespan import registry_of

TOKEN_VARIABLE: Final = "CONFIG_RELOAD_ADMIN_TOKEN"  # noqa: S105 - the name of a variable, not a token
"""The environment variable that holds the admin token."""

_bearer = HTTPBearer(auto_error=False, scheme_name="admin token")
_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="millpond admin"'}
_METHODS: Final = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


class VersionReport(BaseModel):
    """One version of one named connection."""

    name: str
    kind: str
    version: int = Field(description="Counts up from 1 with every configuration that needed a new pool.")
    state: str = Field(description="The pool's state, or `not opened`.")
    age: float = Field(description="Seconds since the pool was made.")
    leases: int = Field(description="Borrowers at this moment.")
    healthy: bool
    pool: PoolStatus | None = Field(description="Null when nobody has used the connection yet.")


class AdminStatus(BaseModel):
    """Every pool there is, asked of memory and not of a backend."""

    closed: bool = Field(description="The registry lends nothing any more.")
    healthy: bool
    active: list[VersionReport] = Field(description="The version in use of every connection.")
    deprecated: list[VersionReport] = Field(description="Older versions whose leases have not all ended.")


def admin_router(
    *, prefix: str = "/admin", environ: Mapping[str, str] | None = None, variable: str = TOKEN_VARIABLE
) -> APIRouter:
    """The routes below `prefix`, each of which asks for `Authorization: Bearer <token>`.

    403 to everything while no token is configured, or only blanks; 401 to a
    missing or wrong one. The token is looked up at each request and compared
    in constant time.

    Args:
        prefix: where the routes stand.
        environ: where the token is looked up; None: the process's environment.
        variable: the name under which it is looked up.
    """
    source = os.environ if environ is None else environ
    guard = Depends(_guard(lambda: source.get(variable)))
    router = APIRouter(prefix=prefix, tags=["admin"], dependencies=[guard])
    refusals: dict[int | str, dict[str, Any]] = {
        401: {"description": "The bearer token is missing or wrong."},
        403: {"description": "No admin token is configured: the admin API is off."},
    }

    @router.get("/status", response_model=AdminStatus, responses=refusals)
    async def status(request: Request) -> AdminStatus:
        """Every pool: its version, state, numbers and leases; from memory, asks no backend."""
        return AdminStatus.model_validate(registry_of(request).status().as_dict())

    @router.api_route("/{rest:path}", methods=_METHODS, include_in_schema=False)
    async def unknown(rest: str) -> None:
        """What is not there is refused like the rest to who may not ask."""
        raise HTTPException(404)

    return router


def _guard(configured: Callable[[], str | None]) -> Callable[..., Awaitable[None]]:
    async def check(credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> None:
        expected = (configured() or "").strip()
        if not expected:
            raise HTTPException(403, "The admin API is off: no admin token is configured.")
        given = credentials.credentials.strip() if credentials is not None else ""
        # Both are hashed first, so that not even the length shows in the time it takes. A header
        # arrives decoded as Latin-1, one character for each byte that was sent.
        if not hmac.compare_digest(_digest(given.encode("latin-1", "replace")), _digest(expected.encode())):
            raise HTTPException(401, "The admin token is missing or wrong.", _CHALLENGE)

    return check


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
