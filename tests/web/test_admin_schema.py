"""The admin API against its own OpenAPI document: whatever is sent, it answers as it says it does."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from schemathesis import BaseSchema, Case, GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from millpond.web import admin_router, guessing, lifespan

TOKEN = "planted-token"
HEALTH = list(HealthCheck)
CHECKS = (
    schemathesis.checks.not_a_server_error, status_code_conformance, content_type_conformance,
    response_schema_conformance, response_headers_conformance,
)  # fmt: skip


def application(path: Path) -> FastAPI:
    """Two connections, one of which cannot be reached, and the admin API."""
    path.write_text(
        json.dumps(
            {
                "events": {
                    "type": "sqlite",
                    "database": str(path.with_name("events.db")),
                    "pool": {"min_size": 0},
                },
                "orders": {"type": "postgresql", "host": "127.0.0.1", "port": 1, "pool": {"min_size": 0}},
            }
        )
    )
    app = FastAPI(lifespan=lifespan(path))
    app.include_router(admin_router(environ={"CONFIG_RELOAD_ADMIN_TOKEN": TOKEN}))
    return app


@pytest.fixture(autouse=True)
def answers_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those to wrong tokens, of which some are sent in both tests."""
    monkeypatch.setattr(guessing, "_HELD_S", 0.0)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> BaseSchema:
    """The application's own document."""
    app = application(tmp_path_factory.mktemp("schema") / "connections.json")
    return schemathesis.openapi.from_asgi("/openapi.json", app)


def each_operation(api: BaseSchema, examples: int, test: Callable[[Case], None]) -> int:
    """Run `test` on generated requests, right and wrong ones, of every operation; how many there are."""
    operations = [found.ok() for found in api.get_all_operations()]
    for operation in operations:
        for mode in GenerationMode:

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(
                max_examples=examples, deadline=None, derandomize=True, database=None,
                suppress_health_check=HEALTH,
            )  # fmt: skip
            def sent(case: Case) -> None:
                test(case)

            sent()
    return len(operations)


def test_it_answers_as_its_document_says(api: BaseSchema) -> None:
    """Whatever is sent with the right token; what the document does not allow is refused."""

    def check(case: Case) -> None:
        case.call_and_validate(headers={"Authorization": f"Bearer {TOKEN}"}, checks=list(CHECKS))

    assert each_operation(api, 15, check) == 9


def test_without_the_token_it_says_nothing(api: BaseSchema) -> None:
    """401, or 429 after a while, whatever else is sent."""

    def check(case: Case) -> None:
        assert case.call(headers={"Authorization": "Bearer wrong"}).status_code in (401, 429)

    each_operation(api, 3, check)
