"""From `webhooks.json` to hooks: read, substitute, validate, and check against the connections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Final, Protocol

from pydantic import ValidationError

from millpond.drivers.kinds import near
from millpond.errors import ConfigError
from millpond.gateway.app import Hook
from millpond.gateway.authentication import Bearer, Hmac, check_of
from millpond.gateway.idempotency import Idempotency, Keeping, Keys
from millpond.gateway.model import Webhook, Webhooks
from millpond.gateway.module_models import ACTIONS, MODELS, AnyModule, LogModule, RedisModule
from millpond.gateway.modules import KINDS, Module, make
from millpond.registry.schema import DIALECT, with_references
from millpond.registry.sources import read_document
from millpond.registry.substitution import KeyPath, spelled, substitute

RESERVED: Final = ("/health", "/admin", "/openapi.json")
"""Paths, and what lies below them, that the service keeps for itself."""

_WORDS: Final = {
    "missing": "is missing",
    "string_pattern_mismatch": (
        "must begin with / and be an exact path of letters, digits and -._~!$&'()*+,;=:@/"
    ),
    "string_type": "must be a string",
    "string_too_short": "must not be empty",
    "string_too_long": "is too long",
    "too_short": "must not be empty",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
}


class Connections(Protocol):
    """What hooks may use: a registry, or what is to become of one."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all connections."""

    def kind(self, name: str) -> str:
        """The kind of the connection `name`."""


@dataclass(frozen=True, slots=True)
class WebhooksFile:
    """What a file of webhooks says, valid in itself; what it says of connections is not checked yet.

    Attributes:
        label: the file as the caller named it.
        path: the file.
        files: other files whose content went into it, through `${file:...}`.
        model: the webhooks.
    """

    label: str
    path: Path
    files: frozenset[Path]
    model: Webhooks = field(repr=False)

    def hooks(self, connections: Connections, *, reserved: Sequence[str] = RESERVED) -> dict[str, Hook]:
        """Its hooks, by path.

        Args:
            connections: what modules may name.
            reserved: paths that no hook may take, nor anything below them.

        Raises:
            ConfigError: they do not fit each other, or the connections; one line for each fault.
            MissingExtra: the client library of a kind that a hook uses is not installed.
        """
        hooks, faults = _made(self.model, connections, reserved)
        if faults:
            raise ConfigError([f"{self.label}: {fault}" for fault in faults])
        return hooks


def read_webhooks(path: str | PathLike[str], *, environ: Mapping[str, str] | None = None) -> WebhooksFile:
    """Read a file of webhooks: .json, .toml, .yaml or .yml.

    Args:
        path: the file; references like `${VAR}` in its values are replaced.
        environ: where variables are looked up; None: the process's environment.

    Raises:
        ConfigError: the file cannot be used; one line for each fault, with the file and the key.
        MissingExtra: it is YAML and PyYAML is not installed.
    """
    document = read_document(path)
    substituted = substitute(document.values, environ)
    faults: Sequence[str] = substituted.problems
    model = None
    if not faults:
        try:
            model = Webhooks.model_validate(substituted.values)
        except ValidationError as error:
            faults = list(_worded(error))
    if model is None:
        # Raised out here, so that no validation error, which holds its input, hangs on it.
        raise ConfigError([f"{document.label}: {fault}" for fault in faults])
    return WebhooksFile(document.label, document.path, substituted.files, model)


def load_webhooks(
    path: str | PathLike[str],
    registry: Connections,
    *,
    environ: Mapping[str, str] | None = None,
    reserved: Sequence[str] = RESERVED,
) -> dict[str, Hook]:
    """The hooks of a file, by path: `read_webhooks(path).hooks(registry)`.

    Args:
        path: JSON, TOML or YAML; references like `${VAR}` in its values are replaced.
        registry: the connections that modules may name.
        environ: where variables are looked up; None: the process's environment.
        reserved: paths that no hook may take, nor anything below them.

    Raises:
        ConfigError: the file cannot be used; one line for each fault, with the file and the key.
        MissingExtra: the client library of a kind that a hook uses is not installed.
    """
    return read_webhooks(path, environ=environ).hooks(registry, reserved=reserved)


def webhooks_schema() -> dict[str, Any]:
    """The JSON Schema of `webhooks.json`."""
    schema: dict[str, Any] = with_references(Webhooks.model_json_schema(by_alias=True))
    schema["properties"]["$schema"] = {"type": "string"}
    return {"$schema": DIALECT, **schema, "title": "Webhooks"}


def _made(
    model: Webhooks, registry: Connections, reserved: Sequence[str]
) -> tuple[dict[str, Hook], list[str]]:
    """The hooks, and what does not fit: to each other, or to the connections."""
    hooks: dict[str, Hook] = {}
    faults: list[str] = []
    for number, webhook in enumerate(model.webhooks):
        at: KeyPath = ("webhooks", number)
        if fault := _path_fault(webhook, hooks, reserved):
            faults.append(f"{spelled((*at, 'path'))}: {fault}")
        modules: list[Module] = []
        keepings = _keepings(webhook)
        if webhook.idempotency is not None and not any(keepings):
            faults.append(
                f"{spelled((*at, 'idempotency'))}: hook {webhook.path}: no module of it keeps a key"
            )
        for place, (module, keeping) in enumerate(zip(webhook.modules, keepings, strict=True)):
            here: KeyPath = (*at, "modules", place)
            if wrong := _connection_fault(module, registry):
                key, words = wrong
                faults.append(f"{spelled((*here, key))}: hook {webhook.path}: {words}")
                continue
            try:
                modules.append(make(module, keeping))
            except ValueError as error:
                key, _, words = str(error).partition(": ")
                where = (*at, "idempotency", "table") if key == "idempotency.table" else (*here, key)
                faults.append(f"{spelled(where)}: hook {webhook.path}: {words}")
        hooks[webhook.path] = Hook(
            webhook.path,
            tuple(modules),
            webhook.max_body_bytes,
            webhook.body_timeout,
            tuple(webhook.content_types),
            None if webhook.auth is None else check_of(webhook.auth),
            None if webhook.idempotency is None else Keys(webhook.idempotency),
        )
    return hooks, list(dict.fromkeys(faults))


