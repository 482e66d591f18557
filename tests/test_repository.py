"""What may never be committed: where this was built, and where packages were fetched from."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def lines_holding(words: list[str]) -> list[str]:
    """Where one of these words stands in a tracked file, as `path:line`."""
    pattern = re.compile(r"(?<![\w.*-])(?:" + "|".join(map(re.escape, words)) + ")")
    return [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked_files()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]


def package_index_hosts() -> list[str]:
    """The hosts that this machine's own configuration of pip names, if any."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    hosts = (urlsplit(address).hostname for address in re.findall(r"https?://[^\s']+", listed.stdout))
    return [host for host in hosts if host]


def test_no_file_names_a_place_on_this_machine() -> None:
    """A path of somebody's machine works on that machine only."""
    common = {Path("/"), Path(tempfile.gettempdir())}
    places = {ROOT, ROOT.parent, Path.home()} - common

    assert lines_holding([f"{place}/" for place in places]) == []


def test_no_file_names_the_package_index_in_use() -> None:
    """Which index to use is the business of whoever installs."""
    hosts = package_index_hosts()

    assert not hosts or lines_holding(hosts) == []


def test_requirements_are_pinned_and_hashed_and_nothing_else() -> None:
    """Each line names one version or one hash; no option, address or file."""
    lines = (ROOT / "requirements-dev.txt").read_text().splitlines()
    pin = re.compile(r"[a-z0-9-]+==[a-z0-9.]+( ; [^\\]+)? \\")
    digest = re.compile(r" {4}--hash=sha256:[0-9a-f]{64}( \\)?")

    assert [line for line in lines if not pin.fullmatch(line) and not digest.fullmatch(line)] == []


def test_no_lock_file_that_holds_addresses_is_tracked() -> None:
    """The hashed requirements are the one place where versions are pinned."""
    assert [
        path.name for path in tracked_files() if path.name in {"uv.lock", "poetry.lock", "pdm.lock"}
    ] == []
