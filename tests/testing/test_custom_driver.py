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


@pytest.mark.timeout(120)
def test_the_example_passes_the_contract_from_its_own_package(installed: Path) -> None:
    """Found by its entry point, from a file and from a URL, every promise kept, and no plugin for asyncio."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:asyncio", "-p", "no:cacheprovider"],
        cwd=installed,
        env={**os.environ, "PYTHONPATH": str(installed.parent / "site")},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )

    assert done.returncode == 0, done.stdout
    assert (ran := re.search(r"(\d+) passed", done.stdout)) is not None
    assert int(ran[1]) > 40
    assert not re.search("skipped|deselected|xfailed", done.stdout)
