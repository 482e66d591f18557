"""What the admin API takes and answers, as models that stand in the OpenAPI document."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from millpond.settings import LARGEST
from millpond.status import PoolStatus


class _Request(BaseModel):
    """A body: exact types, no unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid")


class VersionReport(BaseModel):
    """One version of one named connection."""

    name: str
    kind: str
    version: int = Field(description="Counts up from 1 with every configuration that needed a new pool.")
    state: str = Field(description="The pool's state, or `not opened`.")
    age: float = Field(description="Seconds since the pool was made.")
    leases: int = Field(description="Borrowers at this moment.")
    healthy: bool
    pool: PoolStatus | None = Field(description="Null when nobody has used the connection yet.")


class PoolReport(BaseModel):
    """One named connection after something was done to its pool."""

    name: str
    version: int
    state: str
    leases: int = Field(description="Borrowers at this moment.")
    pool: PoolStatus


class Resize(_Request):
    """New sizes; what is left out stays."""

    min_size: int | None = Field(default=None, ge=0, lt=LARGEST)
    max_size: int | None = Field(default=None, ge=1, lt=LARGEST)


class Clear(_Request):
    """A new generation of connections."""

    spread: float = Field(
        default=0.0, ge=0.0, lt=LARGEST, description="Seconds over which idle connections are closed."
    )


class Pause(_Request):
    """Lend nothing until it is resumed."""

    mode: Literal["queue", "refuse"] = Field(
        default="queue", description="Whether borrowers wait, or are refused at once."
    )


class Drain(_Request):
    """Lend nothing more, and wait for what is out."""

    timeout: float = Field(default=30.0, ge=0.0, le=3600.0, description="Most seconds to wait.")


class ReloadRequest(_Request):
    """What to read again."""

    reload_webhooks: bool = Field(default=True, description="Take over the webhooks.")
    reload_connections: bool = Field(default=True, description="Take over the connections.")
    validate_only: bool = Field(default=False, description="Change nothing, and say what would be.")


class ConnectionsReport(BaseModel):
    """What became of the connections; names in the order of the file."""

    ok: bool
    added: list[str] = Field(description="New names; not opened before somebody uses them.")
    removed: list[str]
    changed: list[str] = Field(description="Names with a new version: another pool has taken over.")
    adjusted: list[str] = Field(description="Names whose running pool took the new settings.")
    unchanged: list[str]
    errors: dict[str, str] = Field(description="Why a name could not be taken over; it goes on as it was.")
    superseded: bool = Field(description="A later configuration came before this one was taken over whole.")
    validated_only: bool


class WebhooksReport(BaseModel):
    """What became of the webhooks: their paths."""

    added: list[str]
    removed: list[str]
    kept: list[str]


class ReloadReport(BaseModel):
    """One reload."""

    ok: bool = Field(description="Everything runs as it is configured.")
    trigger: Literal["program", "admin", "signal", "file"] = Field(description="Who wanted it.")
    at: str = Field(description="When it began, UTC, ISO 8601.")
    seconds: float = Field(description="How long it took.")
    validated_only: bool
    problems: list[str] = Field(description="One line for each fault; what it concerns is as it was.")
    connections: ConnectionsReport | None
    webhooks: WebhooksReport | None


class ConfigStatus(BaseModel):
    """Where the configuration comes from, and what came of the latest reload."""

    files: list[str] = Field(description="The files that are read, those that values name included.")
    watching: bool = Field(description="A change of one of the files is noticed.")
    debounce: float = Field(description="Seconds that files must have been at rest before they are read.")
    in_progress: bool
    reloads: int
    failures: int = Field(description="How many of these failed; one that a later one overtook has not.")
    last: ReloadReport | None


class AdminStatus(BaseModel):
    """Every pool there is, asked of memory and not of a backend."""

    closed: bool = Field(description="The registry lends nothing any more.")
    healthy: bool
    active: list[VersionReport] = Field(description="The version in use of every connection.")
    deprecated: list[VersionReport] = Field(description="Older versions whose leases have not all ended.")
