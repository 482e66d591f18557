"""Dependencies point one way. This reads every import in `src/millpond` and says which ones do not.

Every import counts, wherever it stands: at the head of a module, inside a function, and under
`TYPE_CHECKING` too, because a module that only names a type of a higher layer still cannot be understood
without it. The one exception is `millpond/__init__.py`: what it imports lazily or for types is how the
public names appear at the top, so there only imports that run on `import millpond` count.

A new module goes into `PLACES`; a new third-party package goes beside the module that may use it.
"""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

PACKAGE: Final = "millpond"
SOURCES: Final = Path(__file__).resolve().parents[1] / "src" / PACKAGE
ROOT: Final = "__init__"  # the package's own face, as a module

VOCABULARY: Final = frozenset({"errors", "settings", "driver", "events", "status"})
KERNEL: Final = VOCABULARY | {"_core"}
CREATION: Final = KERNEL | {"drivers"}  # where kernel and drivers meet: create_pool
NAMED: Final = CREATION | {"urls", "_create"}  # pools by name, and their numbers
INTEGRATIONS: Final = NAMED | {"registry", "telemetry", ROOT}
APPLICATIONS: Final = INTEGRATIONS | {"web", "sqlalchemy", "topaz", "routing"}


@dataclass(frozen=True, slots=True)
class Place:
    """What modules at one place of the package may import, besides themselves and the standard library."""

    internal: frozenset[str]
    third_party: frozenset[str] = frozenset()


def place(internal: frozenset[str], *third_party: str) -> Place:
    return Place(internal, frozenset(third_party))


# Every top-level module of the package. Modules on one line of the design do not import each other, but
# for those of the vocabulary, and the command line, which starts the gateway. `testing` is in nobody's set.
PLACES: Final[Mapping[str, Place]] = {
    **dict.fromkeys(VOCABULARY, place(VOCABULARY)),
    "_core": place(VOCABULARY),
    "drivers": place(VOCABULARY),  # each file: and its client library, see CLIENT_LIBRARIES
    "urls": place(CREATION),
    "_create": place(CREATION),
    ROOT: place(KERNEL),  # when `import millpond` runs; lazily from everywhere
    "registry": place(NAMED, "pydantic", "pydantic_core", "watchfiles", "yaml"),
    "telemetry": place(NAMED, "prometheus_client", "opentelemetry"),
    "routing": place(INTEGRATIONS),
    "web": place(INTEGRATIONS, "fastapi", "starlette", "pydantic", "uvicorn"),
    "sqlalchemy": place(INTEGRATIONS, "sqlalchemy"),
    "topaz": place(INTEGRATIONS, "aserto", "grpc", "google"),
    "gateway": place(APPLICATIONS, "fastapi", "starlette", "pydantic", "pydantic_core", "uvicorn"),
    "cli": place(APPLICATIONS | {"gateway"}, "typer", "rich", "uvicorn", "pydantic", "fastapi", "starlette"),
    "__main__": place(frozenset({"cli"})),
    "testing": place(APPLICATIONS | {"gateway", "cli"}, "pytest", "pytest_asyncio", "hypothesis"),
}

