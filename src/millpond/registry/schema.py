"""JSON Schemas of the configuration files, for editors and for checks in CI.

They say what the models say, and one thing more: wherever a value is not a
text, a text with a reference in it (`${PORT}`) may stand, for that is replaced
before anything is validated.
"""

from __future__ import annotations

from typing import Any, Final

from millpond.drivers.kinds import Kinds
from millpond.errors import ConfigError, MissingExtra
from millpond.registry.model import kind_model

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_NAME: Final = "^[A-Za-z0-9_.-]{1,100}$"
_REFERENCE: Final = {
    "type": "string",
    "pattern": r"\$\{|\{\$",
    "description": "A text with a reference, `${VAR}`, `${VAR:-default}` or `${file:/path}`.",
}


def connections_schema(kinds: Kinds | None = None) -> dict[str, Any]:
    """The schema of `connections.json`, with every kind whose client library is installed."""
    kinds = kinds or Kinds()
    definitions: dict[str, Any] = {}
    for name in kinds.names:
        try:
            kind = kinds.get(name)
            schema = kind_model(kind).model.model_json_schema(by_alias=True)
        except (ConfigError, MissingExtra):
            continue
        for key, value in schema.pop("$defs", {}).items():
            definitions[key] = with_references(value)
        schema = with_references(schema)
        schema["title"] = f"A connection of kind {name}"
        schema["properties"]["type"] = {"const": name}
        begins = "|".join(kind.schemes)
        schema["properties"]["url"] = {
            "anyOf": [{"type": "string", "pattern": f"^({begins})://"}, _REFERENCE]
        }
        schema["anyOf"] = [{"required": ["type"]}, {"required": ["url"]}]
        definitions[name] = schema
    return {
        "$schema": DIALECT,
        "title": "Connections by name",
        "type": "object",
        "properties": {"$schema": {"type": "string"}},
        "patternProperties": {
            _NAME: {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in kinds.names if name in definitions]}
        },
        "additionalProperties": False,
        "$defs": definitions,
    }


def with_references(schema: Any) -> Any:
    """`schema`, where a reference may stand for any value inside that is not a text."""
    if isinstance(schema, list):
        return [with_references(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "properties" in schema:
        inner = {key: _or_reference(with_references(each)) for key, each in schema["properties"].items()}
        schema = {**schema, "properties": inner}
    return {key: value if key == "properties" else with_references(value) for key, value in schema.items()}


def _or_reference(schema: Any) -> Any:
    if not isinstance(schema, dict) or schema.get("type") == "string" or "const" in schema:
        return schema
    about = {key: schema[key] for key in ("title", "description", "default") if key in schema}
    rest = {key: value for key, value in schema.items() if key not in about}
    return {**about, "anyOf": [rest, _REFERENCE]}
