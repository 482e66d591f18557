"""The databases that a gateway writes to, behind one face."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tests.gateway.service import mysql, postgresql
from tests.servers import MariaDBServer, PostgresServer


@dataclass
class Sqlite:
    """A SQLite file."""

    path: Path
    kind = "sqlite"
    number = "json_extract(body, '$.number')"
    deepest = 500

    def connection(self, **more: Any) -> dict[str, Any]:
        return {"type": "sqlite", "database": str(self.path), **more}

    def run(self, sql: str) -> list[tuple[str, ...]]:
        """Run statements; rows come as texts, NULL as an empty one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=10, isolation_level=None)
        try:
            rows: list[tuple[str, ...]] = []
            for statement in filter(str.strip, sql.split(";")):
                rows += [
                    tuple("" if value is None else str(value) for value in row)
                    for row in connection.execute(statement)
                ]
            return rows
        finally:
            connection.close()

    def remove(self) -> None:
        """Delete the file and its journals, whoever has them open."""
        for each in self.path.parent.glob(f"{self.path.name}*"):
            each.unlink()

    def numbers(self, table: str = "webhook_events") -> list[int]:
        """The number of each stored request of `Traffic`."""
        return [int(row[0]) for row in self.run(f"SELECT {self.number} FROM {table}")]


@dataclass
class Postgres:
    """A database on a private server."""

    server: PostgresServer
    database: str
    kind = "postgresql"
    number = "body->>'number'"
    deepest = 500

    def connection(self, **more: Any) -> dict[str, Any]:
        return postgresql(self.server, database=self.database, **more)

    def run(self, sql: str) -> list[tuple[str, ...]]:
        """Run statements as the role that the gateway uses; rows come as texts, NULL as an empty one."""
        return self.server.execute(f"SET ROLE {self.server.user};\n{sql}", database=self.database)

    def numbers(self, table: str = "webhook_events") -> list[int]:
        """The number of each stored request of `Traffic`."""
        return [int(row[0]) for row in self.run(f"SELECT {self.number} FROM {table}")]


@dataclass
class MariaDB:
    """A database on a private MariaDB server."""

    server: MariaDBServer
    database: str
    kind = "mysql"
    number = "json_value(body, '$.number')"
    deepest = 30  # its JSON functions read no deeper than 32

    def connection(self, **more: Any) -> dict[str, Any]:
        return mysql(self.server, database=self.database, **more)

    def run(self, sql: str) -> list[tuple[str, ...]]:
        """Run statements, in which names stand in double quotes; rows come as texts, NULL as an empty one."""
        return self.server.execute(
            f"SET sql_mode = CONCAT(@@sql_mode, ',ANSI_QUOTES');\n{sql.strip().removesuffix(';')}",
            database=self.database,
        )

    def numbers(self, table: str = "webhook_events") -> list[int]:
        """The number of each stored request of `Traffic`."""
        return [int(row[0]) for row in self.run(f"SELECT {self.number} FROM {table}")]


Database: TypeAlias = Sqlite | Postgres | MariaDB