def _keepings(webhook: Webhook) -> list[Keeping | None]:
    """How each module keeps keys; what it writes to tells it from the others, whatever their order."""
    said = webhook.idempotency
    keepings: list[Keeping | None] = []
    seen: Counter[str] = Counter()
    for module in webhook.modules:
        if said is None or isinstance(module, LogModule):
            keepings.append(None)
            continue
        target = f"{module.type}:{module.connection}:{module.target}"
        seen[target] += 1
        scope = target if seen[target] == 1 else f"{target}#{seen[target]}"
        keepings.append(Keeping(webhook.path, scope, said.table, said.ttl))
    return keepings


def _path_fault(webhook: Webhook, others: Mapping[str, Hook], reserved: Sequence[str]) -> str | None:
    if webhook.path in others:
        return f"{webhook.path} stands there more than once"
    for taken in reserved:
        if webhook.path == taken or webhook.path.startswith(f"{taken}/"):
            return f"{webhook.path} cannot be a hook's: {taken} is the service's own"
    return None


def _connection_fault(module: AnyModule, registry: Connections) -> tuple[str, str] | None:
    """Which key is wrong, and why."""
    if isinstance(module, LogModule):
        return None
    name = module.connection
    if name not in registry.names:
        return "connection", f"there is no connection of this name{near(name, registry.names)}"
    kind, said = registry.kind(name), module.type
    if said != kind:
        return "type", f"is {said!r}, but the connection {name!r} is of type {kind!r}"
    return None


def _worded(error: ValidationError) -> Iterator[str]:
    """One line for each fault, without the values that were given."""
    for each in error.errors(include_input=False, include_context=False, include_url=False):
        path, beside = _place(each["loc"])
        if each["type"].startswith("union_tag_"):
            # Pydantic names the key in quotes; of what was given in its place nothing is repeated.
            path = (*path, "action" if "'action'" in str(each.get("msg")) else "type")
        yield f"{spelled(path)}: {_fault(each['type'], path, each['msg'], beside)}"


def _place(loc: Sequence[str | int]) -> tuple[KeyPath, Sequence[str]]:
    """Where it stands in the file, and the keys that an object there may have.

    Pydantic names also what it took an object for (`redis`, `list_push`); the file has no such keys.
    """
    path: list[str | int] = []
    keys: Sequence[str] = list(Webhooks.model_fields)
    tags: Mapping[str, Sequence[str]] = {}
    for step in loc:
        if step in tags:
            keys = tags[str(step)]
            tags = _ACTION_KEYS if step == "redis" else {}
            continue
        tags = {}
        path.append(step)
        match path:
            case ["webhooks", int()]:
                keys = list(Webhook.model_fields)
            case ["webhooks", int(), "modules", int()]:
                tags = _MODULE_KEYS
            case ["webhooks", int(), "auth"]:
                tags = _AUTH_KEYS
            case ["webhooks", int(), "idempotency"]:
                keys = list(Idempotency.model_fields)
    return tuple(path), keys


_ACTION_KEYS: Final[Mapping[str, Sequence[str]]] = {
    name: list(model.model_fields) for name, model in ACTIONS.items()
}
_MODULE_KEYS: Final[Mapping[str, Sequence[str]]] = {
    **{name: list(model.model_fields) for name, model in MODELS.items()},
    "redis": list(RedisModule.model_fields),
}
_AUTH_KEYS: Final[Mapping[str, Sequence[str]]] = {
    "bearer": list(Bearer.model_fields),
    "hmac": list(Hmac.model_fields),
}


def _known(path: KeyPath) -> str:
    """The values that a key can have which says what an object is."""
    if path[-1] == "action":
        return ", ".join(ACTIONS)
    return ", ".join(_AUTH_KEYS if "auth" in path else KINDS)


def _fault(kind: str, path: KeyPath, message: str, beside: Sequence[str]) -> str:
    match kind:
        case "extra_forbidden":
            return f"is not a known key{near(str(path[-1]), beside)}"
        case "union_tag_invalid":
            noun = {"action": "no action of this name", "type": "nothing of this type"}[str(path[-1])]
            noun = "no module of this type" if "modules" in path and path[-1] == "type" else noun
            return f"there is {noun}; known: {_known(path)}"
        case "union_tag_not_found":
            return f"is missing; known: {_known(path)}"
        case "value_error":
            return message.removeprefix("Value error, ")
        case "literal_error":
            return message.replace("Input should be", "must be").replace("'", "")
        case _:
            # Pydantic's words for what is left are about bounds: "Input should be greater than 0".
            return _words(kind, path) or message.replace("Input should be", "must be")


def _words(kind: str, path: KeyPath) -> str | None:
    if kind == "string_pattern_mismatch" and path[-1] != "path":
        return "must be a content type" if "content_types" in path else "must be the name of a header"
    return _WORDS.get(kind)
