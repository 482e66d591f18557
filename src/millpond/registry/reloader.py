"""Reading a configuration again, on request, on a signal or when a file changes; and what came of it.

A configuration that cannot be used changes nothing; what is wrong with it is
kept, logged, and told to whoever asks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from millpond.errors import ConfigError, PoolError, describe
from millpond.registry.load import files_named_by
from millpond.registry.watching import Watcher, contents

if TYPE_CHECKING:
    from millpond.registry.registry import ConnectionPoolRegistry
    from millpond.registry.reload import ReloadResult

logger = logging.getLogger("millpond.registry")

Trigger: TypeAlias = Literal["program", "admin", "signal", "file"]
"""Who wanted a reload."""


@dataclass(frozen=True, slots=True)
class Part:
    """What became of one kind of things that are configured: names of what came, went and stayed."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """All of it by name; ready for JSON."""
        return {"added": list(self.added), "removed": list(self.removed), "kept": list(self.kept)}


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a source says of one reload.

    Attributes:
        connections: what became of them; None: they were not asked for, or could not be read.
        webhooks: likewise.
        problems: one line for each fault; where there is any, what it concerns is as it was.
    """

    connections: ReloadResult | None = None
    webhooks: Part | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """One reload.

    Attributes:
        trigger: who wanted it.
        at: when it began, UTC, ISO 8601.
        seconds: how long it took.
        validated_only: nothing was to be changed.
        reloaded: what became of it.
    """

    trigger: Trigger
    at: str
    seconds: float
    validated_only: bool
    reloaded: Reloaded

    @property
    def ok(self) -> bool:
        """Everything runs as it is configured."""
        connections = self.reloaded.connections
        return not self.reloaded.problems and (connections is None or connections.ok)

    @property
    def has_failed(self) -> bool:
        """Something cannot be as it is configured. One that a later reload overtook has not failed."""
        connections = self.reloaded.connections
        return bool(self.reloaded.problems or (connections is not None and connections.errors))

    def as_dict(self) -> dict[str, Any]:
        """All of it by name; ready for JSON."""
        done = self.reloaded
        return {
            "ok": self.ok,
            "trigger": self.trigger,
            "at": self.at,
            "seconds": self.seconds,
            "validated_only": self.validated_only,
            "problems": list(done.problems),
            "connections": None if done.connections is None else done.connections.as_dict(),
            "webhooks": None if done.webhooks is None else done.webhooks.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class ReloaderStatus:
    """What a reloader knows at one instant.

    Attributes:
        files: the files that the configuration came from.
        watching: a change of one of them is noticed.
        debounce: how long the files must have been at rest before they are read, seconds.
        in_progress: a reload is under way.
        reloads: how many there were, those that only validated left out.
        failures: how many of these failed; one that a later one overtook has not.
        last: the latest; None: there was none.
    """

    files: tuple[str, ...]
    watching: bool
    debounce: float
    in_progress: bool
    reloads: int
    failures: int
    last: Outcome | None

    def as_dict(self) -> dict[str, Any]:
        """All of it by name; ready for JSON."""
        return {
            "files": list(self.files),
            "watching": self.watching,
            "debounce": self.debounce,
            "in_progress": self.in_progress,
            "reloads": self.reloads,
            "failures": self.failures,
            "last": None if self.last is None else self.last.as_dict(),
        }


class Source(Protocol):
    """Where a configuration comes from, and what takes it over."""

    @property
    def files(self) -> frozenset[Path]:
        """The files that are read; of a configuration that cannot be used also those that it names."""

    def is_of(self, registry: ConnectionPoolRegistry) -> bool:
        """Whether this is the registry that takes it over."""

    async def reload(self, *, connections: bool, webhooks: bool, validate_only: bool) -> Reloaded:
        """Read and take over what is asked for.

        Raises:
            ConfigError: a file cannot be used; nothing was changed.
            PoolError: the registry is closed.
        """


class RegistrySource:
    """The file that a registry came from; there are no webhooks.

    Args:
        registry: made by `from_file`.
    """

    def __init__(self, registry: ConnectionPoolRegistry) -> None:
        self._registry = registry
        self._in_vain: frozenset[Path] = frozenset()

    @property
    def files(self) -> frozenset[Path]:
        """The file, and those that its values name."""
        return self._registry.files | self._in_vain

    def is_of(self, registry: ConnectionPoolRegistry) -> bool:
        """Whether this is the registry that takes it over."""
        return registry is self._registry

    async def reload(self, *, connections: bool, webhooks: bool, validate_only: bool) -> Reloaded:
        """Read it once more."""
        del webhooks
        try:
            result = await self._registry.reload(validate_only=validate_only) if connections else None
        except ConfigError:
            path = self._registry.path
            self._in_vain = frozenset() if path is None else files_named_by(path, self._registry.environ)
            raise
        self._in_vain = frozenset()
        return Reloaded(result)


@dataclass(slots=True)
class Reloader:
    """This reloads a configuration, and remembers what came of it.

    Attributes:
        source: what is read and takes it over.
        debounce: how long files must have been at rest before they are read, seconds.
    """

    source: Source
    debounce: float = 3.0
    _watcher: Watcher | None = None
    _last: Outcome | None = None
    _reloads: int = 0
    _failures: int = 0
    _under_way: int = 0
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    _known: Mapping[Path, bytes | None] | None = None
    _is_stopped: bool = False

    async def reload(
        self,
        *,
        trigger: Trigger = "program",
        connections: bool = True,
        webhooks: bool = True,
        validate_only: bool = False,
    ) -> Outcome:
        """Read the files once more and take over what they say; a fault is told and not raised.

        Args:
            trigger: who wants it.
            connections: take over the connections.
            webhooks: take over the webhooks.
            validate_only: change nothing, and say what would be.
        """
        at, began = datetime.now(UTC).isoformat(timespec="milliseconds"), time.monotonic()
        self._under_way += 1
        try:
            reloaded = await self.source.reload(
                connections=connections, webhooks=webhooks, validate_only=validate_only
            )
        except ConfigError as error:
            reloaded = Reloaded(problems=tuple(error.problems))
        except PoolError as error:
            reloaded = Reloaded(problems=(describe(error),))
        finally:
            self._under_way -= 1
        outcome = Outcome(trigger, at, time.monotonic() - began, validate_only, reloaded)
        if not validate_only:
            self._note(outcome)
        return outcome

    def _note(self, outcome: Outcome) -> None:
        self._last = outcome
        self._reloads += 1
        self._failures += outcome.has_failed
        for problem in outcome.reloaded.problems:
            logger.error("reload (%s): %s", outcome.trigger, problem)

    def reload_soon(self, trigger: Trigger) -> None:
        """Reload in the background: what a signal handler calls. Nothing happens once it was stopped."""
        if self._is_stopped:
            return
        task = asyncio.get_running_loop().create_task(self.reload(trigger=trigger), name="millpond: reload")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def watch(self) -> None:
        """Reload whenever the content of a file has changed, and has been at rest for `debounce` seconds."""
        if self._watcher is None:
            self._watcher = Watcher(lambda: self.source.files, self._on_change, debounce=self.debounce)
            self._watcher.start(self._known)

    def note_files(self) -> None:
        """Take the files as they are now for those that were read: `watch` begins from there."""
        self._known = contents(self.source.files)

    async def _on_change(self) -> bool:
        """False when a backend stands in the way: that may pass, though no file changes."""
        connections = (await self.reload(trigger="file")).reloaded.connections
        return connections is None or not connections.errors

    async def stop(self) -> None:
        """Watch no longer, and end what is under way in the background."""
        self._is_stopped = True
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            await watcher.stop()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))

    def status(self) -> ReloaderStatus:
        """What it knows now; no I/O."""
        return ReloaderStatus(
            files=tuple(sorted(map(str, self.source.files))),
            watching=self._watcher is not None,
            debounce=self.debounce,
            in_progress=self._under_way > 0,
            reloads=self._reloads,
            failures=self._failures,
            last=self._last,
        )


