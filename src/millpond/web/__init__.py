"""The parts a FastAPI service needs around its pools; each can be used without the others.

    lifespan, opened, registry_of    a registry that lives as long as the application
    connection                       a dependency: one lease, given back before the answer is sent
    add_exception_handlers           503 and Retry-After when a pool cannot serve
    health_router                    GET /health and GET /health/db
    admin_router                     GET /admin/status, behind a bearer token

Needs the extra `millpond[web]`.
"""

from __future__ import annotations

from importlib.util import find_spec

from millpond.errors import MissingExtra

if find_spec("fastapi") is None:
    raise MissingExtra("web", needed_for="millpond.web", module="fastapi")

from millpond.web.admin import admin_router
from millpond.web.dependencies import connection
from millpond.web.health import health_router
from millpond.web.lifespan import lifespan, opened, registry_of
from millpond.web.problems import add_exception_handlers

__all__ = [
    "add_exception_handlers",
    "admin_router",
    "connection",
    "health_router",
    "lifespan",
    "opened",
    "registry_of",
]
