"""The JSON Schemas that `millpond schema` prints, against what the loader itself takes and refuses."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from millpond.gateway.load import webhooks_schema
from millpond.registry.schema import connections_schema
from tests.cli.command import here
from tests.registry.known import KINDS

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "quickstart"
RIGHT: Mapping[str, dict[str, Any]] = {
    "by keywords": {
        "type": "postgresql",
        "host": "db",
        "user": "miller",
        "password": "x",
        "pool": {"max_size": 3},
    },
    "by url": {"url": "redis://db:6379/0"},
    "shorthands": {"type": "sqlite", "database": "x.db", "pool_min_size": 1, "pool_max_size": 2},
    "a reference for a number": {"type": "postgresql", "host": "db", "port": "${PORT}"},
    "a reference inside": {"type": "redis", "host": "cache-${ZONE}"},
    "a reference in the pool": {"type": "mysql", "host": "db", "pool": {"max_size": "{$SIZE:10}"}},
}
WRONG: Mapping[str, Any] = {
    "no object": 7,
    "neither type nor url": {"host": "db"},
    "an unknown kind": {"type": "postgres", "host": "db"},
    "an unknown key": {"type": "postgresql", "hots": "db"},
    "a number as text": {"type": "postgresql", "host": "db", "port": "5432"},
    "out of range": {"type": "postgresql", "host": "db", "port": 70000},
    "an unknown setting": {"type": "redis", "pool": {"maxsize": 3}},
    "a url of another kind": {"type": "redis", "url": "postgresql://db"},
}


@pytest.fixture(scope="module")
def connections() -> jsonschema_rs.Validator:
    """What `connections.json` must look like."""
    schema = connections_schema()
    jsonschema_rs.meta.validate(schema)
    return jsonschema_rs.validator_for(schema)


@pytest.fixture(scope="module")
def webhooks() -> jsonschema_rs.Validator:
    """What `webhooks.json` must look like."""
    schema = webhooks_schema()
    jsonschema_rs.meta.validate(schema)
    return jsonschema_rs.validator_for(schema)


@pytest.mark.parametrize("form", RIGHT)
def test_what_is_right_is_valid(connections: jsonschema_rs.Validator, form: str) -> None:
    """References too: they are replaced before anything is looked at."""
    connections.validate({"$schema": "x.json", "orders": RIGHT[form]})


@pytest.mark.parametrize("form", WRONG)
def test_what_is_wrong_is_not(connections: jsonschema_rs.Validator, form: str) -> None:
    """An editor shows it before the service does."""
    assert not connections.is_valid({"orders": WRONG[form]})


def test_every_kind_is_in_it() -> None:
    """Those of other packages would be, too."""
    assert set(KINDS) <= connections_schema()["$defs"].keys()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("connections*.json")), ids=lambda path: path.name)
def test_the_examples_are_valid(
    connections: jsonschema_rs.Validator, webhooks: jsonschema_rs.Validator, path: Path
) -> None:
    """What users copy."""
    connections.validate(json.loads(path.read_text()))
    beside = path.with_name(path.name.replace("connections", "webhooks"))
    if beside.exists():
        webhooks.validate(json.loads(beside.read_text()))


def samples() -> list[tuple[str, dict[str, Any]]]:
    """Every configuration that a page of the documentation shows whole, with the page."""
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/README.md")]
    found = [
        (str(page.relative_to(ROOT)), json.loads(block))
        for page in sorted(pages)
        for block in re.findall(r"^```json\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    ]
    return [(page, sample) for page, sample in found if "webhooks" in sample or "type" in str(sample)]


@pytest.mark.parametrize("page", sorted({page for page, _ in samples()}))
def test_what_the_documentation_shows_is_valid(
    connections: jsonschema_rs.Validator, webhooks: jsonschema_rs.Validator, page: str
) -> None:
    """With references where numbers will be, as they stand there."""
    for where, sample in samples():
        if where == page:
            (webhooks if "webhooks" in sample else connections).validate(sample)


def test_the_documentation_shows_both_files() -> None:
    """Or there would be nothing to validate."""
    assert {"webhooks" in sample for page, sample in samples() if page == "docs/gateway.md"} == {True, False}


def test_a_hook_with_a_fault_is_not_valid(webhooks: jsonschema_rs.Validator) -> None:
    """A module without its connection, a path that is none."""
    module = {"type": "sqlite", "connection": "events"}
    assert webhooks.is_valid({"webhooks": [{"path": "/x", "modules": [module]}]})
    assert not webhooks.is_valid({"webhooks": [{"path": "x", "modules": [module]}]})
    assert not webhooks.is_valid({"webhooks": [{"path": "/x", "modules": [{"type": "sqlite"}]}]})


@pytest.mark.parametrize("file", ["connections", "webhooks"])
def test_the_command_prints_it(tmp_path: Path, file: str) -> None:
    """As JSON, and nothing else."""
    ran = here("schema", file, directory=tmp_path)

    assert (ran.status, ran.err) == (0, "")
    assert json.loads(ran.out)["$schema"].endswith("2020-12/schema")


def test_no_default_of_a_schema_is_a_secret() -> None:
    """It may be published."""
    assert "password" in json.dumps(connections_schema())
    assert '"writeOnly": true' in json.dumps(connections_schema())
