"""What the models of `webhooks.json` are made of: strict, and kind to values that `${...}` brought."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from millpond.gateway.pointer import Template, source
from millpond.registry.options import scalar


class Strict(BaseModel):
    """The rules of every model here: exact types, no unknown keys, no inputs in errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


def _listed(value: object) -> object:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and any(each != "" for each in value):
        # ${OLD_SECRET:-} keeps a place for a secret that is there only while it changes.
        return [each for each in value if each != ""]
    return value


def _plain(value: str) -> str:
    """Without the mark that says where it came from."""
    return str(value)


def _spelled_right(reads: Callable[[str], Any]) -> Callable[[str], str]:
    def check(words: str) -> str:
        reads(words)
        return str(words)

    return check


# A reference like ${LIMIT} brings text; where it is the whole value it may be a number.
Bool: TypeAlias = Annotated[bool, BeforeValidator(scalar)]
Int: TypeAlias = Annotated[int, BeforeValidator(scalar)]
Float: TypeAlias = Annotated[float, BeforeValidator(scalar)]

Seconds: TypeAlias = Annotated[Float, Field(gt=0, le=3600, allow_inf_nan=False)]
"""A time of up to an hour."""

Lifetime: TypeAlias = Annotated[Float, Field(ge=1, le=10 * 366 * 86_400, allow_inf_nan=False)]
"""How long something is kept, seconds, up to ten years."""

Text: TypeAlias = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_plain)]
"""A name or a few words, never empty."""

Source: TypeAlias = Annotated[str, AfterValidator(_spelled_right(source))]
"""What `pointer.source` reads."""

Name: TypeAlias = Annotated[Text, AfterValidator(_spelled_right(Template))]
"""What `pointer.Template` reads."""

Secrets: TypeAlias = Annotated[
    list[Annotated[SecretStr, Field(min_length=1)]],
    BeforeValidator(_listed, json_schema_input_type=SecretStr | list[SecretStr]),
    Field(min_length=1),
]
"""One secret, or a list of secrets that are all right now; empty ones among others are left out."""
