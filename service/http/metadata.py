"""The served bundle as front ends know it: its version, and titles and attributes of its items.

Front-end processes load this module, so it imports no torch.
"""

from pathlib import Path
from typing import Any, NamedTuple, Self

import polars as pl
from pydantic_core import to_json

from service.recall.types import EncodedCandidates


class ItemMetadata:
    """Title and attributes of every item, by its row."""

    def __init__(self, table: pl.DataFrame) -> None:
        self._columns = table.to_dict(as_series=False)

    def of(self, row: int) -> dict[str, Any]:
        """Returns title and attributes of an item, without those that are null."""
        return {name: v for name, column in self._columns.items() if (v := column[row]) is not None}

    def added_to(self, found: EncodedCandidates) -> bytes:
        """Returns the encoded candidates with a field `metadata` each.

        Every candidate is one line, because no JSON string holds a line break.
        """
        lines = found.json[1:-1].split(b",\n") if len(found.rows) else []
        complete = [
            b'%b,"metadata":%b}' % (line[:-1], to_json(self.of(row), inf_nan_mode="null"))
            for line, row in zip(lines, found.rows.tolist(), strict=True)
        ]
        return b"[%b]" % b",\n".join(complete)


class ServedBundle(NamedTuple):
    """The bundle whose items are recalled."""

    version: str
    max_interests: int
    """Interests that its network can generate for a user."""
    metadata: ItemMetadata

    @classmethod
    def load(cls, folder: Path, version: str, max_interests: int) -> Self:
        """Reads the metadata of a bundle whose checksums have been verified."""
        items = pl.scan_parquet(folder / "items.parquet")
        table = items.drop("item_id", "count", strict=False).collect()
        return cls(version, max_interests, ItemMetadata(table))
