"""What can be typed: options, their meaning, and one line for every mistake."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from enum import StrEnum
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated

import typer

from millpond.cli import TO_BE_CHANGED, words
from millpond.cli.check import check_files
from millpond.cli.serve import Serving, serve_files
from millpond.errors import ConfigError, MissingExtra
from millpond.gateway.load import webhooks_schema
from millpond.registry.schema import connections_schema

app = typer.Typer(
    name="millpond",
    help="Connection pools by name, and webhooks into databases.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


_PORT = typer.Option(metavar="NUMBER", min=0, max=65535, help="The port; 0: any that is free.")


class Level(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


_LEVEL = typer.Option(metavar="LEVEL", help="How much is logged: debug, info, warning or error.")
Connections = Annotated[
    Path, typer.Option("--connections", metavar="FILE", help="The connections by name: JSON, TOML or YAML.")
]
WebhooksFile = Annotated[
    Path | None, typer.Option("--webhooks", metavar="FILE", help="The webhooks: JSON, TOML or YAML.")
]


def run(arguments: Sequence[str]) -> int:
    """Run one command and return the exit status."""
    try:
        status = app(list(arguments) or ["--help"], prog_name="millpond", standalone_mode=False)
    except typer.TyperException as error:
        said = error.format_message() if hasattr(error, "format_message") else str(error)
        words.complain(" ".join(said.split()))
        return TO_BE_CHANGED
    except ConfigError as error:
        words.complain(*error.problems)
        return TO_BE_CHANGED
    except MissingExtra as error:
        words.complain(str(error))
        return TO_BE_CHANGED
    except KeyboardInterrupt:
        return 130
    return status if isinstance(status, int) else 0


def _version(asked: bool) -> None:
    if asked:
        words.say(f"millpond {version_of('millpond')}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Connection pools by name, and webhooks into databases."""


@app.command()
def serve(
    connections: Connections,
    webhooks: WebhooksFile = None,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, _PORT] = 8000,
    shutdown_timeout: Annotated[
        float,
        typer.Option(
            min=1.0, metavar="SECONDS", help="Time that requests under way have to finish at the end."
        ),
    ] = 20.0,
    log_level: Annotated[Level, _LEVEL] = Level.INFO,
) -> int:
    """Serve webhooks, health and the admin API until SIGTERM or Ctrl-C."""
    words.log_to_stderr(logging.getLevelNamesMapping()[log_level.upper()])
    return asyncio.run(serve_files(connections, webhooks, Serving(host, port, shutdown_timeout)))


class File(StrEnum):
    """A configuration file."""

    CONNECTIONS = "connections"
    WEBHOOKS = "webhooks"


@app.command()
def schema(
    file: Annotated[File, typer.Argument(metavar="FILE", help="connections or webhooks.")] = File.CONNECTIONS,
) -> int:
    """Print the JSON Schema of a configuration file, for editors and for checks in CI."""
    words.say(json.dumps(connections_schema() if file is File.CONNECTIONS else webhooks_schema(), indent=2))
    return 0


@app.command()
def check(
    connections: Connections,
    webhooks: WebhooksFile = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="Time that each connection has to answer.")
    ] = 5.0,
) -> int:
    """Validate the files and try each connection once.

    Exit status: 0 all well; 1 the files are right, but a backend cannot be
    reached; 2 something must be changed.
    """
    words.log_to_stderr(logging.ERROR)
    return asyncio.run(check_files(connections, webhooks, timeout))
