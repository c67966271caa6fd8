"""The titles and attributes of a bundle's items to JSON.

Shapes: V catalogue.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic_core import to_json

from model.data import parquet
from service.recall.item_metadata import ItemMetadata

log = logging.getLogger(__name__)

EXACT = 2**53
"""The number from which on floats leave out integers."""


def read_metadata(bundle: Path) -> ItemMetadata:
    """Returns the metadata of a bundle whose checksums have been verified."""
    return encode_metadata(parquet.read(bundle / "items.parquet"))


def encode_metadata(items: pl.DataFrame) -> ItemMetadata:
    """Returns the metadata of items: every column but their id and count.

    A column that JSON cannot hold is left out with a warning.
    """
    columns: dict[str, list[Any]] = {}
    for column in items.drop("item_id", "count", strict=False):
        if (values := _json_values(column)) is None:
            words = "the column %r of the items is not returned: JSON cannot hold its %s values"
            log.warning(words, column.name, column.dtype)
        else:
            columns[column.name] = values
    texts, offsets_V = bytearray(), np.zeros(items.height + 1, dtype=np.int64)
    for row in range(items.height):
        about = {name: v for name, values in columns.items() if (v := values[row]) is not None}
        texts += to_json(about, inf_nan_mode="null")
        offsets_V[row + 1] = len(texts)
    return ItemMetadata(np.frombuffer(texts, np.uint8), offsets_V)


def _json_values(column: pl.Series) -> list[Any] | None:
    """Returns values that JSON can hold, as text if need be; None if there is no such form.

    Most types always fit. Bytes that are no text, and times beyond the year 9999, do not.
    """
    values = _encodable(_whole(column))
    if values is None and not column.dtype.is_nested():
        values = _encodable(column, as_text=True)
    return values


def _whole(column: pl.Series) -> pl.Series:
    """Returns a column of numbers as integers if all of them are whole: 1993, not 1993.0."""
    if not column.dtype.is_float():
        return column
    numbers = column.drop_nulls()
    if numbers.is_finite().all() and (numbers.abs() < EXACT).all() and (numbers % 1 == 0).all():
        return column.cast(pl.Int64)
    return column


def _encodable(column: pl.Series, as_text: bool = False) -> list[Any] | None:
    """Returns the values, as they are or as text, or None if JSON cannot hold them."""
    try:
        values = (column.cast(pl.String) if as_text else column).to_list()
        if not _always_fits(column.dtype):
            to_json(values, inf_nan_mode="null")
    except (ValueError, OverflowError, pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return None  # polars panics at dates of a year beyond 262,142
    return values


def _always_fits(kind: Any) -> bool:
    """Returns whether JSON can hold every value of a type of polars."""
    if isinstance(kind, pl.List | pl.Array):
        return _always_fits(kind.inner)
    if isinstance(kind, pl.Struct):
        return all(_always_fits(field.dtype) for field in kind.fields)
    plain = kind in (pl.String, pl.Boolean, pl.Categorical, pl.Enum, pl.Null)
    return plain or bool(kind.is_numeric())
