"""What `webhooks.json` may say: strict models, and the order in which things are checked."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from millpond.gateway.pointer import source
from millpond.registry.options import scalar
from millpond.registry.substitution import quoted

LARGEST_BODY: Final = 1 << 20
"""Bytes a request's body may have where the hook says nothing: 1 MiB."""

_LARGEST_LIMIT: Final = 1 << 30
_PATH: Final = r"^/[A-Za-z0-9._~!$&'()*+,;=:@/-]*$"

# A reference like ${LIMIT} brings text; where it is the whole value it may be a number.
_Bool = Annotated[bool, BeforeValidator(scalar)]
_Int = Annotated[int, BeforeValidator(scalar)]
_Float = Annotated[float, BeforeValidator(scalar)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class RowModule(_Strict):
    """A module that stores each request as one row of a table."""

    connection: str = Field(min_length=1, description="Name of the connection in connections.json.")
    table: str = Field("webhook_events", min_length=1, description="The table that takes the rows.")
    columns: dict[str, str] = Field(
        default_factory=lambda: {"body": "$body"},
        min_length=1,
        description="Column to value: a JSON pointer into the body (NULL where it finds nothing), "
        "$body, $path or $received_at.",
    )
    create_table: _Bool = Field(False, description="Create the table when it does not exist.")
    timeout: _Float = Field(
        10.0,
        gt=0,
        le=3600,
        allow_inf_nan=False,
        description="Longest that storing one row may take once there is a connection, seconds.",
    )

    @field_validator("columns")
    @classmethod
    def _each_has_a_source(cls, columns: dict[str, str]) -> dict[str, str]:
        for column, words in columns.items():
            if not column:
                raise ValueError("a column needs a name")
            try:
                source(words)
            except ValueError as error:
                raise ValueError(f"{quoted(column)} {error}") from None
        return {column: str(words) for column, words in columns.items()}


class PostgreSQLModule(RowModule):
    """Stores each request as a row in PostgreSQL; `table` may have a schema: `audit.webhook_events`."""

    type: Literal["postgresql"]


class MySQLModule(RowModule):
    """Stores each request as a row in MySQL or MariaDB; `table` may have a database: `audit.events`."""

    type: Literal["mysql"]


class SQLiteModule(RowModule):
    """Stores each request as a row in SQLite."""

    type: Literal["sqlite"]


Module: TypeAlias = Annotated[PostgreSQLModule | MySQLModule | SQLiteModule, Field(discriminator="type")]


class Webhook(_Strict):
    """A path and what is done with a request to it: its modules in order, all or an error."""

    path: str = Field(
        pattern=_PATH,
        max_length=500,
        description="The path, exactly as requests name it; no wildcards, no query.",
    )
    modules: list[Module] = Field(min_length=1, description="What is done with the request, in this order.")
    max_body_bytes: _Int = Field(
        LARGEST_BODY, ge=1, le=_LARGEST_LIMIT, description="Largest body that is taken, bytes."
    )
    body_timeout: _Float = Field(
        30.0,
        gt=0,
        le=3600,
        allow_inf_nan=False,
        description="Longest that a client may take to send the body, seconds.",
    )


class Webhooks(_Strict):
    """The whole of `webhooks.json`."""

    webhooks: list[Webhook] = Field(description="The hooks; each path stands once.")
