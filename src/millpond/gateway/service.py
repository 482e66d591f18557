"""The application that `millpond serve` runs: the gateway, health and the admin API around one registry."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from millpond.gateway.app import Gateway, Hook
from millpond.gateway.configuration import GatewayFiles
from millpond.registry.reloader import Reloader
from millpond.web import add_exception_handlers, admin_router, health_router, lifespan
from millpond.web.problems import ProblemResponse, problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from millpond.gateway.load import WebhooksFile
    from millpond.registry import ConnectionPoolRegistry


def create_app(
    registry: ConnectionPoolRegistry,
    hooks: Mapping[str, Hook],
    *,
    close_timeout: float | None = None,
    environ: Mapping[str, str] | None = None,
    webhooks: WebhooksFile | None = None,
) -> FastAPI:
    """An application with the registry's health and status, and the hooks.

    Args:
        registry: closed when the application ends.
        hooks: by path.
        close_timeout: seconds that leases still out at the end have to come
            back; None: each pool's own setting.
        environ: where variables are looked up, the admin token among them; None: the process's environment.
        webhooks: the file that the hooks came from, to be read again by a reload.
    """
    app = FastAPI(
        title="Millpond",
        version=version("millpond"),
        lifespan=lifespan(registry, close_timeout=close_timeout),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.include_router(health_router())
    app.include_router(admin_router(environ=environ))
    add_exception_handlers(app)
    app.add_exception_handler(HTTPException, _as_problem)
    # What no route of the service takes is the gateway's, whatever the hooks are at that moment.
    gateway = app.router.default = Gateway(registry, hooks)
    if registry.path is not None:
        app.state.reloader = Reloader(GatewayFiles(registry, gateway, webhooks, environ=environ))
    return app


async def _as_problem(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - it was registered for nothing else
    return problem(error.status_code, error.detail, error.headers)
