"""What `webhooks.json` may say of a module: one model for each thing that can be done with a request."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self, TypeAlias

from pydantic import BaseModel, Field, field_validator, model_validator

from millpond.gateway.fields import Bool, Int, Lifetime, Name, Seconds, Source, Strict, Text
from millpond.gateway.pointer import source
from millpond.registry.substitution import quoted


class Stored(Strict):
    """What is common to the modules that bring a request somewhere."""

    connection: Text = Field(description="Name of the connection in connections.json.")
    timeout: Seconds = Field(
        10.0, description="Longest that storing one request may take once there is a connection, seconds."
    )


class RowModule(Stored):
    """A module that stores each request as one row of a table."""

    type: str
    table: str = Field("webhook_events", min_length=1, description="The table that takes the rows.")
    columns: dict[str, str] = Field(
        default_factory=lambda: {"body": "$body"},
        min_length=1,
        description="Column to value: a JSON pointer into the body (NULL where it finds nothing), "
        "$body, $path or $received_at.",
    )
    create_table: Bool = Field(False, description="Create the table when it does not exist.")

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

    @property
    def target(self) -> str:
        """What it writes to."""
        return self.table


class PostgreSQLModule(RowModule):
    """Stores each request as a row in PostgreSQL; `table` may have a schema: `audit.webhook_events`."""

    type: Literal["postgresql"]


class MySQLModule(RowModule):
    """Stores each request as a row in MySQL or MariaDB; `table` may have a database: `audit.events`."""

    type: Literal["mysql"]


class SQLiteModule(RowModule):
    """Stores each request as a row in SQLite."""

    type: Literal["sqlite"]


class RedisModule(Stored):
    """What is common to the modules that write to Redis."""

    type: Literal["redis"]
    action: str

    @property
    def target(self) -> str:
        """What it writes to."""
        return f"{self.action}:{getattr(self, 'channel', None) or getattr(self, 'key', '')}"


class ListPush(RedisModule):
    """Appends each request to a list."""

    action: Literal["list_push"]
    key: Name = Field(description="The list; {/pointer} in it stands for a value of the body.")
    value: Source = Field(
        "$body", description="What is appended: a JSON pointer, $body, $path or $received_at."
    )
    side: Literal["left", "right"] = Field("right", description="Which end of the list.")


class StreamAdd(RedisModule):
    """Adds each request to a stream as one entry."""

    action: Literal["stream_add"]
    key: Name = Field(description="The stream; {/pointer} in it stands for a value of the body.")
    fields: dict[str, Source] = Field(
        default_factory=lambda: {"body": "$body"},
        min_length=1,
        description="Field to value, as in the columns of a table; what finds nothing is left out.",
    )
    max_length: Int | None = Field(
        None,
        ge=1,
        le=1 << 40,
        description="About how many entries the stream may have: older ones are dropped, read or not.",
    )


class Publish(RedisModule):
    """Publishes each request on a channel, to those who listen at that moment."""

    action: Literal["publish"]
    channel: Name = Field(description="The channel; {/pointer} in it stands for a value of the body.")
    value: Source = Field(
        "$body", description="What is published: a JSON pointer, $body, $path or $received_at."
    )
    require_receiver: Bool = Field(False, description="Answer 503 when nobody has received it.")


class SetKey(RedisModule):
    """Sets a key to what each request brings."""

    action: Literal["set"]
    key: Name = Field(description="The key; {/pointer} in it stands for a value of the body.")
    value: Source = Field(
        "$body", description="What it is set to: a JSON pointer, $body, $path or $received_at."
    )
    ttl: Lifetime | None = Field(None, description="When the key goes away, seconds; null: never.")
    if_absent: Bool = Field(False, description="Answer 409, and change nothing, when the key is there.")


class RabbitMQModule(Stored):
    """Publishes each request as a message, and waits until the server has confirmed it."""

    type: Literal["rabbitmq"]
    queue: Name | None = Field(
        None, description="The queue; {/pointer} in it stands for a value of the body. Or an exchange:"
    )
    exchange: Text | None = Field(None, description="The exchange that routes the message.")
    routing_key: Name | None = Field(
        None,
        description="By what it routes; {/pointer} stands for a value of the body. Left out: an empty one.",
    )
    value: Source = Field(
        "$body", description="What is published: a JSON pointer, $body, $path, $received_at."
    )
    persistent: Bool = Field(True, description="Durable queues keep the message on disk.")
    mandatory: Bool = Field(True, description="Fail when the message is routed to no queue.")
    create_queue: Bool = Field(False, description="Create the queue, durable, when it does not exist.")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.queue is None) == (self.exchange is None):
            raise ValueError("give a queue or an exchange, one of them")
        if self.routing_key is not None and self.exchange is None:
            raise ValueError("a routing_key goes with an exchange; a queue needs none")
        if self.create_queue and (self.queue is None or not self.mandatory):
            raise ValueError("create_queue goes with a queue, and needs mandatory")
        return self

    @property
    def target(self) -> str:
        """What it writes to."""
        return f"{self.exchange or ''}:{self.queue or self.routing_key or ''}"


class LogModule(Strict):
    """Writes one line of each request to the service's log: what is known of it, not what it says."""

    type: Literal["log"]
    level: Literal["debug", "info", "warning"] = Field("info", description="The level of the line.")
    values: dict[str, Source] = Field(
        default_factory=dict, description="Values of the body that go into the line: name to JSON pointer."
    )
    body: Bool = Field(False, description="Write the body too, up to 1000 characters; it may hold secrets.")


Redis: TypeAlias = Annotated[ListPush | StreamAdd | Publish | SetKey, Field(discriminator="action")]
Module: TypeAlias = Annotated[
    PostgreSQLModule | MySQLModule | SQLiteModule | Redis | RabbitMQModule | LogModule,
    Field(discriminator="type"),
]
AnyModule: TypeAlias = (
    PostgreSQLModule
    | MySQLModule
    | SQLiteModule
    | ListPush
    | StreamAdd
    | Publish
    | SetKey
    | RabbitMQModule
    | LogModule
)

MODELS: Final[dict[str, type[BaseModel]]] = {
    "postgresql": PostgreSQLModule,
    "mysql": MySQLModule,
    "sqlite": SQLiteModule,
    "rabbitmq": RabbitMQModule,
    "log": LogModule,
}
"""By type, those that have one form."""

ACTIONS: Final[dict[str, type[BaseModel]]] = {
    "list_push": ListPush,
    "stream_add": StreamAdd,
    "publish": Publish,
    "set": SetKey,
}
"""By action, those of type redis."""
