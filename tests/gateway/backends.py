"""The two databases that a gateway writes to, behind one face."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.gateway.service import postgresql
from tests.servers import PostgresServer


@dataclass
class Sqlite:
    """A SQLite file."""

    path: Path
    kind = "sqlite"

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

    def numbers(self, table: str = "webhook_events") -> list[int]:
        """The number of each stored request of `Traffic`."""
        return [int(row[0]) for row in self.run(f"SELECT json_extract(body, '$.number') FROM {table}")]


@dataclass
class Postgres:
    """A database on a private server."""

    server: PostgresServer
    database: str
    kind = "postgresql"

    def connection(self, **more: Any) -> dict[str, Any]:
        return postgresql(self.server, database=self.database, **more)

    def run(self, sql: str) -> list[tuple[str, ...]]:
        """Run statements as the role that the gateway uses; rows come as texts, NULL as an empty one."""
        return self.server.execute(f"SET ROLE {self.server.user};\n{sql}", database=self.database)

    def numbers(self, table: str = "webhook_events") -> list[int]:
        """The number of each stored request of `Traffic`."""
        return [int(row[0]) for row in self.run(f"SELECT body->>'number' FROM {table}")]
