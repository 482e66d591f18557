"""A service whose files change while it serves: by an editor, a ConfigMap, a signal, an operator."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.gateway.backends import Sqlite
from tests.gateway.service import Service, hook
from tests.gateway.traffic import eventually

TOKEN = "planted-token"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
WATCHED = {"CONFIG_FILE_WATCHING_ENABLED": "true", "CONFIG_RELOAD_DEBOUNCE_SECONDS": "0.2"}


def environ(**more: str) -> dict[str, str]:
    """The service's environment: an admin token, and more."""
    return {"CONFIG_RELOAD_ADMIN_TOKEN": TOKEN, **more}


def served(service: Service) -> dict[str, int]:
    """The version in use of each connection."""
    status = httpx.get(f"{service.url}/admin/status", headers=ADMIN).json()
    return {each["name"]: each["version"] for each in status["active"]}


def config_status(service: Service) -> dict[str, Any]:
    """What the service says of its configuration."""
    found: dict[str, Any] = httpx.get(f"{service.url}/admin/config-status", headers=ADMIN).json()
    return found


def post(service: Service, path: str) -> int:
    """Send one event; the answer's status."""
    return httpx.post(f"{service.url}{path}", json={"n": 1}).status_code


def by_replacing(path: Path, content: str) -> None:
    """As an editor saves: a new file is put in the place of the old one."""
    new = path.with_suffix(".new")
    new.write_text(content)
    new.replace(path)


def by_writing(path: Path, content: str) -> None:
    """In two halves, the first of which is no JSON."""
    half = len(content) // 2
    with path.open("w") as opened:
        opened.write(content[:half])
        opened.flush()
        opened.write(content[half:])


@pytest.mark.parametrize("save", [by_replacing, by_writing])
async def test_a_file_that_is_saved_again_and_again_is_taken_over_each_time(
    sqlite_backend: Sqlite, workplace: Path, save: Callable[[Path, str], None]
) -> None:
    """Also the second time, when a watch on the file itself would be gone with it."""
    hooks = [hook("/events", "sqlite", "events", module={"create_table": True})]
    connections = {"events": sqlite_backend.connection()}
    with Service(workplace, connections, hooks, environ=environ(**WATCHED)) as service:
        assert config_status(service)["watching"]
        for version, level in enumerate(("rollback", "none", "full"), start=2):
            changed = {"events": {**connections["events"], "pool": {"reset": level}}}
            save(workplace / "connections.json", json.dumps(changed))
            await eventually(lambda version=version: served(service) == {"events": version}, "a new version")
            assert post(service, "/events") == 201
        assert config_status(service)["last"]["trigger"] == "file"
        # The log is in the directory that is watched: a line about each change there would be a change.
        assert "watchfiles" not in service.stderr


async def test_a_config_map_is_taken_over_when_its_link_is_swapped(
    sqlite_backend: Sqlite, workplace: Path
) -> None:
    """Kubernetes puts a new directory in the place of the old one; the files themselves never change."""
    hooks = [hook("/events", "sqlite", "events", module={"create_table": True})]
    service = Service(workplace, {"events": sqlite_backend.connection()}, hooks, environ=environ(**WATCHED))
    for name in ("connections.json", "webhooks.json"):
        first = workplace / "..first"
        first.mkdir(exist_ok=True)
        (workplace / name).rename(first / name)
        (workplace / name).symlink_to(Path("..data") / name)
    (workplace / "..data").symlink_to("..first")
    with service:
        second = workplace / "..second"
        second.mkdir()
        (second / "connections.json").write_text(
            json.dumps({"events": sqlite_backend.connection(), "more": sqlite_backend.connection()})
        )
        (second / "webhooks.json").write_text(
            json.dumps({"webhooks": [hook("/more", "sqlite", "more", module={"create_table": True})]})
        )
        (workplace / "..new").symlink_to("..second")
        os.replace(workplace / "..new", workplace / "..data")

        await eventually(lambda: post(service, "/more") == 201, "the new hook")
        assert post(service, "/events") == 404
        assert set(served(service)) == {"events", "more"}


