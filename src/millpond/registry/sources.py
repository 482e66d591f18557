"""Configuration files as plain values: JSON, TOML or YAML in; text, numbers, lists and objects out.

What the values mean is not decided here. No message repeats anything of a
file but its keys: any value may be a secret.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

from millpond.errors import ConfigError, MissingExtra
from millpond.registry.files import read_ordinary, why_unreadable
from millpond.registry.substitution import KeyPath, printable, spelled

LARGEST_DOCUMENT: Final = 4 << 20
"""Bytes; a larger configuration file is refused."""
DEEPEST: Final = 32
"""Levels of objects and lists inside each other; a deeper document is refused."""
MOST_VALUES: Final = 200_000
"""Values in a document; YAML's aliases make millions out of a few lines."""
LONGEST_NAME: Final = 100
"""Characters in the name of a connection."""

_CONNECTION_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")
_HALF: Final = re.compile("[\ud800-\udfff]")
_POSITION: Final = re.compile(r"at line (\d+), column (\d+)")


@dataclass(frozen=True, slots=True)
class Document:
    """A configuration file that was read.

    Attributes:
        label: the file as the caller named it; every message about it begins with this.
        path: the file.
        values: what it says: an object; `$schema` at its top is left out.
    """

    label: str
    path: Path
    values: Mapping[str, Any] = field(repr=False)


def read_document(path: str | os.PathLike[str]) -> Document:
    """Read a .json, .toml, .yaml or .yml file whose top is an object.

    Raises:
        ConfigError: it cannot be read or parsed, or gives a key twice; the lines say
            where (line and column, or the keys that lead there).
        MissingExtra: it is YAML and PyYAML is not installed.
    """
    label, where = os.fspath(path), Path(path)
    parse = _PARSERS.get(where.suffix.lower())
    if parse is None:
        known = ", ".join(sorted(_PARSERS))
        raise ConfigError([f"{label}: the format is told by the end of the name; known: {known}"])
    # Faults come back as words and are raised here, because a parser's own
    # exceptions carry the document, and would hang on what is raised beside them.
    text, faults = _text_of(where)
    values: Any = None
    if not faults:
        values, faults = parse(text, label)
    if not faults:
        faults = list(_unfit(values))
    if not faults and not isinstance(values, dict):
        faults = ["the top must be an object"]
    if faults:
        raise ConfigError([f"{label}: {fault}" for fault in faults])
    return Document(label, where, {key: value for key, value in values.items() if key != "$schema"})


def name_fault(name: object) -> str | None:
    """What is wrong with the name of a connection, or None."""
    if not isinstance(name, str):
        return "a connection's name must be a string"
    if not name:
        return "a connection's name must not be empty"
    if len(name) > LONGEST_NAME:
        return f"a connection's name must not be longer than {LONGEST_NAME} characters"
    if not _CONNECTION_NAME.fullmatch(name):
        return "a connection's name may hold only letters, digits, '_', '.' and '-'"
    return None


def _text_of(path: Path) -> tuple[str, list[str]]:
    """The text of the file, or what is wrong with it."""
    try:
        content = read_ordinary(path, LARGEST_DOCUMENT)
    except (OSError, ValueError) as error:
        return "", [why_unreadable(error)]
    if len(content) > LARGEST_DOCUMENT:
        return "", [f"is larger than {LARGEST_DOCUMENT} bytes"]
    try:
        return content.decode("utf-8-sig"), []
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return "", [f"line {line}: is not UTF-8 text"]


class _Object(dict[str, Any]):
    """A parsed JSON object that remembers which keys it was given more than once."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        counts = Counter(key for key, _ in pairs)
        self.doubled = [key for key, count in counts.items() if count > 1]


def _parse_json(text: str, _: str) -> tuple[Any, list[str]]:
    try:
        values = json.loads(text, object_pairs_hook=_Object, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        # The words before the first ": " are the parser's own; what follows may be the document's.
        why = error.msg.rstrip().removesuffix(":").split(": ")[0]
        return None, [f"line {error.lineno}, column {error.colno}: {why[:1].lower()}{why[1:]}"]
    except RecursionError:
        return None, [f"is nested deeper than {DEEPEST} levels"]
    except ValueError as error:
        return None, [str(error) if isinstance(error, _Refused) else "holds a number that is too long"]
    return values, list(_doubled(values, ()))


class _Refused(ValueError):
    """Something that Python's parser takes and JSON does not know."""


