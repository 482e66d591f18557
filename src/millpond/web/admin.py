"""The admin API. Behind a bearer token; without a configured token it is off."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, HTTPException, Query, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import Request

from millpond.errors import InvalidSettings, PoolTimeout
from millpond.registry import PoolHandle, UnknownConnection
from millpond.registry.files import read_ordinary, why_unreadable
from millpond.registry.reloader import RegistrySource, Reloader
from millpond.settings import UNSET
from millpond.web.admin_models import (
    AdminStatus,
    Clear,
    ConfigStatus,
    Drain,
    Pause,
    PoolReport,
    ReloadReport,
    ReloadRequest,
    Resize,
)
from millpond.web.guessing import Guesses, Guessing, is_guessable
from millpond.web.lifespan import registry_of
from millpond.web.sparing import Sparing

TOKEN_VARIABLE: Final = "CONFIG_RELOAD_ADMIN_TOKEN"  # noqa: S105 - the name of a variable, not a token
"""The environment variable that holds the admin token."""

_bearer = HTTPBearer(auto_error=False, scheme_name="admin token")
_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="millpond admin"'}
_LONGEST_TOKEN: Final = 1 << 16  # bytes of a file; what is longer is no token
_METHODS: Final = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def admin_router(
    *, prefix: str = "/admin", environ: Mapping[str, str] | None = None, variable: str = TOKEN_VARIABLE
) -> APIRouter:
    """The routes below `prefix`, each of which asks for `Authorization: Bearer <token>`.

    403 to everything while no token is configured, or only blanks; 401 to a
    missing or wrong one, and 429, after a second, to wrong ones of an address that
    has given ten within a minute (see `guessing`). The token is looked up at each
    request, in the variable or in the file that `<variable>_FILE` names, so that it
    can be changed without a restart; it is compared in constant time.

    Args:
        prefix: where the routes stand.
        environ: where the token is looked up; None: the process's environment.
        variable: the name under which it is looked up.
    """
    source = os.environ if environ is None else environ
    log = Sparing(logging.getLogger("millpond.web"))
    guard = _guard(lambda: _token(source, variable, log))
    router = APIRouter(
        prefix=prefix, tags=["admin"], dependencies=[Depends(_bearer)], route_class=_guarded_by(guard)
    )
    refusals: dict[int | str, dict[str, Any]] = {
        400: {"description": "The body cannot be read."},
        401: {"description": "The bearer token is missing or wrong."},
        403: {"description": "No admin token is configured: the admin API is off."},
        429: {"description": "Too many wrong tokens from this address."},
    }
    without_file = {**refusals, 404: {"description": "The configuration did not come from a file."}}
    of_a_name = {**refusals, 404: {"description": "There is no connection, or no version, of this name."}}

    @router.get("/status", response_model=AdminStatus, responses=refusals)
    async def status(request: Request) -> AdminStatus:
        """Every pool: its version, state, numbers and leases; from memory, asks no backend."""
        return AdminStatus.model_validate(registry_of(request).status().as_dict())

    @router.get("/config-status", response_model=ConfigStatus, responses=without_file)
    async def config_status(request: Request) -> Any:
        """Where the configuration comes from, and what came of the latest reload."""
        return _reloader_of(request).status().as_dict()

    @router.post(
        "/reload-config",
        response_model=ReloadReport,
        responses={**without_file, 409: {"model": ReloadReport, "description": "A file cannot be used."}},
    )
    async def reload_config(request: Request, response: Response, wanted: ReloadRequest | None = None) -> Any:
        """Read the files again and take over what they say while requests are served."""
        wanted = wanted or ReloadRequest()
        outcome = await _reloader_of(request).reload(
            trigger="admin",
            connections=wanted.reload_connections,
            webhooks=wanted.reload_webhooks,
            validate_only=wanted.validate_only,
        )
        if outcome.reloaded.problems:
            response.status_code = 409
        return outcome.as_dict()

    @router.post(
        "/pools/{name}/resize",
        response_model=PoolReport,
        responses={**of_a_name, 409: {"description": "It does not fit the sizes that stay."}},
    )
    async def resize(request: Request, name: str, sizes: Resize) -> Any:
        """Change the sizes of a running pool; the next reload puts right what the file says otherwise."""
        handle = _handle(request, name)
        given = {key: UNSET if value is None else value for key, value in sizes.model_dump().items()}
        try:
            handle.resize(**given)
        except InvalidSettings as error:
            raise HTTPException(409, f"{error.field} does not fit the other sizes") from None
        return _report(request, name)

    @router.post("/pools/{name}/clear", response_model=PoolReport, responses=of_a_name)
    async def clear(request: Request, name: str, how: Clear | None = None) -> Any:
        """Replace every connection: idle ones now, lent ones when they come back."""
        _handle(request, name).clear((how or Clear()).spread)
        return _report(request, name)

    @router.post("/pools/{name}/pause", response_model=PoolReport, responses=of_a_name)
    async def pause(request: Request, name: str, how: Pause | None = None) -> Any:
        """Lend nothing until it is resumed."""
        _handle(request, name).pause((how or Pause()).mode)
        return _report(request, name)

    @router.post("/pools/{name}/resume", response_model=PoolReport, responses=of_a_name)
    async def resume(request: Request, name: str) -> Any:
        """Lend again, after a pause or a drain."""
        _handle(request, name).resume()
        return _report(request, name)

    @router.post("/pools/{name}/drain", response_model=PoolReport, responses=of_a_name)
    async def drain(request: Request, name: str, how: Drain | None = None) -> Any:
        """Lend nothing more; answers when the last lease is back, or the time is over: `leases` tells."""
        with contextlib.suppress(PoolTimeout):
            await _handle(request, name).drain((how or Drain()).timeout)
        return _report(request, name)

    @router.delete("/pools/{name}/versions/{version}", status_code=204, responses=of_a_name)
    async def close_version(
        request: Request, name: str, version: int, timeout: Annotated[float, Query(ge=0.0, le=3600.0)] = 0.0
    ) -> None:
        """Close a deprecated version; borrowers have `timeout` seconds before they lose their connection."""
        try:
            await registry_of(request).close_version(name, version, timeout)
        except LookupError:
            raise HTTPException(404, "There is no deprecated version of this number.") from None

    @router.api_route("/{rest:path}", methods=_METHODS, include_in_schema=False)
    async def unknown(rest: str) -> None:
        """What is not there is refused like the rest to who may not ask."""
        raise HTTPException(404)

    return router


def _handle(request: Request, name: str) -> PoolHandle:
    try:
        return registry_of(request).get_pool(name)
    except UnknownConnection:
        raise HTTPException(404, "There is no connection of this name.") from None


def _report(request: Request, name: str) -> dict[str, Any]:
    registry = registry_of(request)
    pool = registry.get_pool(name).status()
    found = next(each for each in registry.status().active if each.name == name)
    return {
        "name": name,
        "version": found.version,
        "state": found.state,
        "leases": found.leases,
        "pool": pool.as_dict(),
    }


def _reloader_of(request: Request) -> Reloader:
    """What reloads this application; one for the registry's own file where the application has none."""
    state, registry = request.app.state, registry_of(request)
    found = getattr(state, "reloader", None)
    if isinstance(found, Reloader) and found.source.is_of(registry):
        return found
    if registry.path is None:
        raise HTTPException(404, "The configuration did not come from a file.")
    # Also where there is one of an earlier start, whose registry is closed.
    made = state.reloader = Reloader(RegistrySource(registry))
    return made


