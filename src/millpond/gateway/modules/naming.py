"""Names of tables and columns in statements, for every kind of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from millpond.gateway.module_models import RowModule


@dataclass(frozen=True, slots=True)
class Naming:
    """How one kind of database spells names, and the table that it makes for a hook.

    Attributes:
        quote: a name of one or more parts as an identifier; raises ValueError for what cannot be one.
        id_column: the column that numbers the rows, where the hook has none of its own.
        types: of columns, by what goes into them.
        other_type: of all other columns.
    """

    quote: Callable[..., str]
    id_column: str
    types: Mapping[str, str]
    other_type: str

    def quoted(self, key: str, *names: str) -> str:
        """A name as an identifier.

        Args:
            key: where the name stands in the file.
            names: its parts.

        Raises:
            ValueError: it cannot be one; the text begins with the key, and does not repeat the name.
        """
        try:
            return self.quote(*names)
        except ValueError:
            raise ValueError(
                f"{key}: a name is empty, too long, or holds a character that names cannot have"
            ) from None

    def creation(self, table: str, model: RowModule) -> str:
        """The statement that makes `table`, which is quoted, for the columns of `model`."""
        columns = [] if "id" in model.columns else [self.id_column]
        columns += [
            f"{self.quoted('columns', name)} {self.types.get(words, self.other_type)}".rstrip()
            for name, words in model.columns.items()
        ]
        return f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(columns)})"