def _refuse_constant(constant: str) -> NoReturn:
    raise _Refused(f"holds {constant}, which is not JSON")


def _doubled(value: Any, path: KeyPath, depth: int = 0) -> Iterator[str]:
    """One line for each key that stands twice in one object."""
    if depth > DEEPEST:
        return
    if isinstance(value, _Object):
        yield from (f"{spelled((*path, key))}: stands there twice" for key in value.doubled)
        for key, each in value.items():
            yield from _doubled(each, (*path, key), depth + 1)
    elif isinstance(value, list):
        for at, each in enumerate(value):
            yield from _doubled(each, (*path, at), depth + 1)


def _parse_toml(text: str, _: str) -> tuple[Any, list[str]]:
    try:
        return tomllib.loads(text), []
    except tomllib.TOMLDecodeError as error:
        found = _POSITION.search(str(error))
        last = len(text.splitlines()) or 1
        where = f"line {found[1]}, column {found[2]}" if found else f"line {last}"
        return None, [f"{where}: is not valid TOML"]
    except RecursionError:
        return None, [f"is nested deeper than {DEEPEST} levels"]
    except ValueError:
        return None, ["holds a number that is too long, or a date that does not exist"]


def _parse_yaml(text: str, label: str) -> tuple[Any, list[str]]:
    yaml = _yaml(label)
    doubled: list[str] = []

    class Loader(yaml.SafeLoader):  # type: ignore[misc, name-defined]
        """The safe loader, which also notices keys that stand twice."""

        def flatten_mapping(self, node: Any) -> None:
            # Before merging: what `<<` brings may be overridden, that is what it is for.
            seen: set[tuple[str, str]] = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    continue
                if (key.tag, key.value) in seen:
                    doubled.append(f"{_at(key.start_mark)}the key {printable(key.value)} stands there twice")
                seen.add((key.tag, key.value))
            super().flatten_mapping(node)

    try:
        values = yaml.load(text, Loader)
    except yaml.MarkedYAMLError as error:
        return None, [f"{_at(error.problem_mark or error.context_mark)}is not valid YAML"]
    except RecursionError:
        return None, [f"is nested deeper than {DEEPEST} levels"]
    except Exception:  # an explicit tag on the wrong value ends in whatever its constructor runs into
        return None, ["is not valid YAML"]
    return values, list(dict.fromkeys(doubled))


def _at(mark: Any) -> str:
    """Where a mark of PyYAML points, for the beginning of a message."""
    return f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""


def _yaml(label: str) -> Any:
    try:
        import yaml
    except ModuleNotFoundError:
        pass
    else:
        return yaml
    raise MissingExtra("config", needed_for=f"reading {label}", module="yaml")


_PARSERS: Final[Mapping[str, Callable[[str, str], tuple[Any, list[str]]]]] = {
    ".json": _parse_json,
    ".toml": _parse_toml,
    ".yaml": _parse_yaml,
    ".yml": _parse_yaml,
}


def _unfit(document: Any) -> Iterator[str]:
    """What JSON could not have said: keys that are no strings, dates, cycles, text that is no text."""
    left = MOST_VALUES
    todo: list[tuple[Any, KeyPath]] = [(document, ())]
    while todo:
        value, path = todo.pop()
        left -= 1
        if left < 0:
            yield f"holds more than {MOST_VALUES} values"
            return
        if len(path) > DEEPEST:
            yield f"is nested deeper than {DEEPEST} levels"
            return
        where = f"{spelled(path)}: " if path else ""
        if isinstance(value, dict):
            if not all(isinstance(key, str) for key in value):
                yield f"{where}every key must be text; put numbers, dates and true or false in quotes"
            steps = [(each, (*path, key)) for key, each in value.items() if isinstance(key, str)]
            todo.extend(reversed(steps))
        elif isinstance(value, list):
            todo.extend(reversed([(each, (*path, at)) for at, each in enumerate(value)]))
        elif isinstance(value, str):
            if _HALF.search(value):
                yield f"{where}holds half a character (an unpaired surrogate)"
        elif value is not None and not isinstance(value, (bool, int, float)):
            yield f"{where}must be text, a number, true, false, null, a list or an object"
