"""What a connection's configuration may say, and what it means: a kind, pool settings, driver options.

The models are strict pydantic models, made at run time for each kind from its
driver. Every fault becomes one line that names the connection and the key; no
line holds anything that the configuration gave as text, for any of it may be a
secret in the wrong place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, Secret, SecretStr, ValidationError, create_model

from millpond.driver import Driver
from millpond.drivers.kinds import AnyKind, Kinds, near, scheme_of, settings_for
from millpond.errors import ConfigError, InvalidSettings, MissingExtra, PoolError
from millpond.registry.harmless import bare, harmless, is_secret, secrets_of, texts
from millpond.registry.options import Option, Shape, driver_options, ranged, scalar, shape_of
from millpond.registry.sources import name_fault
from millpond.registry.substitution import KeyPath, printable, quoted, spelled
from millpond.settings import LARGEST, PoolSettings, must_be, setting_fields

SHORTHANDS: Final[Mapping[str, str]] = {
    "pool_min_size": "min_size",
    "pool_max_size": "max_size",
    "acquisition_timeout": "acquire_timeout",
}
"""Keys of a connection that mean a field of `pool`."""

_SETTINGS: Final[Mapping[str, Shape]] = {
    each.name: ranged(each.metadata["range"]) for each in setting_fields()
}
_DEFAULTS: Final = PoolSettings()


@dataclass(frozen=True, slots=True)
class ConnectionConfig:
    """What one valid configuration says.

    Attributes:
        name: the connection's name.
        kind: its kind, whether it was said or told by the URL.
        settings: how its pool behaves.
        options: arguments for its driver, secrets wrapped; those of `url` included.
        driver_class: what makes its driver.
        sources: where values came from that are not the configuration's own, by key path
            (`password`, `pool.max_size`).
    """

    name: str
    kind: str
    settings: PoolSettings
    options: Mapping[str, Any] = field(repr=False)
    driver_class: AnyKind = field(repr=False)
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict, compare=False)

    def make_driver(self) -> Driver[Any]:
        """A new driver; does no I/O."""
        return self.driver_class(**{name: bare(value) for name, value in self.options.items()})


def connection_config(
    name: str,
    values: object,
    *,
    kinds: Kinds | None = None,
    label: str = "",
    sources: Mapping[KeyPath, tuple[str, ...]] | None = None,
    unresolved: Iterable[KeyPath] = (),
) -> ConnectionConfig:
    """Validate what a file or a mapping says of the connection `name`.

    Args:
        name: the connection's name.
        values: its keys and values.
        kinds: the kinds there are.
        label: what every line begins with: `connections.json: `.
        sources: where values came from, by key path below the connection.
        unresolved: key paths whose references could not be replaced: what is wrong there has been said.

    Raises:
        ConfigError: with one line for each fault.
    """
    reading = _Reading(name, label, dict(sources or {}), frozenset(unresolved))
    config = reading.config(values, kinds or Kinds())
    if config is None:
        raise ConfigError(reading.problems)
    return config


class Strict(BaseModel):
    """The rules of every model here: exact types, no unknown keys, no inputs in errors."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


@dataclass(frozen=True, slots=True)
class KindModel:
    """One kind's model, and what its keys take.

    Attributes:
        kind: the driver's class.
        model: validates one connection. Driver options are fields `option_<name>` with the
            option's name as alias, so that no option can collide with pydantic's own names.
        options: the driver's options by name.
        words: what each key takes, for people; keys of `pool` as `pool.max_size`.
    """

    kind: AnyKind
    model: type[BaseModel]
    options: Mapping[str, Option]
    words: Mapping[str, str]

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that a connection of this kind may have."""
        return (*_COMMON, *self.options)

    @property
    def refusal(self) -> str:
        """What to say when the driver's own words cannot be shown."""
        return f"is refused by kind {self.kind.kind!r}, which gave no reason that can be shown"


@lru_cache(maxsize=64)
def kind_model(kind: AnyKind) -> KindModel:
    """The model for connections of this kind.

    Raises:
        ConfigError: the driver's constructor does not suit a configuration.
    """
    options = driver_options(kind)
    if taken := [name for name in options if name in _COMMON]:
        raise ConfigError([f"kind {kind.kind!r} has the option {taken[0]!r}, which every connection has"])
    fields: dict[str, Any] = {name: (_COMMON[name].annotation, None) for name in ("type", *SHORTHANDS)}
    fields["url"] = (SecretStr, None)
    fields["pool"] = (_POOL_MODEL, None)
    for name, option in options.items():
        default = None if option.is_required or option.is_secret else option.default
        fields[f"option_{name}"] = (option.annotation, Field(default, alias=name))
    words = {name: shape.words for name, shape in _COMMON.items()}
    words |= {name: option.shape.words for name, option in options.items()}
    words |= {f"pool.{name}": shape.words for name, shape in _SETTINGS.items()}
    model = create_model(f"{kind.__name__}Connection", __base__=Strict, **fields)
    return KindModel(kind, model, MappingProxyType(options), MappingProxyType(words))


