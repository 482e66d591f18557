"""From `webhooks.json` to hooks: read, substitute, validate, and check against the connections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, Final, Protocol

from pydantic import ValidationError

from millpond.drivers.kinds import near
from millpond.errors import ConfigError
from millpond.gateway.app import Hook
from millpond.gateway.model import RowModule, Webhook, Webhooks
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


def load_webhooks(
    path: str | PathLike[str],
    registry: Connections,
    *,
    environ: Mapping[str, str] | None = None,
    reserved: Sequence[str] = RESERVED,
) -> dict[str, Hook]:
    """The hooks of a file, by path.

    Args:
        path: JSON, TOML or YAML; references like `${VAR}` in its values are replaced.
        registry: the connections that modules may name.
        environ: where variables are looked up; None: the process's environment.
        reserved: paths that no hook may take, nor anything below them.

    Raises:
        ConfigError: the file cannot be used; one line for each fault, with the file and the key.
        MissingExtra: the client library of a kind that a hook uses is not installed.
    """
    document = read_document(path)
    substituted = substitute(document.values, environ)
    if substituted.problems:
        raise ConfigError([f"{document.label}: {problem}" for problem in substituted.problems])
    faults: list[str] = []
    model = None
    try:
        model = Webhooks.model_validate(substituted.values)
    except ValidationError as error:
        faults = list(_worded(error))
    if model is not None:
        hooks, faults = _made(model, registry, reserved)
        if not faults:
            return hooks
    # Raised out here, so that no validation error, which holds its input, hangs on it.
    raise ConfigError([f"{document.label}: {fault}" for fault in faults])


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
        for place, module in enumerate(webhook.modules):
            here: KeyPath = (*at, "modules", place)
            if wrong := _connection_fault(module, registry):
                key, words = wrong
                faults.append(f"{spelled((*here, key))}: hook {webhook.path}: {words}")
                continue
            try:
                modules.append(make(module, registry.kind(module.connection)))
            except ValueError as error:
                key, _, words = str(error).partition(": ")
                faults.append(f"{spelled((*here, key))}: hook {webhook.path}: {words}")
        hooks[webhook.path] = Hook(webhook.path, tuple(modules), webhook.max_body_bytes, webhook.body_timeout)
    return hooks, faults


def _path_fault(webhook: Webhook, others: Mapping[str, Hook], reserved: Sequence[str]) -> str | None:
    if webhook.path in others:
        return f"{webhook.path} stands there more than once"
    for taken in reserved:
        if webhook.path == taken or webhook.path.startswith(f"{taken}/"):
            return f"{webhook.path} cannot be a hook's: {taken} is the service's own"
    return None


def _connection_fault(module: RowModule, registry: Connections) -> tuple[str, str] | None:
    """Which key is wrong, and why."""
    name = module.connection
    if name not in registry.names:
        return "connection", f"there is no connection of this name{near(name, registry.names)}"
    kind, said = registry.kind(name), getattr(module, "type", None)
    if said != kind:
        return "type", f"is {said!r}, but the connection {name!r} is of type {kind!r}"
    return None


def _worded(error: ValidationError) -> Iterator[str]:
    """One line for each fault, without the values that were given."""
    for each in error.errors(include_input=False, include_context=False, include_url=False):
        # Below a module pydantic names the kind that it took the module for; the file has no such key.
        path = tuple(
            step
            for at, step in enumerate(each["loc"])
            if not (step in KINDS and at >= 2 and each["loc"][at - 2] == "modules")
        )
        if each["type"].startswith("union_tag_"):
            path = (*path, "type")
        yield f"{spelled(path)}: {_fault(each['type'], path, each['msg'])}"


def _fault(kind: str, path: KeyPath, message: str) -> str:
    match kind:
        case "extra_forbidden":
            return f"is not a known key{near(str(path[-1]), _keys_beside(path))}"
        case "union_tag_invalid":
            return f"there is no module of this type; known: {', '.join(KINDS)}"
        case "union_tag_not_found":
            return f"is missing; known: {', '.join(KINDS)}"
        case "value_error":
            return message.removeprefix("Value error, ")
        case _:
            # Pydantic's words for what is left are about bounds: "Input should be greater than 0".
            return _WORDS.get(kind) or message.replace("Input should be", "must be")


def _keys_beside(path: KeyPath) -> list[str]:
    """The keys that an object at this place may have."""
    if "modules" in path:
        return [*RowModule.model_fields, "type"]
    return list(Webhook.model_fields if len(path) > 1 else Webhooks.model_fields)
