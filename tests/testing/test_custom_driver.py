"""The example of a driver in a package of its own, installed and tested as its README says."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "custom_driver"
TUTORIAL = ROOT / "docs" / "writing-a-driver.md"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A copy of the example, and beside it a directory into which its package was installed."""
    copy = tmp_path / "custom_driver"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("__pycache__", ".pytest_cache"))
    subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-index",
            "--no-build-isolation", "--no-deps", "--target", str(tmp_path / "site"), str(copy),
        ],
        check=True,
        timeout=50,
    )  # fmt: skip
    return copy


def pytest_in(directory: Path, *paths: Path, only: str = "") -> subprocess.CompletedProcess[str]:
    """What pytest says of a directory: without a plugin for asyncio, and with warnings for errors."""
    options = ["-q", "-W", "error", "-p", "no:asyncio", "-p", "no:cacheprovider", "-k", only]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def all_passed(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether it ran the whole contract, and every test of it passed."""
    ran = re.search(r"(\d+) passed", done.stdout)
    others = re.search("skipped|deselected|xfailed", done.stdout)
    return done.returncode == 0 and ran is not None and int(ran[1]) > 30 and others is None


@pytest.mark.timeout(120)
def test_the_example_passes_the_contract_from_its_own_package(installed: Path) -> None:
    """Found by its entry point, from a file and from a URL, every promise kept, and no plugin for asyncio."""
    done = pytest_in(installed, installed.parent / "site")

    assert all_passed(done), done.stdout


def in_fences(language: str) -> list[str]:
    """The examples of the tutorial that are in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", TUTORIAL.read_text(), re.S | re.M)


@pytest.mark.timeout(120)
def test_the_driver_of_the_tutorial_passes_the_contract_of_the_tutorial(tmp_path: Path) -> None:
    """Copied from the page into files of the names that stand above them."""
    files = dict(re.findall(r"^`(\w+\.py)`:\n\n```python\n(.*?)^```", TUTORIAL.read_text(), re.S | re.M))
    for name, text in files.items():
        (tmp_path / name).write_text(text)

    done = pytest_in(tmp_path, tmp_path, EXAMPLE)

    assert set(files) == {"lines_driver.py", "test_lines_driver.py"}
    assert all_passed(done), done.stdout


def test_the_failure_that_the_tutorial_shows_is_the_one_that_happens(tmp_path: Path) -> None:
    """Without its `try`, the driver is told what the page says."""
    files = dict(re.findall(r"^`(\w+\.py)`:\n\n```python\n(.*?)^```", TUTORIAL.read_text(), re.S | re.M))
    careless = re.sub(
        r"        try:\n            (await conn.ask\(f\"LOGIN.*?\n)        except.*?raise\n",
        r"        \1", files["lines_driver.py"], flags=re.S,
    )  # fmt: skip
    (tmp_path / "lines_driver.py").write_text(careless)
    (tmp_path / "test_lines_driver.py").write_text(files["test_lines_driver.py"])

    said = pytest_in(tmp_path, tmp_path, EXAMPLE, only="cancelled_connect").stdout
    shown = in_fences("text")[0].split("...")[0]

    assert careless != files["lines_driver.py"]
    assert all(line.strip() in said for line in shown.splitlines())


def test_what_makes_it_a_kind_stands_in_the_example() -> None:
    """The rest of the page is quoted from there."""
    driver = (EXAMPLE / "millpond_lines" / "driver.py").read_text()
    project = (EXAMPLE / "pyproject.toml").read_text()
    quoted = [text for text in in_fences("python") if text.startswith("    ")]

    assert len(quoted) == 2
    assert all(text in driver for text in quoted)
    assert all(text in project for text in in_fences("toml"))