_POOL_FIELDS: Final[dict[str, Any]] = {
    each.name: (
        _SETTINGS[each.name].annotation,
        Field(getattr(_DEFAULTS, each.name), description=each.metadata["doc"]),
    )
    for each in setting_fields()
}
_POOL_MODEL: Final = create_model("Pool", __base__=Strict, **_POOL_FIELDS)
_STRING: Final = shape_of(str) or Shape(str, "a string")
_COMMON: Final[Mapping[str, Shape]] = {
    "type": _STRING,
    "url": _STRING,
    "pool": Shape(_POOL_MODEL, "an object"),
    **{name: _SETTINGS[meant] for name, meant in SHORTHANDS.items()},
}


@dataclass
class _Reading:
    """One connection's configuration under way; collects what is wrong with it."""

    name: str
    label: str
    sources: Mapping[KeyPath, tuple[str, ...]]
    unresolved: frozenset[KeyPath]
    faults: dict[str, None] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        return list(self.faults)

    def fault(self, path: KeyPath, text: str) -> None:
        """Note one fault; nothing is said twice of a value that could not be had."""
        if path in self.unresolved:
            return
        source = f" (from {', '.join(map(printable, self.sources[path]))})" if path in self.sources else ""
        self.faults[f"{self.label}{spelled((str(self.name), *path))}: {text}{source}"] = None

    def config(self, values: object, kinds: Kinds) -> ConnectionConfig | None:
        """The configuration; None when anything was wrong with it."""
        if wrong := name_fault(self.name):
            # Nothing more: what was put in the place of a name need not stand in every line below it.
            self.faults[f"{self.label}{quoted(self.name)}: {wrong}"] = None
            return None
        if not isinstance(values, Mapping):
            self.fault((), "must be an object")
            return None
        kind = self._kind(values, kinds)
        if kind is None:
            self._sizes(values)
            return None
        model = None
        try:
            model = kind_model(kind)
        except ConfigError as error:
            self.fault(("type",), error.problems[0])
        if model is None:
            return None
        validated = self._validated(values, model)
        from_url = self._from_url(values, model)
        self._doubled(values, from_url)
        self._missing(values, from_url, model)
        self._sizes(values)
        if self.faults or self.unresolved or validated is None:
            return None
        options = {**_wrapped(from_url, kind), **_given(validated, model)}
        settings = self._settings(validated, kind, options)
        if settings is None or not self._suits(options, from_url, model):
            return None
        sources = {spelled(path): each for path, each in self.sources.items()}
        return ConnectionConfig(self.name, kind.kind, settings, MappingProxyType(options), kind, sources)

    def _kind(self, values: Mapping[str, Any], kinds: Kinds) -> AnyKind | None:
        said, url = values.get("type"), values.get("url")
        if "type" in values and not isinstance(said, str):
            self.fault(("type",), "must be a string")
            return None
        if said is None and not isinstance(url, str):
            if "url" in values:
                self.fault(("url",), "must be a string")
            else:
                known = ", ".join(kinds.names)
                self.fault(("type",), f"is missing, and there is no url that tells it; known: {known}")
            return None
        key = "type" if said is not None else "url"
        try:
            return kinds.get(str(said)) if said is not None else kinds.of_scheme(scheme_of(str(url)))
        except (ConfigError, MissingExtra) as error:
            self.fault((key,), _said(error))
        return None

    def _validated(self, values: Mapping[str, Any], model: KindModel) -> BaseModel | None:
        try:
            return model.model.model_validate(dict(values))
        except ValidationError as error:
            # Nothing of the input: pydantic keeps it beside each fault, and in its own text.
            found = error.errors(include_input=False, include_context=False, include_url=False)
        for each in found:
            at = each["loc"]
            # Below these keys the path holds names of pydantic's own; the key says enough.
            path: KeyPath = at[:2] if at[0] == "pool" else at[:1]
            if each["type"] == "extra_forbidden":
                self.fault(path, _unknown(path, model))
            else:
                self.fault(path, must_be(model.words[".".join(map(str, path))], _at(values, path)))
        return None

    def _from_url(self, values: Mapping[str, Any], model: KindModel) -> Mapping[str, Any]:
        """What `url` says, as options; nothing when there is none or it is wrong."""
        url = values.get("url")
        if not isinstance(url, str) or ("url",) in self.unresolved:
            return {}
        if scheme_of(url) not in model.kind.schemes:
            begins = " or ".join(f"{scheme}://" for scheme in model.kind.schemes)
            self.fault(("url",), f"must begin with {begins}")
            return {}
        try:
            return dict(model.kind.options_from_url(str(url)))
        except Exception as error:  # a driver of any origin
            text = harmless(str(error), secrets_of(url))
        self.fault(("url",), text or model.refusal)
        return {}

    def _doubled(self, values: Mapping[str, Any], from_url: Mapping[str, Any]) -> None:
        """Two spellings of one thing."""
        pool = values.get("pool")
        for key, meant in SHORTHANDS.items():
            if key in values and isinstance(pool, Mapping) and meant in pool:
                self.fault((key,), f"says the same as pool.{meant}; give one of them")
        for key in from_url:
            if key in values:
                self.fault((key,), "is said by url too; give one of them")

    def _missing(self, values: Mapping[str, Any], from_url: Mapping[str, Any], model: KindModel) -> None:
        if "url" in values and not from_url:
            return  # what it was to say is not known
        for name, option in model.options.items():
            if option.is_required and name not in values and name not in from_url:
                self.fault((name,), f"is missing; must be {option.shape.words}")

    def _sizes(self, values: Mapping[str, Any]) -> None:
        """Sizes that contradict each other, as they were given: defaults bend, see `settings_for`."""
        least, most, idle = (self._size(values, meant) for meant in ("min_size", "max_size", "max_idle"))
        for upper in (most, idle):
            if least is not None and upper is not None and least[1] > upper[1]:
                keys = spelled(upper[0])
                self.fault(
                    (),
                    f"{spelled(least[0])} ({least[1]}) must not be above {keys} ({upper[1]}); "
                    f"lower {spelled(least[0])} or raise {keys}",
                )

    def _size(self, values: Mapping[str, Any], meant: str) -> tuple[KeyPath, int] | None:
        """Where a size was given, and how large, if it is a size at all."""
        pool = values.get("pool")
        places: dict[KeyPath, Any] = {
            (key,): values[key] for key, each in SHORTHANDS.items() if each == meant and key in values
        }
        if isinstance(pool, Mapping) and meant in pool:
            places["pool", meant] = pool[meant]
        for path, value in places.items():
            number = scalar(value)
            if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < LARGEST:
                return path, number
        return None

    def _settings(
        self, validated: BaseModel, kind: AnyKind, options: Mapping[str, Any]
    ) -> PoolSettings | None:
        pool = getattr(validated, "pool", None)
        given = {name: getattr(pool, name) for name in pool.model_fields_set} if pool is not None else {}
        given |= {
            meant: getattr(validated, key)
            for key, meant in SHORTHANDS.items()
            if key in validated.model_fields_set
        }
        try:
            return settings_for(kind, given, options)
        except InvalidSettings as error:
            key = error.field
        self.fault(("pool", key), "does not fit the other settings")
        return None

    def _suits(self, options: Mapping[str, Any], from_url: Mapping[str, Any], model: KindModel) -> bool:
        """Whether the driver takes these options: one that is made for a trial says so."""
        try:
            model.kind(**{name: bare(value) for name, value in options.items()})
        except MissingExtra as error:
            self.fault(("type",), _said(error))
            return False
        except Exception as error:  # a driver of any origin
            said = str(error)
        else:
            return True
        # A driver's words may begin with the option that they are about.
        option, colon, rest = said.partition(": ")
        path: KeyPath = ()
        if colon and option in from_url:
            path = ("url",)
        elif colon and option in model.options:
            path, said = (option,), rest
        self.fault(path, harmless(said, *_by_secrecy(options, model)) or model.refusal)
        return False