# One file a backend, and only that file knows the backend's client library: the driver, and the module that
# stores rows through the driver's bare connections.
CLIENT_LIBRARIES: Final[Mapping[str, frozenset[str]]] = {
    "drivers.grpc": frozenset({"grpc"}),
    "drivers._asyncpg": frozenset({"asyncpg"}),
    "drivers._psycopg": frozenset({"psycopg"}),
    "drivers._asyncmy": frozenset({"asyncmy"}),
    "drivers._aiomysql": frozenset({"aiomysql", "pymysql"}),
    "drivers.rabbitmq": frozenset({"aiormq", "yarl"}),
    "drivers._rabbitmq_claims": frozenset({"aiormq", "pamqp"}),
    "drivers._rabbitmq_wire": frozenset({"aio_pika", "aiormq", "pamqp", "yarl"}),
    "drivers.redis": frozenset({"redis"}),
    "drivers._redis_client": frozenset({"redis"}),
    "drivers.sqlite": frozenset({"aiosqlite"}),
    "gateway.modules.rabbitmq": frozenset({"aiormq"}),
    "gateway.modules.redis": frozenset({"redis"}),
    "gateway.modules.sqlite": frozenset({"aiosqlite"}),
}


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module, by its full name, and where that stands."""

    target: str
    line: int
    is_eager: bool  # runs when the importing module is imported

    @property
    def top(self) -> str:
        return self.target.partition(".")[0]


def imports_in(source: str, module: str, *, is_package: bool) -> list[Import]:
    """Every import in a module's source, relative ones resolved.

    Args:
        source: the text.
        module: its full dotted name.
        is_package: whether it is a package's `__init__`, from which relative imports count one less.
    """
    parents = module.split(".") if is_package else module.split(".")[:-1]
    return list(_walk(ast.parse(source), parents, is_eager=True))


def _walk(node: ast.AST, parents: list[str], *, is_eager: bool) -> Iterator[Import]:
    match node:
        case ast.Import(names=names):
            for alias in names:
                yield Import(alias.name, node.lineno, is_eager)
        case ast.ImportFrom(module=named, names=names, level=level):
            base = ".".join(
                ([] if level == 0 else parents[: len(parents) - level + 1]) + ([named] if named else [])
            )
            for alias in names:
                yield Import(f"{base}.{alias.name}", node.lineno, is_eager)
        case ast.Call(func=function, args=[ast.Constant(value=str(named)), *_]) if _imports_by_name(function):
            yield Import(named, node.lineno, is_eager)
        case ast.If(test=test, body=body, orelse=orelse) if _is_type_checking(test):
            for statement in body:
                yield from _walk(statement, parents, is_eager=False)
            for statement in orelse:
                yield from _walk(statement, parents, is_eager=is_eager)
            return
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
            is_eager = False
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, parents, is_eager=is_eager)


def _imports_by_name(function: ast.expr) -> bool:
    return ast.unparse(function) in {"import_module", "importlib.import_module", "__import__"}


def _is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def complaints(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What is wrong with the imports of one module, a sentence each; `module` is named within the package."""
    own = module.partition(".")[0]
    if own not in PLACES:
        return [f"{PACKAGE}.{own} has no place yet: add it to PLACES in tests/test_architecture.py"]
    name = PACKAGE if module == ROOT else f"{PACKAGE}.{module}"
    found = imports_in(source, name, is_package=is_package or module == ROOT)
    if module == ROOT:
        found = [one for one in found if one.is_eager or _within(one.target) == "testing"]
    return [f"line {one.line}: {wrong}" for one in found if (wrong := _complaint(one, module, own))]


def _complaint(one: Import, module: str, own: str) -> str | None:
    here = PLACES[own]
    if one.top == PACKAGE:
        target = _within(one.target)
        if target == own or target in here.internal:
            return None
        return f"{PACKAGE}.{module} may not import {one.target}; it may import {sorted(here.internal)}"
    allowed = here.third_party | CLIENT_LIBRARIES.get(module, frozenset())
    if one.top in sys.stdlib_module_names or one.top in allowed:
        return None
    return f"{PACKAGE}.{module} may not import {one.top}; third-party there: {sorted(allowed) or 'nothing'}"


def _within(target: str) -> str:
    """The top-level module that a target inside the package means; other names are the package's own."""
    parts = target.split(".")
    if len(parts) == 1 or parts[0] != PACKAGE:
        return ROOT
    is_module = parts[1] in PLACES or (SOURCES / parts[1]).is_dir() or (SOURCES / f"{parts[1]}.py").is_file()
    return parts[1] if is_module else ROOT


FILES: Final = sorted(SOURCES.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCES).as_posix())
def test_imports_point_downwards(path: Path) -> None:
    """No module knows what is built upon it."""
    parts = path.relative_to(SOURCES).with_suffix("").parts
    is_package = parts[-1] == ROOT and len(parts) > 1
    module = ".".join(parts[:-1] if is_package else parts)

    assert complaints(path.read_text(encoding="utf-8"), module, is_package=is_package) == []


