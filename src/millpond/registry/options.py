"""What a driver's constructor takes, as fields that a configuration can fill.

The names, annotations and defaults of a driver's `__init__` become the keys
of its kind. What only code can pass (a function, an `ssl.SSLContext`) is left
out; what is secret by `secret_options` is held as a secret. Every field knows
in words what it takes, so that a message needs nothing of what it was given.
"""

from __future__ import annotations

import collections.abc
import inspect
import json
import operator
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path, PurePath
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BeforeValidator, Field, Secret, SecretStr

from millpond.drivers.kinds import AnyKind
from millpond.errors import ConfigError
from millpond.registry.substitution import Whole
from millpond.settings import LARGEST, Range

# Options that mean the same in every kind; a driver that says nothing of their range gets this one.
_COMMON_RANGES: Final[Mapping[str, Range]] = {"port": Range(int, least=1, most=65535)}
_MOST_UNKNOWN_NAMES: Final = 50


@dataclass(frozen=True, slots=True)
class Shape:
    """What one field takes.

    Attributes:
        annotation: for pydantic.
        words: for people: `a whole number >= 1 or null`.
        takes_text: a string is a right value as it stands, and not a number spelled out.
        container: what a list is made into before the driver sees it.
    """

    annotation: Any
    words: str
    takes_text: bool = False
    container: Callable[[Any], Any] | None = None


@dataclass(frozen=True, slots=True)
class Option:
    """One argument of a driver's constructor that a configuration may give."""

    name: str
    shape: Shape
    default: Any
    is_secret: bool

    @property
    def is_required(self) -> bool:
        """True when the driver has no default for it."""
        return self.default is inspect.Parameter.empty

    @property
    def annotation(self) -> Any:
        """What pydantic validates; a secret stays wrapped."""
        shape = self.shape
        if not self.is_secret:
            return shape.annotation
        if shape.annotation is str:
            return SecretStr
        if shape.annotation == str | None:
            return SecretStr | None
        return Secret[shape.annotation]  # type: ignore[name-defined]

    def given(self, value: Any) -> Any:
        """A validated value as the driver wants it."""
        value = plain(value)
        container = self.shape.container
        return container(value) if container is not None and isinstance(value, list) else value


def driver_options(kind: AnyKind) -> dict[str, Option]:
    """What a configuration of this kind may hold, by name, in the constructor's order.

    Raises:
        ConfigError: the constructor's annotations cannot be read: the driver's fault.
    """
    hints = _hints(kind)
    options: dict[str, Option] = {}
    for parameter in list(inspect.signature(kind.__init__).parameters.values())[1:]:
        if parameter.kind not in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            continue
        name = parameter.name
        annotation = hints.get(name, Any)
        if annotation is int and name in _COMMON_RANGES:
            annotation = Annotated[int, _COMMON_RANGES[name]]
        shape = shape_of(annotation)
        if shape is not None:
            options[name] = Option(name, shape, parameter.default, name in kind.secret_options)
    return options


def shape_of(annotation: Any) -> Shape | None:
    """What a configuration can give for this annotation; None: only code can."""
    members = [found for each in _members(annotation) if (found := _member(each)) is not None]
    if all(each.annotation is None for each in members):
        return None  # nothing, or nothing but None
    return _joined(members)


def ranged(takes: Range) -> Shape:
    """What a field with this range takes."""
    annotation: Any
    if takes.choices:
        annotation = Literal[takes.choices]
    elif takes.kind in (int, float):
        bounds = Field(
            ge=takes.least,
            gt=takes.above,
            le=takes.most,
            lt=takes.below if takes.below is not None or takes.most is not None else takes.kind(LARGEST),
            allow_inf_nan=False if takes.kind is float else None,
        )
        annotation = Annotated[takes.kind, bounds]
    else:
        annotation = takes.kind
    words = str(takes).removesuffix(", or None")
    members = [Shape(annotation, words, takes_text=takes.kind is str)]
    return _joined([*members, _NULL] if takes.optional else members)


def scalar(value: Any) -> Any:
    """The number, truth or null that a whole-value reference brought as text; anything else as it is."""
    if not isinstance(value, Whole):
        return value
    try:
        found = json.loads(value, parse_constant=float)
    except (ValueError, RecursionError):
        return value
    return value if isinstance(found, (str, list, dict)) else found