def _by_secrecy(options: Mapping[str, Any], model: KindModel) -> tuple[list[str], list[str]]:
    """The texts in secret options, and those in others that are not just a choice among known words."""
    secrets: list[str] = []
    others: list[str] = []
    for name, value in options.items():
        known = model.options[name].shape.words if name in model.options else ""
        into = secrets if is_secret(value) else others
        into += [each for each in texts(value) if repr(each) not in known]
    return secrets, others


def _at(values: Mapping[str, Any], path: KeyPath) -> object:
    """What was given at this place, as a number where it is one."""
    found: Any = values
    for step in path:
        found = found.get(step) if isinstance(found, Mapping) else None
    return scalar(found)


def _unknown(path: KeyPath, model: KindModel) -> str:
    key = str(path[-1])
    if len(path) > 1:
        return f"is not a setting of the pool{near(key, _SETTINGS)}"
    if key in _SETTINGS:
        return f"is not a known key; it belongs in pool: pool.{key}"
    return f"is not a known key{near(key, model.keys)}"


def _said(error: PoolError) -> str:
    """The first line of an error of our own, without its code."""
    text = error.problems[0] if isinstance(error, ConfigError) else str(error)
    return text.removesuffix(f" [{error.code}]")


def _given(validated: BaseModel, model: KindModel) -> dict[str, Any]:
    """The driver options that were given, for the driver; secrets stay wrapped."""
    options: dict[str, Any] = {}
    for name, option in model.options.items():
        if f"option_{name}" in validated.model_fields_set:
            value = getattr(validated, f"option_{name}")
            options[name] = value if is_secret(value) else option.given(value)
    return options


def _wrapped(options: Mapping[str, Any], kind: AnyKind) -> dict[str, Any]:
    return {
        name: Secret(value) if name in kind.secret_options and value is not None else value
        for name, value in options.items()
    }