async def test_a_secret_in_a_file_of_its_own_is_watched_like_the_rest(
    sqlite_backend: Sqlite, workplace: Path, tmp_path: Path
) -> None:
    """`${file:...}`: the file with the value changes, and nothing else."""
    place = tmp_path / "secrets"
    place.mkdir()
    (place / "path").write_text(str(sqlite_backend.path))
    connections = {"events": {"type": "sqlite", "database": f"${{file:{place / 'path'}}}"}}
    with Service(workplace, connections, environ=environ(**WATCHED)) as service:
        (place / "path").write_text(str(tmp_path / "elsewhere.db"))
        await eventually(lambda: served(service) == {"events": 2}, "a new version")


@pytest.mark.parametrize("name", ["connections.json", "webhooks.json"])
async def test_a_secret_that_is_mounted_after_the_file_that_names_it_is_taken_over(
    sqlite_backend: Sqlite, workplace: Path, tmp_path: Path, name: str
) -> None:
    """The file changes once, in vain; nothing but the missing one comes after it."""
    hooks = [hook("/events", "sqlite", "events", module={"create_table": True})]
    connections = {"events": sqlite_backend.connection()}
    place = tmp_path / "secrets"
    place.mkdir()
    reference = f"${{file:{place / 'late'}}}"
    if name == "connections.json":
        changed, value = {"events": {"type": "sqlite", "database": reference}}, str(tmp_path / "elsewhere.db")
    else:
        changed, value = {"webhooks": [{**hooks[0], "auth": {"type": "bearer", "token": reference}}]}, "token"
    with Service(workplace, connections, hooks, environ=environ(**WATCHED)) as service:
        by_replacing(workplace / name, json.dumps(changed))
        await eventually(lambda: config_status(service)["failures"] == 1, "a failure")
        assert str(place / "late") in config_status(service)["last"]["problems"][0]
        (place / "late").write_text(value)
        await eventually(lambda: config_status(service)["last"]["ok"], "it is there")


BREAKS: dict[str, Callable[[Path, str], object]] = {
    "half of it": lambda path, right: path.write_text(right[: len(right) // 2]),
    "a wrong one": lambda path, right: path.write_text('{"events": {"type": "sqlit"}}'),
    "no connections": lambda path, right: path.write_text("{}"),
    "no file": lambda path, right: path.unlink(),
    "a link to itself": lambda path, right: (path.unlink(), path.symlink_to(path.name)),
    "a pipe": lambda path, right: (path.unlink(), os.mkfifo(path)),
    "a directory": lambda path, right: (path.unlink(), path.mkdir()),
}


async def test_a_broken_file_changes_nothing_and_is_told_until_it_is_mended(
    sqlite_backend: Sqlite, workplace: Path
) -> None:
    """The service goes on with what it has, and sees what comes next as soon as before."""
    hooks = [hook("/events", "sqlite", "events", module={"create_table": True})]
    right = json.dumps({"events": sqlite_backend.connection()})
    path = workplace / "connections.json"
    with Service(workplace, json.loads(right), hooks, environ=environ(**WATCHED)) as service:
        for failures, (what, breaks) in enumerate(BREAKS.items(), start=1):
            breaks(path, right)
            await eventually(
                lambda failures=failures: config_status(service)["failures"] == failures, what, timeout=5
            )
            assert len(config_status(service)["last"]["problems"]) == 1
            assert post(service, "/events") == 201
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
            path.write_text(right)
            await eventually(lambda: config_status(service)["last"]["ok"], f"{what}, mended", timeout=5)
        assert served(service) == {"events": 1}


async def test_a_signal_reloads_both_files(sqlite_backend: Sqlite, workplace: Path) -> None:
    """SIGHUP, as operators expect of a service; files need not be watched for it."""
    hooks = [hook("/events", "sqlite", "events", module={"create_table": True})]
    connections = {"events": sqlite_backend.connection()}
    with Service(workplace, connections, hooks, environ=environ()) as service:
        assert not config_status(service)["watching"]
        more = [*hooks, hook("/more", "sqlite", "more", module={"create_table": True})]
        (workplace / "connections.json").write_text(
            json.dumps({**connections, "more": connections["events"]})
        )
        (workplace / "webhooks.json").write_text(json.dumps({"webhooks": more}))
        assert post(service, "/more") == 404
        service.signal(signal.SIGHUP)
        await eventually(lambda: post(service, "/more") == 201, "the new hook")
        assert config_status(service)["last"]["trigger"] == "signal"
        assert config_status(service)["last"]["webhooks"]["added"] == ["/more"]
        service.signal(signal.SIGHUP)
        service.signal(signal.SIGHUP)
        assert post(service, "/events") == 201


async def test_files_that_do_not_fit_each_other_change_nothing(
    sqlite_backend: Sqlite, workplace: Path
) -> None:
    """A hook of a connection that is gone; connections without which a hook would be stranded."""
    hooks = [hook("/events", "sqlite", "events", module={"create_table": True})]
    with Service(workplace, {"events": sqlite_backend.connection()}, hooks, environ=environ()) as service:
        (workplace / "connections.json").write_text(json.dumps({"others": sqlite_backend.connection()}))
        for wanted, words in (
            ({}, "there is no connection of this name"),
            ({"reload_webhooks": False}, "is used by hook /events"),
        ):
            answer = httpx.post(f"{service.url}/admin/reload-config", headers=ADMIN, json=wanted)
            assert answer.status_code == 409
            assert words in answer.json()["problems"][0]
        assert post(service, "/events") == 201


async def test_what_is_wrong_with_both_files_is_told_at_once(sqlite_backend: Sqlite, workplace: Path) -> None:
    """By a reload, and when the service is started with them."""
    hooks = [hook("/events", "sqlite", "events", module={"create_table": True})]
    service = Service(workplace, {"events": sqlite_backend.connection()}, hooks, environ=environ())
    with service:
        (workplace / "connections.json").write_text('{"events": {"type": "nothing"}}')
        (workplace / "webhooks.json").write_text('{"webhooks": [{"path": "x", "modules": []}]}')
        answer = httpx.post(f"{service.url}/admin/reload-config", headers=ADMIN)
        files = {problem.split(":")[0] for problem in answer.json()["problems"]}
        assert files == {"connections.json", "webhooks.json"}
        assert post(service, "/events") == 201
    service.launch()
    assert await asyncio.to_thread(service.wait) == 2
    assert all(f"{name}: " in service.stderr for name in files)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CONFIG_FILE_WATCHING_ENABLED", "perhaps"), ("CONFIG_RELOAD_DEBOUNCE_SECONDS", "soon"),
        ("CONFIG_POOL_MIGRATION_TIMEOUT", "-1"),
    ],
)  # fmt: skip
def test_a_variable_that_means_nothing_is_named(
    sqlite_backend: Sqlite, workplace: Path, variable: str, value: str
) -> None:
    """One line, and exit status 2."""
    service = Service(workplace, {"events": sqlite_backend.connection()}, environ={variable: value})
    service.launch()

    assert service.wait() == 2
    (line,) = service.stderr.splitlines()
    assert variable in line


