"""Values from elsewhere: `${VAR}`, `${file:/path}` and their kin, in the strings of a parsed document.

The forms:

    ${VAR}  ${env:VAR}     the environment variable VAR
    ${VAR:-default}        the same; the default when VAR is unset or empty
    ${file:/path}          the content of a file, less one trailing newline
    {$VAR}  {$VAR:default} another spelling of the first and the third
    $$                     a dollar sign

A reference may be a whole value or stand inside a string. Only string values
are looked at, never keys; what a reference brings is taken as it is and never
substituted again. A default ends at the first `}` and cannot hold another
reference. A dollar sign that begins none of these forms is a dollar sign.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from millpond.errors import masked
from millpond.registry.files import read_ordinary, why_unreadable

KeyPath: TypeAlias = tuple[str | int, ...]
"""Where a value stands in a document: the keys and list positions that lead to it."""

LARGEST_FILE: Final = 1 << 20
"""Bytes; a larger file behind `${file:...}` is refused: it is not a secret but a mistake."""

_LONGEST_SHOWN: Final = 100
_NAME: Final = r"[A-Za-z_][A-Za-z0-9_]*"
# Every place where a form begins. `{$` begins one only before a letter: {$.id} is an ordinary string.
_BEGINS: Final = re.compile(r"\$\$|\$\{|\{\$(?=[A-Za-z_])")
_VARIABLE: Final = re.compile(rf"(?:env:)?(?P<name>{_NAME})(?::-(?P<default>.*))?", re.DOTALL)
_OTHER_SPELLING: Final = re.compile(rf"(?P<name>{_NAME})(?::(?P<default>.*))?", re.DOTALL)
_PREFIX: Final = re.compile(r"([a-z][a-z0-9_-]*):(?!-)")
_PRINTABLE_PATH: Final = re.compile(r"[\w./@+,=~-]{1,200}")


class Whole(str):
    """A string that one reference brought as a whole value: a number's field may read it as a number."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Substituted:
    """A document with its references replaced.

    Attributes:
        values: the document; the one that came in is not changed.
        sources: for every value that holds something from elsewhere: from where, as the document
            spells it without its default (`${DB_HOST}`, `${file:/run/secrets/db}`).
        files: the files that references named, those that could not be read included.
        problems: one line for each reference that could not be replaced, beginning with where it stands.
        unresolved: where those stand; their values are as they were.
    """

    values: Any = field(repr=False)
    sources: Mapping[KeyPath, tuple[str, ...]]
    files: frozenset[Path]
    problems: tuple[str, ...]
    unresolved: frozenset[KeyPath]


def substitute(document: Any, environ: Mapping[str, str] | None = None) -> Substituted:
    """Replace every reference in the string values of `document`.

    Args:
        document: what a parser of JSON, TOML or YAML returns.
        environ: where variables are looked up; None: the process's environment.
    """
    work = _Work(os.environ if environ is None else environ)
    values = work.replaced(document, ())
    problems = tuple(f"{spelled(path)}: {fault}" for path, fault in work.faults.items())
    return Substituted(values, work.sources, frozenset(work.files), problems, frozenset(work.faults))


def spelled(path: KeyPath) -> str:
    """`path` as people write it: `orders.hosts[0].port`."""
    words = ""
    for step in path:
        if isinstance(step, int):
            words += f"[{step}]"
        else:
            words += ("." if words else "") + printable(step)
    return words


def printable(key: str) -> str:
    """A key fit for one line of a message: shortened, and escaped where it would not print."""
    text = _shortened(key)
    return text if text.isprintable() and text else ascii(text)


def quoted(name: object) -> str:
    """A name in quotes, fit for one line of a message, whatever it is."""
    text = _shortened(str(name))
    return repr(text) if text.isprintable() else ascii(text)


def _shortened(text: str) -> str:
    text = masked(text)  # somebody's URL may stand where a name was wanted
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"


class _Fault(Exception):
    """A reference that cannot be replaced; its text holds nothing of the value."""


class _Reference(NamedTuple):
    """One reference in a string: what it brought, how it is spelled, where it ends."""

    brought: str
    source: str
    end: int


