"""The command itself: how it is called, what it says when it is called wrongly, what is missing."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command import here, millpond, write
from tests.gateway.service import environment


def test_the_version_is_told(tmp_path: Path) -> None:
    from importlib.metadata import version

    ran = millpond("--version", directory=tmp_path)

    assert (ran.status, ran.out, ran.err) == (0, f"millpond {version('millpond')}\n", "")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["serve", "--help"], ["check", "--help"]])
def test_help_fits_a_terminal(tmp_path: Path, arguments: list[str]) -> None:
    """80 columns, on standard output."""
    ran = here(*arguments, directory=tmp_path, COLUMNS="80")

    assert (ran.status, ran.err) == (0, "")
    assert "Usage: millpond" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check"], "--connections"),
        (["serve", "--port", "x", "--connections", "f"], "--port"),
        (["serve", "--port", "70000", "--connections", "f"], "--port"),
        (["check", "--conections", "f"], "--conections"),
        (["chek"], "chek"),
    ],
)
def test_a_wrong_call_is_one_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    ran = here(*arguments, directory=tmp_path)

    assert ran.status == 2
    (line,) = ran.complaints
    assert line.startswith("millpond: ")
    assert words in line


@pytest.mark.parametrize("command", ["check", "serve"])
@pytest.mark.parametrize("name", ["missing.json", "directory.json", "connections.ini"])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, command: str, name: str) -> None:
    (tmp_path / "directory.json").mkdir()
    write(tmp_path, "connections.ini", "")

    ran = here(command, "--connections", name, directory=tmp_path)

    assert ran.status == 2
    (line,) = ran.complaints
    assert line.startswith(f"millpond: {name}: ")


@pytest.mark.parametrize("package", ["typer", "pydantic", "fastapi", "uvicorn"])
def test_a_missing_package_names_the_extra(tmp_path: Path, package: str) -> None:
    """The package is hidden from a real run, as if it had never been installed."""
    script = f"""
import sys
sys.modules[{package!r}] = None
sys.argv = ["millpond", "--version"]
from millpond.cli import main
main()
"""
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert ran.returncode == 2
    (line,) = ran.stderr.splitlines()
    assert package in line
    assert "millpond[cli]" in line


@pytest.mark.parametrize(("kind", "package"), [("postgresql", "asyncpg"), ("sqlite", "aiosqlite")])
def test_a_missing_client_library_names_its_extra_and_the_connection(
    tmp_path: Path, kind: str, package: str
) -> None:
    write(tmp_path, "connections.json", {"events": {"type": kind}})
    script = f"""
import sys
sys.modules[{package!r}] = None
sys.argv = ["millpond", "check", "--connections", "connections.json"]
from millpond.cli import main
main()
"""
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert ran.returncode == 2
    (line,) = ran.stderr.splitlines()
    assert "events" in line
    assert f"millpond[{kind}]" in line