def plain(value: Any) -> Any:
    """`value` without the marks of substitution."""
    if isinstance(value, Whole):
        return str(value)
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value


_NULL: Final = Shape(None, "null")
_SCALARS: Final[Mapping[Any, Shape]] = {
    type(None): _NULL,
    None: _NULL,
    str: Shape(str, "a string", takes_text=True),
    bool: Shape(bool, "true or false"),
    int: Shape(int, "a whole number"),
    float: Shape(Annotated[float, Field(allow_inf_nan=False)], "a number"),
    Any: Shape(Any, "any value", takes_text=True),
    Path: Shape(str, "a string", takes_text=True),
    PurePath: Shape(str, "a string", takes_text=True),
    os.PathLike: Shape(str, "a string", takes_text=True),
}
_CONTAINERS: Final[Mapping[Any, Callable[[Any], Any]]] = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    collections.abc.Sequence: tuple,
    collections.abc.Collection: tuple,
    collections.abc.Iterable: tuple,
    collections.abc.Set: frozenset,
}
_MAPPINGS: Final = (dict, collections.abc.Mapping)


def _members(annotation: Any) -> list[Any]:
    """The members of a union; anything else is a union of one."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [each for member in get_args(annotation) for each in _members(member)]
    return [annotation]


def _member(annotation: Any) -> Shape | None:
    """The shape of one member of a union, or None."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        found = [each for each in arguments[1:] if isinstance(each, Range)]
        return ranged(found[0]) if found else shape_of(arguments[0])
    if origin is Literal:
        words = "one of " + ", ".join(map(repr, arguments)) if len(arguments) > 1 else repr(arguments[0])
        return Shape(annotation, words, takes_text=any(isinstance(each, str) for each in arguments))
    container = origin or annotation
    if not isinstance(container, collections.abc.Hashable):
        return None
    if container in _MAPPINGS:
        return _object(arguments)
    if container in _CONTAINERS:
        return _list(container, arguments)
    return _SCALARS.get(container)


def _object(arguments: Sequence[Any]) -> Shape | None:
    if not arguments:
        return Shape(dict[str, Any], "an object")
    value = shape_of(arguments[1])
    if arguments[0] is not str or value is None:
        return None
    words = "an object" if value.annotation is Any else f"an object (each value {value.words})"
    return Shape(types.GenericAlias(dict, (str, value.annotation)), words)


def _list(container: Any, arguments: Sequence[Any]) -> Shape | None:
    if container is tuple and arguments and arguments[-1] is not Ellipsis:
        return None
    element = shape_of(arguments[0] if arguments else Any)
    if element is None:
        return None
    words = "a list" if element.annotation is Any else f"a list (each {element.words})"
    annotation: Any = types.GenericAlias(list, (element.annotation,))
    return Shape(annotation, words, container=_CONTAINERS[container])


def _joined(members: Sequence[Shape]) -> Shape:
    """One shape that takes what any of its members takes."""
    annotation: Any = reduce(operator.or_, (each.annotation for each in members))
    takes_text = any(each.takes_text for each in members)
    if not takes_text and any(each.annotation is not None for each in members):
        # Only where no string is right as it stands: "5432" for a port, but never for a password.
        annotation = Annotated[annotation, BeforeValidator(scalar)]
    words = list(dict.fromkeys(each.words for each in members))
    if "true or false" in words and len(words) > 1:
        words = [each if each != "true or false" else "true, false" for each in words]
    containers = [each.container for each in members if each.container is not None]
    return Shape(annotation, " or ".join(words), takes_text, containers[0] if containers else None)


class _CodeOnly(type):
    """A name that was imported for type checkers only; whatever it stands for, a file cannot hold it."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls

    def __getitem__(cls, _: Any) -> Any:
        return cls


def _hints(kind: AnyKind) -> dict[str, Any]:
    known: dict[str, Any] = {**vars(collections.abc), **vars(typing)}
    names: dict[str, Any] = {}
    fault = "too many unknown names"
    for _ in range(_MOST_UNKNOWN_NAMES):
        try:
            return typing.get_type_hints(kind.__init__, localns=names, include_extras=True)
        except NameError as error:
            name = str(error.name)
            names[name] = known.get(name, _CodeOnly(name, (), {}))
        except Exception as error:
            fault = type(error).__name__
            break
    raise ConfigError([f"kind {kind.kind!r}: the annotations of its driver cannot be read: {fault}"])