async def test_what_a_backend_has_prevented_is_tried_again_though_no_file_changes(
    sqlite_backend: Sqlite, workplace: Path, tmp_path: Path
) -> None:
    """A rotation may write the file first and change the server a minute later."""
    connections = {"events": sqlite_backend.connection()}
    bad = tmp_path / "bad.db"
    bad.write_text("this is no database; " * 10)
    with Service(workplace, connections, environ=environ(**WATCHED)) as service:
        moved = {"events": {"type": "sqlite", "database": str(bad)}}
        (workplace / "connections.json").write_text(json.dumps(moved))
        await eventually(lambda: config_status(service)["failures"] > 0, "a failure")
        assert served(service) == {"events": 1}
        bad.unlink()
        await eventually(lambda: served(service) == {"events": 2}, "a new version", timeout=30)


async def test_a_signal_and_a_change_while_the_service_starts_are_not_missed(
    sqlite_backend: Sqlite, workplace: Path
) -> None:
    """It waits for a backend that is silent; a SIGHUP does not end it, and a new file is seen afterwards."""
    connections = {"events": sqlite_backend.connection()}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(20)
        silent_one = {"type": "redis", "host": "127.0.0.1", "port": silent.getsockname()[1]}
        service = Service(workplace, {**connections, "silent": silent_one}, environ=environ(**WATCHED))
        service.launch()
        client, _ = await asyncio.to_thread(silent.accept)  # it is asking whether somebody is there
        service.signal(signal.SIGHUP)
        (workplace / "connections.json").write_text(
            json.dumps({**connections, "more": connections["events"]})
        )
        client.close()
    await asyncio.to_thread(service.await_serving)
    await eventually(lambda: set(served(service)) == {"events", "more"}, "the new file")
    assert await asyncio.to_thread(service.stop) == 0
