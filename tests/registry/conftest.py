"""What tests of the registry share: files to write, and packages that bring kinds of their own."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

# A driver as somebody else's package would bring it: nothing of Millpond is imported, nothing is inherited.
BARE_DRIVER = """
class {name}:
    kind = "{kind}"
    schemes = ("{kind}",)
    extra = ""
    default_sizes = (1, 10)
    secret_options = frozenset({{"token"}})
    name = "{kind}"

    def __init__({arguments}):
        {body}

    @classmethod
    def options_from_url(cls, url):
        {url_body}
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes a file into a directory that is the current one, and returns its bare name.

    Takes what a file should say: text and bytes as they are, anything else as JSON.
    """
    monkeypatch.chdir(tmp_path)

    def written(content: Any, name: str = "connections.json") -> str:
        if isinstance(content, bytes):
            Path(name).write_bytes(content)
        else:
            text = content if isinstance(content, str) else json.dumps(content)
            Path(name).write_text(text, encoding="utf-8")
        return name

    return written


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Installs a package that registers one kind: a module and the metadata that pip would write."""
    place = tmp_path / "site-packages"
    place.mkdir()
    monkeypatch.syspath_prepend(str(place))
    modules: list[str] = []

    def installed(package: str, kind: str, source: str, *, target: str = "Driver") -> None:
        (place / f"{package}.py").write_text(dedent(source), encoding="utf-8")
        metadata = place / f"{package}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[millpond.drivers]\n{kind} = {package}:{target}\n")
        modules.append(package)

    yield installed
    for module in modules:
        sys.modules.pop(module, None)


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until `condition` holds."""
    for _ in range(100_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came true")


def bare_driver(
    kind: str,
    arguments: str = "self, *, token: str | None = None",
    body: str = "pass",
    url_body: str = "return {}",
) -> str:
    """The source of a module with a class `Driver` of this kind."""
    return BARE_DRIVER.format(name="Driver", kind=kind, arguments=arguments, body=body, url_body=url_body)