@dataclass
class _Work:
    """One document under way."""

    environ: Mapping[str, str]
    sources: dict[KeyPath, tuple[str, ...]] = field(default_factory=dict)
    files: set[Path] = field(default_factory=set)
    faults: dict[KeyPath, str] = field(default_factory=dict)

    def replaced(self, value: Any, path: KeyPath) -> Any:
        if isinstance(value, str):
            return self._string(value, path)
        if isinstance(value, Mapping):
            return {key: self.replaced(each, (*path, key)) for key, each in value.items()}
        if isinstance(value, list):
            return [self.replaced(each, (*path, at)) for at, each in enumerate(value)]
        return value

    def _string(self, text: str, path: KeyPath) -> str:
        pieces: list[str] = []
        sources: list[str] = []
        at = 0
        while begin := _BEGINS.search(text, at):
            pieces.append(text[at : begin.start()])
            if begin.group() == "$$":
                pieces.append("$")
                at = begin.end()
                continue
            try:
                reference = self._reference(text, begin)
            except _Fault as fault:
                self.faults[path] = str(fault)
                return text
            pieces.append(reference.brought)
            sources.append(reference.source)
            if begin.start() == 0 and reference.end == len(text):
                self.sources[path] = (reference.source,)
                return Whole(reference.brought)
            at = reference.end
        if sources:
            self.sources[path] = tuple(sources)
        return "".join(pieces) + text[at:]

    def _reference(self, text: str, begin: re.Match[str]) -> _Reference:
        form = f"{begin.group()}...}}"
        close = text.find("}", begin.end())
        if close < 0:
            raise _Fault(f"a {form} is not closed; write $$ for a dollar sign")
        inside = text[begin.end() : close]
        if begin.group() == "${" and inside.startswith("file:"):
            path = inside.removeprefix("file:")
            return _Reference(self._file(path), f"${{file:{path}}}", close + 1)
        spelling = _VARIABLE if begin.group() == "${" else _OTHER_SPELLING
        found = spelling.fullmatch(inside)
        if found is None:
            raise _Fault(_not_understood(form, inside))
        return _Reference(self._variable(found), f"${{{found['name']}}}", close + 1)

    def _variable(self, found: re.Match[str]) -> str:
        name, default = found["name"], found["default"]
        if default is None:
            if name not in self.environ:
                raise _Fault(f"the variable {name} is not set and has no default")
            return self.environ[name]
        if _BEGINS.search(default.replace("$$", "")):
            raise _Fault(f"the default of {name} holds another reference, which is not possible")
        return self.environ.get(name) or default.replace("$$", "$")

    def _file(self, name: str) -> str:
        if not name.startswith("/"):
            raise _Fault("${file:...} needs an absolute path")
        path = Path(name)
        self.files.add(path)
        shown = name if _PRINTABLE_PATH.fullmatch(name) else ascii(name)
        return _read(path, lambda why: _Fault(f"the file {shown} {why}"))


def _not_understood(form: str, inside: str) -> str:
    if prefix := _PREFIX.match(inside):
        if prefix[1] == "env":
            return f"a {form} names no variable"
        return f"a {form} has a prefix that is not known; known: env, file"
    if form.startswith("$"):
        return "a ${...} is neither ${VAR} nor ${VAR:-default} nor ${file:/path}; write $$ for a dollar sign"
    return "a {$...} is neither {$VAR} nor {$VAR:default}; write $$ for a dollar sign"


def _read(path: Path, fault: Callable[[str], _Fault]) -> str:
    """The text of a small ordinary file, less one trailing newline."""
    why = ""
    content = b""
    try:
        content = read_ordinary(path, LARGEST_FILE)
    except (OSError, ValueError) as error:
        why = why_unreadable(error)
    if why:
        raise fault(why)
    if len(content) > LARGEST_FILE:
        raise fault(f"is larger than {LARGEST_FILE} bytes")
    text = None
    with contextlib.suppress(UnicodeDecodeError):
        text = content.decode("utf-8")
    # Raised out here: a UnicodeDecodeError carries the whole content, and would hang on this one.
    if text is None:
        raise fault("is not UTF-8 text")
    return text.removesuffix("\r\n" if text.endswith("\r\n") else "\n")
