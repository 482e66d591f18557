"""The quickstart, as its README tells it: the files as they are, the load that counts its rows."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gateway.service import Service, environment
from tests.gateway.traffic import client_of
from tests.servers import PostgresServer, free_port

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"


def serve(directory: Path, suffix: str, **environ: str) -> Service:
    """The example's own files, served from an empty directory."""
    connections = json.loads((QUICKSTART / f"connections{suffix}.json").read_text())
    hooks = json.loads((QUICKSTART / f"webhooks{suffix}.json").read_text())["webhooks"]
    return Service(directory, connections, hooks, environ=environ)


def load(service: Service, *arguments: str) -> tuple[int, dict[str, str], str]:
    """Run the load against a service: exit status, what it printed by its first word, its errors."""
    url = f"{service.url}/webhook/quickstart"
    command = [sys.executable, str(QUICKSTART / "load.py"), "--url", url]
    ran = subprocess.run(
        [*command, "--connections", "connections.json", "--count", "600", *arguments],
        cwd=service.directory,
        env=service.environ,
        capture_output=True,
        text=True,
        timeout=150,
    )
    return ran.returncode, dict(re.findall(r"^(\w+) +(.*)$", ran.stdout, re.MULTILINE)), ran.stderr


def test_every_confirmed_row_is_there(workplace: Path) -> None:
    """On SQLite, with the file where the README says."""
    with serve(workplace, "") as service:
        status, printed, errors = load(service)

        assert (status, errors) == (0, "")
        assert printed["answers"] == "201: 600"
        assert (printed["confirmed"], printed["stored"]) == ("600", "600")
        assert (printed["missing"], printed["surplus"]) == ("0", "0")
        assert (workplace / "var" / "quickstart.db").exists()
        assert service.stop() == 0


def test_the_same_on_postgresql(workplace: Path, postgres: PostgresServer, postgres_database: str) -> None:
    """With the connection's values from the environment."""
    environ = {
        "PGHOST": postgres.host,
        "PGPORT": str(postgres.port),
        "PGDATABASE": postgres_database,
        "PGUSER": postgres.user,
        "PGPASSWORD": postgres.password,
    }
    with serve(workplace, ".postgresql", **environ) as service:
        status, printed, errors = load(service, "--rate", "2000")

        assert (status, errors) == (0, "")
        assert (printed["confirmed"], printed["missing"], printed["surplus"]) == ("600", "0", "0")
        assert service.stop() == 0


def test_missing_rows_are_found(workplace: Path) -> None:
    """Rows that go away behind its back: it says how many, and exits with 1."""
    with serve(workplace, "") as service:
        with client_of(service.url) as client:
            assert client.post("/webhook/quickstart", json={}).status_code == 201
        (workplace / "elsewhere").mkdir()
        other = {"quickstart": {"type": "sqlite", "database": "elsewhere/other.db"}}
        (workplace / "connections.json").write_text(json.dumps(other))
        subprocess.run(
            [sys.executable, "-c", "import sqlite3; sqlite3.connect('elsewhere/other.db').execute("
             "'CREATE TABLE webhook_events (body text)')"],
            cwd=workplace, check=True, timeout=150, env=environment(),
        )  # fmt: skip

        status, printed, errors = load(service)

        assert (status, errors) == (1, "")
        assert (printed["confirmed"], printed["missing"]) == ("600", "600")


@pytest.mark.parametrize("suffix", ["", ".postgresql"])
def test_both_sets_of_files_belong_together(suffix: str) -> None:
    """The connection that the hook names is the one that the file has."""
    connections = json.loads((QUICKSTART / f"connections{suffix}.json").read_text())
    (hook,) = json.loads((QUICKSTART / f"webhooks{suffix}.json").read_text())["webhooks"]
    (module,) = hook["modules"]

    assert connections[module["connection"]]["type"] == module["type"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--count", "0"], "--count must be at least 1"),
        (["--concurrency", "0"], "--concurrency must be at least 1"),
        (["--connection", "nope"], "there is no connection 'nope'"),
        (["--connections", "nope.json"], "nope.json: cannot be read"),
    ],
)
def test_the_load_says_in_a_line_what_it_cannot_do(arguments: list[str], words: str) -> None:
    """Before anything is sent."""
    command = [sys.executable, str(QUICKSTART / "load.py"), *arguments]

    ran = subprocess.run(command, capture_output=True, text=True, timeout=150)

    assert ran.returncode == 2
    assert words in ran.stderr.splitlines()[-1]
    assert "Traceback" not in ran.stderr
    assert ran.stdout == ""


def test_the_load_tells_its_answers_although_nobody_answered(workplace: Path) -> None:
    """Nor is there a table in which it could count."""
    with serve(workplace, "") as service:
        service.stop()
        status, printed, errors = load(service, "--count", "3")

    assert (status, errors) == (0, "")
    assert printed["answers"] == "ConnectError: 3"
    assert printed["stored"] == "0"


def test_the_load_says_in_a_line_that_it_cannot_count(workplace: Path) -> None:
    """The answers are told before; exit status 1, for the files are right."""
    gone = {"type": "postgresql", "host": "127.0.0.1", "port": free_port(), "user": "u"}
    gone["pool"] = {"connect_retries": 0}
    with serve(workplace, "") as service:
        (workplace / "connections.json").write_text(json.dumps({"quickstart": gone}))
        status, printed, errors = load(service, "--count", "3")

    assert status == 1
    assert printed["answers"] == "201: 3"
    assert errors.splitlines()[-1].startswith("load.py: pool 'quickstart': no connection")
    assert "Traceback" not in errors
