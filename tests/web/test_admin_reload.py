"""What the admin API does: reload, resize, drain, clear, pause, close a version."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from millpond.registry import ConnectionPoolRegistry
from millpond.web import admin_router, connection, lifespan
from tests.web.conftest import Written

TOKEN = "planted-token"
ALLOWED = {"Authorization": f"Bearer {TOKEN}"}


def client_for(path: Path, environ: Mapping[str, str] | None = None) -> TestClient:
    """An application with the admin API and one handler that uses a connection."""
    app = FastAPI(lifespan=lifespan(path))
    app.include_router(admin_router(environ=environ or {"CONFIG_RELOAD_ADMIN_TOKEN": TOKEN}))

    @app.get("/use")
    async def use(db: Annotated[Any, connection("events")]) -> int:
        async with db.execute("SELECT 1") as cursor:
            return int((await cursor.fetchone())[0])

    return TestClient(app, headers=ALLOWED)


@pytest.fixture
def client(connections_file: Written) -> Iterator[TestClient]:
    """A client of an application whose pool has been used."""
    with client_for(connections_file(pool={"min_size": 0, "max_size": 2})) as made:
        assert made.get("/use").json() == 1
        yield made


def reload(client: TestClient, **wanted: Any) -> Any:
    """Ask for a reload."""
    return client.post("/admin/reload-config", json=wanted)


def test_a_reload_takes_over_what_has_changed(
    client: TestClient, connections_file: Written, tmp_path: Path
) -> None:
    """And says what; the next request is served by the new version."""
    connections_file(pool={"min_size": 0, "max_size": 2, "reset": "rollback"}, other={
        "type": "sqlite", "database": str(tmp_path / "other.db"),
    })  # fmt: skip

    answer = reload(client)

    assert answer.status_code == 200
    said = answer.json()
    assert said["ok"]
    assert said["trigger"] == "admin"
    assert said["connections"]["changed"] == ["events"]
    assert said["connections"]["added"] == ["other"]
    assert said["webhooks"] is None
    assert client.get("/use").json() == 1
    active = {each["name"]: each["version"] for each in client.get("/admin/status").json()["active"]}
    assert active == {"events": 2, "other": 1}


def test_validating_changes_nothing(client: TestClient, connections_file: Written) -> None:
    """It says what would be."""
    connections_file(pool={"min_size": 0, "max_size": 5})

    said = reload(client, validate_only=True).json()

    assert said["validated_only"]
    assert said["connections"]["adjusted"] == ["events"]
    assert client.get("/admin/status").json()["active"][0]["pool"]["max_size"] == 2
    assert client.get("/admin/config-status").json()["reloads"] == 0


@pytest.mark.parametrize(
    "content", ["{", '{"events": {"type": "sqlite", "databse": "planted-secret"}}', None]
)
def test_a_file_that_cannot_be_used_changes_nothing_and_is_told(
    client: TestClient, connections_file: Written, content: str | None
) -> None:
    """409, one line for each fault; it stands in the status until a reload ends well."""
    path = connections_file()
    path.unlink() if content is None else path.write_text(content)

    answer = reload(client)
    status = client.get("/admin/config-status").json()

    assert answer.status_code == 409
    assert answer.json()["problems"]
    assert "connections.json" in answer.json()["problems"][0]
    assert "planted-secret" not in answer.text
    assert client.get("/use").json() == 1
    assert (status["reloads"], status["failures"]) == (1, 1)
    assert status["last"]["problems"] == answer.json()["problems"]
    connections_file()
    assert reload(client).json()["ok"]
    assert client.get("/admin/config-status").json()["last"]["ok"]


def test_a_connection_that_cannot_be_reached_goes_on_as_it_was(
    client: TestClient, connections_file: Written, tmp_path: Path
) -> None:
    """The answer says why."""
    (tmp_path / "no.db").write_text(
        "this is no database, and longer than a header has to be for SQLite to see it"
    )
    path = connections_file()
    path.write_text(json.dumps({"events": {"type": "sqlite", "database": str(tmp_path / "no.db")}}))

    said = reload(client).json()

    assert not said["ok"]
    assert "not a database" in said["connections"]["errors"]["events"]
    assert client.get("/use").json() == 1


def test_the_status_of_the_configuration_names_its_files(client: TestClient) -> None:
    """And whether they are watched."""
    status = client.get("/admin/config-status").json()

    assert [Path(each).name for each in status["files"]] == ["connections.json"]
    assert status["watching"] is False
    assert status["last"] is None


def test_an_application_without_a_file_has_nothing_to_reload() -> None:
    """404 says so."""
    app = FastAPI(lifespan=lifespan(lambda: ConnectionPoolRegistry()))
    app.include_router(admin_router(environ={"CONFIG_RELOAD_ADMIN_TOKEN": TOKEN}))
    with TestClient(app, headers=ALLOWED) as client:
        assert reload(client).status_code == 404
        assert client.get("/admin/config-status").status_code == 404


def test_a_pool_is_resized_cleared_paused_drained_and_resumed(client: TestClient) -> None:
    """Each answers with the pool as it is then."""
    resized = client.post("/admin/pools/events/resize", json={"max_size": 7}).json()
    assert (resized["pool"]["max_size"], resized["pool"]["min_size"]) == (7, 0)
    cleared = client.post("/admin/pools/events/clear").json()
    assert cleared["pool"]["generation"] == 1
    assert client.post("/admin/pools/events/pause", json={"mode": "refuse"}).json()["state"] == "paused"
    assert client.post("/admin/pools/events/resume").json()["state"] == "open"
    drained = client.post("/admin/pools/events/drain", json={"timeout": 1}).json()
    assert (drained["state"], drained["leases"]) == ("draining", 0)
    assert client.post("/admin/pools/events/resume").json()["state"] == "open"
    assert client.get("/use").json() == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("resize", {"max_size": 0}), ("resize", {"max_size": "7"}), ("resize", {"size": 7}), ("resize", None),
        ("clear", {"spread": -1}), ("pause", {"mode": "never"}),
        ("drain", {"timeout": 1e9}),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_422(client: TestClient, path: str, body: Any) -> None:
    """And changes nothing."""
    answer = client.post(f"/admin/pools/events/{path}", json=body)

    assert answer.status_code == 422
    assert client.get("/admin/status").json()["active"][0]["pool"]["max_size"] == 2
    assert client.get("/use").json() == 1


@pytest.mark.parametrize(
    "body", [{"max_size": "planted-secret"}, {"password": "planted-secret"}, ["planted-secret"]]
)
def test_what_makes_no_sense_is_not_repeated(client: TestClient, body: Any) -> None:
    """Somebody may have sent the wrong file; the answer goes through proxies and logs."""
    answer = client.post("/admin/pools/events/resize", json=body)

    assert answer.status_code == 422
    assert answer.json()["detail"][0].keys() == {"type", "loc", "msg"}
    assert "planted-secret" not in answer.text


def test_sizes_that_do_not_fit_each_other_are_409(client: TestClient) -> None:
    """What stays decides, not what was asked."""
    answer = client.post("/admin/pools/events/resize", json={"min_size": 5})

    assert answer.status_code == 409
    assert "min_size" in answer.json()["detail"]


def test_nothing_of_a_body_is_read_without_the_token(client: TestClient) -> None:
    """Not even to say that it is no JSON."""
    wrong = {"Authorization": "Bearer wrong", "Content-Type": "application/json"}

    assert client.post("/admin/reload-config", content=b"\x00", headers=wrong).status_code == 401


@pytest.mark.parametrize("what", ["resize", "clear", "pause", "resume", "drain"])
def test_an_unknown_name_is_404(client: TestClient, what: str) -> None:
    """With the right token; see above for the wrong one."""
    assert client.post(f"/admin/pools/nobody/{what}", json={}).status_code == 404


def test_a_deprecated_version_is_closed_when_an_operator_says_so(connections_file: Written) -> None:
    """The version in use is not: that is what removing it from the file is for."""
    path = connections_file(pool={"min_size": 0, "max_size": 2})
    app = FastAPI(lifespan=lifespan(path))
    app.include_router(admin_router(environ={"CONFIG_RELOAD_ADMIN_TOKEN": TOKEN}))
    held: list[Any] = []

    @app.get("/hold")
    async def hold() -> None:
        held.append(await app.state.registry.get_pool("events").lease())

    with TestClient(app, headers=ALLOWED) as client:
        client.get("/hold")
        connections_file(pool={"min_size": 0, "max_size": 2, "reset": "none"})
        assert reload(client).json()["connections"]["changed"] == ["events"]
        (deprecated,) = client.get("/admin/status").json()["deprecated"]
        assert (deprecated["version"], deprecated["leases"]) == (1, 1)
        assert client.delete("/admin/pools/events/versions/2").status_code == 404
        assert client.delete("/admin/pools/events/versions/1").status_code == 204
        assert client.get("/admin/status").json()["deprecated"] == []
        assert client.delete("/admin/pools/events/versions/1").status_code == 404


def test_a_token_from_a_file_is_read_at_each_request(connections_file: Written, tmp_path: Path) -> None:
    """It rotates without a restart; a file that is gone switches the admin API off."""
    token = tmp_path / "token"
    token.write_text("first\n")
    with client_for(connections_file(), {"CONFIG_RELOAD_ADMIN_TOKEN_FILE": str(token)}) as client:
        first, second = {"Authorization": "Bearer first"}, {"Authorization": "Bearer second"}
        assert client.get("/admin/status", headers=first).status_code == 200
        token.write_text("second\n")
        assert client.get("/admin/status", headers=first).status_code == 401
        assert client.get("/admin/status", headers=second).status_code == 200
        token.unlink()
        assert client.get("/admin/status", headers=second).status_code == 403
