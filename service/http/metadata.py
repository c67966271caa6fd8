"""The served bundle as front ends know it: its version, and titles and attributes of its items.

Front-end processes load this module, so it imports no torch.
"""

import logging
from pathlib import Path
from typing import Any, NamedTuple, Self

import polars as pl
from pydantic_core import to_json

from service.recall.types import EncodedCandidates

log = logging.getLogger(__name__)


class ItemMetadata:
    """Title and attributes of every item, by its row."""

    def __init__(self, table: pl.DataFrame) -> None:
        """Takes a row for each item. A column that JSON cannot hold is left out with a warning."""
        self._columns: dict[str, list[Any]] = {}
        for column in table:
            if (values := _json_values(column)) is None:
                words = "the column %r of the items is not returned: JSON cannot hold its %s values"
                log.warning(words, column.name, column.dtype)
            else:
                self._columns[column.name] = values

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


def _json_values(column: pl.Series) -> list[Any] | None:
    """Returns values that JSON can hold, as text if need be; None if there is no such form.

    Most types always fit. Bytes that are no text, and times beyond the year 9999, do not.
    """
    values = _encodable(column)
    if values is None and not column.dtype.is_nested():
        values = _encodable(column, as_text=True)
    return values


def _encodable(column: pl.Series, as_text: bool = False) -> list[Any] | None:
    """Returns the values, as they are or as text, or None if JSON cannot hold them."""
    try:
        values = (column.cast(pl.String) if as_text else column).to_list()
        if not _always_fits(column.dtype):
            to_json(values, inf_nan_mode="null")
    except (ValueError, OverflowError, pl.exceptions.PolarsError):
        return None
    return values


def _always_fits(kind: Any) -> bool:
    """Returns whether JSON can hold every value of a type of polars."""
    if isinstance(kind, pl.List | pl.Array):
        return _always_fits(kind.inner)
    if isinstance(kind, pl.Struct):
        return all(_always_fits(field.dtype) for field in kind.fields)
    plain = kind in (pl.String, pl.Boolean, pl.Categorical, pl.Enum, pl.Null)
    return plain or bool(kind.is_numeric())
