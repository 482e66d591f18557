"""Whatever a file holds, the answer is a configuration or lines about what is wrong: nothing else, ever."""

import operator
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from millpond.errors import ConfigError
from millpond.registry.load import Connections, load_connections
from millpond.registry.model import SHORTHANDS, ConnectionConfig, connection_config
from millpond.registry.substitution import Whole, substitute
from millpond.settings import setting_fields

TEXTS = st.text(max_size=20) | st.sampled_from([
    "postgresql", "sqlite", "postgresql://a:b@c:1/d", "postgresql://a?b@c", "sqlite:///x", "${A}", "5",
])  # fmt: skip
FROM_ELSEWHERE = st.builds(Whole, st.sampled_from(["5", "true", "null", "NaN", "1e999", "[1]", "x"]))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | FROM_ELSEWHERE
SHORT = st.text(max_size=5)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SHORT, inner, max_size=3)
)
POOLS = st.dictionaries(st.sampled_from([each.name for each in setting_fields()]) | SHORT, SCALARS)
KEYS = st.sampled_from(["type", "url", "host", "port", "database", "password", "ssl", "pragmas", *SHORTHANDS])
KINDS = st.fixed_dictionaries({"type": st.sampled_from(["postgresql", "sqlite"])}, optional={"pool": POOLS})
CONNECTIONS = st.builds(operator.or_, st.dictionaries(KEYS | SHORT, VALUES), KINDS | st.just({}))


def outcome(make: Callable[[], Any]) -> Any:
    """What was made, or the lines that say why not."""
    try:
        return make()
    except ConfigError as error:
        return error.problems


@given(CONNECTIONS | VALUES)
def test_any_value_is_a_configuration_or_a_list_of_faults(values: Any) -> None:
    """Each fault is one line that can be printed and begins with the connection."""
    found = outcome(lambda: connection_config("orders", values))

    if isinstance(found, ConnectionConfig):
        assert found.make_driver().name == found.kind
    else:
        assert found
        assert all(line.startswith("orders") and line.isprintable() for line in found)


@given(st.sampled_from(["a.json", "a.toml", "a.yaml"]), st.binary() | st.text().map(str.encode))
@example("a.yaml", b"? [a]\n: b")
@example("a.yaml", b"? {a: b}\n: c")
@example("a.yaml", b"<<: 1")
@example("a.yaml", b"!!set {a, b}")
@example("a.yaml", b"!!binary aGk=")
@example("a.yaml", b"!!timestamp x")
@example("a.yaml", b"a: !!int x")
@example("a.yaml", b"a: 2020-99-99")
@example("a.yaml", b"a: 1:60:60")
@example("a.toml", b"a = 2020-99-99")
@example("a.json", b'{"a": 1e999}')
def test_any_file_is_read_or_refused(name: str, content: bytes) -> None:
    """No parser's own error gets through."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, name)
        path.write_bytes(content)

        found = outcome(lambda: load_connections(path, environ={}))

    assert found
    if not isinstance(found, Connections):
        assert all(line.startswith(f"{path}: ") and line.isprintable() for line in found)


@given(st.text())
def test_any_text_can_be_written_with_its_dollars_doubled(text: str) -> None:
    """That is how a value is protected from substitution."""
    written = text.replace("$", "$$")

    assert substitute([written], {}).values == [text]


@given(st.text(), st.text())
def test_any_value_comes_through_a_reference_unchanged(value: str, around: str) -> None:
    """Whatever the variable holds, and whatever stands around it."""
    around = around.replace("$", "")

    assert substitute({"a": "${V}", "b": f"{around}${{V}}{around}"}, {"V": value}).values == {
        "a": value,
        "b": f"{around}{value}{around}",
    }


@given(st.text(alphabet="${}:-AB1 file/envx"))
def test_any_string_is_replaced_or_refused(text: str) -> None:
    """And a refusal leaves the value as it was."""
    result = substitute({"a": text}, {"A": "1", "B": ""})

    assert bool(result.problems) == bool(result.unresolved)
    assert not result.problems or result.values == {"a": text}
