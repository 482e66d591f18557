"""The admin API: off without a token, closed without the right one."""

from collections.abc import Mapping

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from millpond.web import admin_router, connection, lifespan
from tests.web.conftest import Written

TOKEN = "planted-token-é"


def client_for(connections_file: Written, environ: Mapping[str, str]) -> TestClient:
    app = FastAPI(lifespan=lifespan(connections_file()))
    app.include_router(admin_router(environ=environ))

    @app.get("/use")
    async def use(db: object = connection("events")) -> None: ...

    return TestClient(app)


def bearer(token: str) -> dict[str, bytes]:
    return {"Authorization": b"Bearer " + token.encode()}


@pytest.mark.parametrize(
    "configured", [{}, {"CONFIG_RELOAD_ADMIN_TOKEN": ""}, {"CONFIG_RELOAD_ADMIN_TOKEN": " \n"}]
)
@pytest.mark.parametrize("path", ["/admin/status", "/admin/no-such-thing"])
@pytest.mark.parametrize("given", ["", " ", "guess"])
def test_without_a_token_everything_is_forbidden(
    connections_file: Written, configured: dict[str, str], path: str, given: str
) -> None:
    """An empty or blank token counts as none, and nobody can guess it."""
    with client_for(connections_file, configured) as client:
        assert client.get(path).status_code == 403
        assert client.get(path, headers=bearer(given)).status_code == 403
        assert client.post(path, headers=bearer(given)).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer(""),
        bearer("wrong"),
        bearer(TOKEN[:-1]),
        bearer(TOKEN + "x"),
        bearer(TOKEN.upper()),
        {"Authorization": b"Basic " + TOKEN.encode()},
        {"Authorization": TOKEN.encode()},
        {"Authorization": b"Bearer \xff\xfe"},
    ],
)
def test_a_missing_or_wrong_token_is_401(connections_file: Written, headers: dict[str, bytes]) -> None:
    """And a challenge, as RFC 9110 wants it; also for what is not there."""
    with client_for(connections_file, {"CONFIG_RELOAD_ADMIN_TOKEN": TOKEN}) as client:
        for path in ("/admin/status", "/admin/no-such-thing"):
            answer = client.get(path, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer ")
            assert TOKEN not in answer.text


def test_the_right_token_shows_every_pool(connections_file: Written) -> None:
    """Versions, states, leases, numbers; asking makes no pool."""
    with client_for(connections_file, {"CONFIG_RELOAD_ADMIN_TOKEN": f" {TOKEN}\n"}) as client:
        before = client.get("/admin/status", headers=bearer(TOKEN)).json()
        client.get("/use")
        answer = client.get("/admin/status", headers={"Authorization": b"bearer " + TOKEN.encode()})

    (unopened,) = before["active"]
    assert (unopened["state"], unopened["pool"]) == ("not opened", None)
    assert answer.status_code == 200
    (events,) = answer.json()["active"]
    assert (events["name"], events["kind"], events["version"], events["leases"]) == ("events", "sqlite", 1, 0)
    assert events["pool"]["total"] >= 1
    assert answer.json()["deprecated"] == []
    assert answer.json()["healthy"]


def test_a_token_can_change_without_a_restart(connections_file: Written) -> None:
    environ = {"CONFIG_RELOAD_ADMIN_TOKEN": "old"}
    with client_for(connections_file, environ) as client:
        assert client.get("/admin/status", headers=bearer("old")).status_code == 200
        environ["CONFIG_RELOAD_ADMIN_TOKEN"] = "new"
        assert client.get("/admin/status", headers=bearer("old")).status_code == 401
        assert client.get("/admin/status", headers=bearer("new")).status_code == 200


def test_the_openapi_document_knows_it(connections_file: Written) -> None:
    with client_for(connections_file, {}) as client:
        document = client.get("/openapi.json").json()

    operation = document["paths"]["/admin/status"]["get"]
    assert operation["security"]
    assert {"200", "401", "403"} <= operation["responses"].keys()
    assert all(path.startswith("/admin/") or path == "/use" for path in document["paths"])