def watch_settings(environ: Mapping[str, str]) -> tuple[bool, float]:
    """Whether files are watched, and the debounce in seconds, as the environment says.

    `CONFIG_FILE_WATCHING_ENABLED` (off unless `true`, `1`, `yes` or `on`) and
    `CONFIG_RELOAD_DEBOUNCE_SECONDS` (3).

    Raises:
        ConfigError: one of them means nothing.
    """
    said = environ.get("CONFIG_FILE_WATCHING_ENABLED", "").strip().lower()
    if said not in _TRUE | _FALSE:
        raise ConfigError(
            [f"CONFIG_FILE_WATCHING_ENABLED: must be one of {', '.join(sorted(_TRUE | _FALSE - {''}))}"]
        )
    return said in _TRUE, seconds_of(environ, "CONFIG_RELOAD_DEBOUNCE_SECONDS", 3.0)


def seconds_of(environ: Mapping[str, str], variable: str, default: float) -> float:
    """A number of seconds from the environment.

    Raises:
        ConfigError: it is no number above 0.
    """
    said = environ.get(variable, "").strip()
    try:
        value = float(said) if said else default
    except ValueError:
        value = -1.0
    if not 0 < value < _MOST_S:
        raise ConfigError([f"{variable}: must be a number of seconds above 0"])
    return value


_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"", "false", "0", "no", "off"})
_MOST_S = 1e9