def test_there_is_something_to_check() -> None:
    """An empty search would prove nothing."""
    assert FILES


@pytest.mark.parametrize("spelling", [f"import {PACKAGE}", f"from {PACKAGE} import *"])
def test_importing_millpond_imports_the_standard_library_only(spelling: str) -> None:
    """Whoever needs only the kernel pays for nothing else, and needs nothing else installed."""
    program = f"""
import sys
before = set(sys.modules)
{spelling}
new = {{name.partition(".")[0] for name in set(sys.modules) - before}}
strange = new - sys.stdlib_module_names - {{{PACKAGE!r}}}
print(*sorted(name for name in strange if not name.startswith("_sysconfigdata")))
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=150
    )

    assert (run.returncode, run.stdout.strip(), run.stderr) == (0, "", "")


def test_what_is_imported_lazily_is_listed_all_the_same() -> None:
    """For whoever asks an interpreter what there is."""
    millpond = importlib.import_module(PACKAGE)

    assert {"ConnectionPoolRegistry", "create_pool"} <= set(dir(millpond))
    assert all(hasattr(millpond, name) for name in dir(millpond))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("errors", "import asyncio\nfrom millpond.status import PoolStatus"),
        (
            "_core.pool",
            "from millpond._core.ledger import Ledger\nfrom . import slot\nfrom ..errors import PoolError",
        ),
        ("drivers._asyncpg", "import asyncpg\nfrom millpond.driver import Driver"),
        ("registry.model", "import pydantic\nfrom millpond import settings"),
        ("cli.serve", "from millpond.gateway import app\nimport typer\nfrom millpond import __version__"),
        (
            ROOT,
            "from ._core.pool import ConnectionPool\ndef __getattr__(name): from .registry import Registry",
        ),
        (ROOT, "from typing import TYPE_CHECKING\nif TYPE_CHECKING: from millpond.registry import Registry"),
    ],
    ids=lambda text: text.splitlines()[0],
)
def test_what_points_downwards_is_allowed(module: str, source: str) -> None:
    """The rule lets the design through."""
    assert complaints(source, module) == []


@pytest.mark.parametrize(
    ("module", "source", "why"),
    [
        ("errors", "from millpond._core import pool", "errors may not import millpond._core"),
        ("settings", "import pydantic", "may not import pydantic"),
        ("_core.pool", "from millpond.drivers import sqlite", "may not import millpond.drivers"),
        (
            "_core.pool",
            "def f():\n    import millpond.registry",
            "line 2: .* may not import millpond.registry",
        ),
        ("_core.pool", "from ..registry import model", "may not import millpond.registry"),
        ("_core.pool", "from millpond import ConnectionPool", "may not import millpond.ConnectionPool"),
        ("_core.pool", "import importlib\nimportlib.import_module('asyncpg')", "may not import asyncpg"),
        ("drivers.sqlite", "import asyncpg", "may not import asyncpg"),
        ("drivers.sqlite", "from millpond._core.pool import ConnectionPool", "may not import millpond._core"),
        (
            "telemetry.tally",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from millpond.web import app",
            "line 3: .* may not import millpond.web",
        ),
        ("registry.reload", "from millpond.telemetry import tally", "may not import millpond.telemetry"),
        ("gateway.app", "from millpond.cli import main", "may not import millpond.cli"),
        ("cli.check", "from millpond.testing import backend", "may not import millpond.testing"),
        (ROOT, "from millpond.registry import Registry", "may not import millpond.registry"),
        (ROOT, "def __getattr__(name): from millpond import testing", "may not import millpond.testing"),
        ("attic.box", "", "millpond.attic has no place yet: add it to PLACES"),
    ],
    ids=lambda text: text.splitlines()[-1] if text else "empty",
)
def test_what_points_elsewhere_is_named(module: str, source: str, why: str) -> None:
    """Each way around the rule is found, with its line and what would be allowed."""
    found = complaints(source, module)

    assert len(found) == 1
    assert re.search(why, found[0])
