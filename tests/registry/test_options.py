"""A driver's constructor as configuration: which arguments a file can give, and what each takes."""

import os
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import pytest
from pydantic import Secret, SecretStr, TypeAdapter, ValidationError

from millpond.drivers.kinds import Kinds
from millpond.errors import ConfigError
from millpond.registry.options import driver_options, ranged, scalar, shape_of
from millpond.registry.substitution import Whole
from millpond.settings import Range, setting_fields
from tests.registry.conftest import bare_driver


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (str, "a string"),
        (int, "a whole number"),
        (float, "a number"),
        (bool, "true or false"),
        (str | None, "a string or null"),
        (Optional[int], "a whole number or null"),  # noqa: UP045 - the other spelling
        (bool | str, "true, false or a string"),
        (int | float, "a whole number or a number"),
        (Literal["a", "b"], "one of 'a', 'b'"),
        (Literal["a"], "'a'"),
        (Literal["a", "b"] | None, "one of 'a', 'b' or null"),
        (Path, "a string"),
        (str | os.PathLike[str], "a string"),
        (str | Callable[[], str | Awaitable[str]] | None, "a string or null"),
        (bool | ssl.SSLContext | None, "true, false or null"),
        (Mapping[str, str], "an object (each value a string)"),
        (dict[str, str | int] | None, "an object (each value a string or a whole number) or null"),
        (dict[str, Any], "an object"),
        (dict, "an object"),
        (Sequence[str], "a list (each a string)"),
        (tuple[int, ...], "a list (each a whole number)"),
        (list, "a list"),
        (Any, "any value"),
        (Annotated[int, "a note"], "a whole number"),
        (Annotated[int, Range(int, least=1, most=9)], "a whole number >= 1 and <= 9"),
        (Annotated[float, Range(float, above=0)] | None, "a number > 0 or null"),
    ],
    ids=str,
)
def test_what_a_file_can_say_is_told_in_words(annotation: Any, words: str) -> None:
    """The words stand in the line about a bad value."""
    shape = shape_of(annotation)

    assert shape is not None
    assert shape.words == words


@pytest.mark.parametrize(
    "annotation",
    [
        Callable[[], str],
        ssl.SSLContext,
        ssl.SSLContext | None,
        Callable[[], str] | None,
        bytes,
        type(None),
        object,
        Mapping[int, str],
        Mapping[str, Callable[[], str]],
        Sequence[bytes],
        tuple[int, str],
    ],
    ids=str,
)
def test_what_only_code_can_pass_is_no_option(annotation: Any) -> None:
    """A file has no functions and no objects of Python."""
    assert shape_of(annotation) is None


@pytest.mark.parametrize("field", setting_fields(), ids=lambda field: field.name)
def test_every_setting_of_a_pool_can_stand_in_a_file(field: Any) -> None:
    """Its default is right, and its range is what the settings themselves enforce."""
    takes: Range = field.metadata["range"]
    adapter: TypeAdapter[Any] = TypeAdapter(ranged(takes).annotation)

    numbers = (-1, 0, 0.5, 1, 1.0, 2, 10**6, float("nan"), float("inf"))
    for value in (None, True, *numbers, "", "full", "1", [], {}):
        try:
            adapter.validate_python(value, strict=True)
            accepted = True
        except ValidationError:
            accepted = False
        assert accepted is takes.holds(value), value


@pytest.mark.parametrize(
    ("annotation", "text", "expected"),
    [
        (int, "5432", 5432),
        (int, " 5432\t", 5432),
        (float, "2.5", 2.5),
        (float, "2", 2.0),
        (float | None, "null", None),
        (bool, "true", True),
        (bool, "false", False),
        (str, "5432", "5432"),
        (str | None, "null", "null"),
        (str | int, "5432", "5432"),
        (bool | str, "true", "true"),
        (dict[str, int], {"a": Whole("1")}, {"a": 1}),
        (list[float | None], [Whole("1.5"), Whole("null"), 2], [1.5, None, 2.0]),
    ],
    ids=str,
)
def test_a_number_may_come_as_text_from_elsewhere(annotation: Any, text: Any, expected: Any) -> None:
    """The environment has only text; a field that takes text keeps it."""
    shape = shape_of(annotation)
    assert shape is not None
    value = Whole(text) if isinstance(text, str) else text

    found = TypeAdapter(shape.annotation).validate_python(value, strict=True)

    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize("text", ["5432", "true", "null", "2.5"])