def _token(source: Mapping[str, str], variable: str, log: Sparing) -> str | None:
    """The token as it is configured at this moment; a file that cannot be read configures none."""
    path = source.get(f"{variable}_FILE", "").strip()
    if not path:
        return source.get(variable)
    try:
        return read_ordinary(Path(path), _LONGEST_TOKEN).decode()
    except (OSError, ValueError) as error:
        # Of bytes that are no text nothing is repeated.
        why = "is not UTF-8 text" if isinstance(error, UnicodeError) else why_unreadable(error)
        log.warning(("token", why), "the file named by %s_FILE %s", variable, why)
        return None


def _guarded_by(guard: Callable[[Request], Awaitable[None]]) -> type[APIRoute]:
    """Routes that ask for the token before a byte of the body is read; a dependency is asked after.

    What they say of a body that makes no sense does not repeat it: somebody may have sent the wrong file.
    """

    class Guarded(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                await guard(request)
                try:
                    return await handle(request)
                except RequestValidationError as error:
                    kept = ("type", "loc", "msg")
                    faults = [{key: each[key] for key in kept} for each in error.errors()]
                # Raised out here, so that the one with the body does not hang on it.
                raise RequestValidationError(faults)

            return guarded

    return Guarded


def _guard(configured: Callable[[], str | None]) -> Callable[[Request], Awaitable[None]]:
    guessing = Guessing()

    async def check(request: Request) -> None:
        credentials: HTTPAuthorizationCredentials | None = await _bearer(request)
        expected = (configured() or "").strip()
        if not expected:
            raise HTTPException(403, "The admin API is off: no admin token is configured.")
        guesses = guessing.of(request.client.host if request.client is not None else "")
        if guesses.are_too_many_at_once and is_guessable(expected):
            raise _too_many(guesses)
        given = credentials.credentials.strip() if credentials is not None else ""
        # Both are hashed first, so that not even the length shows in the time it takes. A header
        # arrives decoded as Latin-1, one character for each byte that was sent.
        if hmac.compare_digest(_digest(given.encode("latin-1", "replace")), _digest(expected.encode())):
            return
        if await guesses.failed():
            raise _too_many(guesses)
        raise HTTPException(401, "The admin token is missing or wrong.", _CHALLENGE)

    return check


def _too_many(guesses: Guesses) -> HTTPException:
    return HTTPException(429, "Too many wrong tokens.", {"Retry-After": str(guesses.retry_after)})


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