@pytest.mark.parametrize("annotation", [int, float, bool, int | None])
def test_a_number_in_quotes_is_a_string(annotation: Any, text: str) -> None:
    """What stands in the file itself can be written as what it is."""
    shape = shape_of(annotation)
    assert shape is not None

    with pytest.raises(ValidationError):
        TypeAdapter(shape.annotation).validate_python(text, strict=True)


@pytest.mark.parametrize("text", ["", "abc", "0x10", "1_000", "05", "[1]", "{}", '"5"', "1 2", "9" * 5000])
def test_text_that_is_no_single_value_stays_text(text: str) -> None:
    """It will be refused where it stands, as a string."""
    value = Whole(text)

    assert scalar(value) is value


def options_of(arguments: str, before: str = "") -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "granary"}
    exec(before + bare_driver("granary", arguments), namespace)
    return driver_options(namespace["Driver"])


def test_the_arguments_of_a_driver_are_its_options() -> None:
    """Names, defaults and what is required come from the signature alone."""
    options = options_of("self, *, host: str, port: int = 1, token: str | None = None, hook: object = None")

    assert list(options) == ["host", "port", "token"]
    assert [option.is_required for option in options.values()] == [True, False, False]
    assert [option.default for option in options.values()][1:] == [1, None]


def test_what_is_secret_is_held_as_a_secret() -> None:
    """Whatever its type; the name decides."""
    assert options_of("self, *, token: str")["token"].annotation is SecretStr
    assert options_of("self, *, token: str | None")["token"].annotation == SecretStr | None
    headers = TypeAdapter(options_of("self, *, token: dict[str, str]")["token"].annotation)
    assert isinstance(headers.validate_python({"a": "b"}, strict=True), Secret)
    assert options_of("self, *, other: str")["other"].annotation is str


def test_a_port_is_a_port_in_every_kind() -> None:
    """A driver that says nothing of its range gets the one that all ports have."""
    options = options_of("self, *, port: int = 1, other: int = 1")

    assert options["port"].shape.words == "a whole number >= 1 and <= 65535"
    assert options["other"].shape.words == "a whole number"


def test_names_that_only_type_checkers_import_do_no_harm() -> None:
    """A driver may import what it needs for annotations under TYPE_CHECKING."""
    options = options_of(
        "self, *, host: str, tls: ssl.SSLContext | bool = False, hosts: Sequence[str] = (), "
        "settings: Mapping[str, str] | None = None, on: Callable[[Thing], None] | None = None",
        before="from __future__ import annotations\n",
    )

    assert {name: option.shape.words for name, option in options.items()} == {
        "host": "a string",
        "tls": "true or false",
        "hosts": "a list (each a string)",
        "settings": "an object (each value a string) or null",
    }


def test_annotations_that_cannot_be_read_are_the_drivers_fault() -> None:
    """The line names the kind."""
    with pytest.raises(ConfigError) as caught:
        options_of("self, *, host: 1 + 'x'", before="from __future__ import annotations\n")

    assert caught.value.problems == (
        "kind 'granary': the annotations of its driver cannot be read: TypeError",
    )


def test_lists_reach_the_driver_as_what_it_asked_for() -> None:
    """JSON has only lists."""
    options = options_of(
        "self, *, a: tuple[str, ...], b: list[int], c: frozenset[str], d: Sequence[int]",
        before="from collections.abc import Sequence\n",
    )

    given = {name: option.given([Whole("x"), "x"]) for name, option in options.items()}

    assert given == {"a": ("x", "x"), "b": ["x", "x"], "c": frozenset({"x"}), "d": ("x", "x")}
    assert type(given["a"][0]) is str


@pytest.mark.parametrize("kind", Kinds().names)
def test_every_own_kind_can_be_configured(kind: str) -> None:
    """The drivers that come with Millpond are readable, and know their secrets."""
    driver = Kinds().get(kind)

    options = driver_options(driver)

    assert options
    assert driver.secret_options <= set(options)
