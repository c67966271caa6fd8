"""The attributes of all items, column by column, as filters read them.

Shapes: V catalogue, N pairs of an item and a value, T items that have a value.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from model.kinds import Kind

Value = str | float | bool
Bools = NDArray[np.bool_]

COMPARISONS = {
    "gt": np.greater,
    "gte": np.greater_equal,
    "lt": np.less,
    "lte": np.less_equal,
}
"""The bounds of a condition. A comparison with NaN, which is no value, is false."""
PAIRS = pl.Schema({"row": pl.Int32, "value": pl.String})
OWN = "item_id", "count"
"""Columns of the catalogue that are no attributes."""
MAX_CATEGORIES = 0.5
"""Strings of which more than this share differ are text, unless the bundle says otherwise."""
FEW = 1000
"""Different strings that are categories in any case."""
FOLD_AT = 4096
"""Changed items of a column after which it is built anew: until then they are looked at singly."""


class Column(Protocol):
    """The values of one attribute. An item without a value matches no condition."""

    def among(self, values: Iterable[Value]) -> Bools:
        """Returns which items have one of the values: V."""

    def within(self, bounds: Mapping[str, float]) -> Bools:
        """Returns which items have a value within all bounds, by the names in `COMPARISONS`: V."""

    def unknown(self, values: Iterable[Value]) -> int:
        """Counts the values that no item could have had when the bundle was made."""

    def values(self, rows: Sequence[int]) -> list[tuple[Value, ...]]:
        """Returns the values of each of these items."""

    def set(self, row: int, value: Any) -> None:
        """Changes the value of an item; None takes it away."""


class Categories:
    """One or several strings for each item: a list of items for each string."""

    def __init__(self, lists: pl.Series) -> None:
        """Takes a list of strings, or null, for each item."""
        self._items = len(lists)
        self._changed: dict[int, tuple[str, ...]] = {}
        pairs = pl.DataFrame({"row": range(len(lists)), "value": lists})
        self._build(pairs.explode("value", empty_as_null=True).drop_nulls("value").cast(PAIRS))

    def _build(self, pairs: pl.DataFrame) -> None:
        """Takes the rows and values of all pairs."""
        sorted_ = pairs.unique().sort("value", "row")
        ends = sorted_["value"].rle().struct.field("len").cum_sum().to_list()
        names = sorted_["value"].gather([end - 1 for end in ends]).to_list()
        self._slices = dict(zip(names, zip([0, *ends], ends, strict=False), strict=True))
        self._rows_N = sorted_["row"].to_numpy()
        self._by_row: tuple[NDArray[np.int64], NDArray[np.int32], list[str]] | None = None

    def among(self, values: Iterable[Value]) -> Bools:
        """See `Column`."""
        wanted = set(values)
        found_V = np.zeros(self._items, dtype=np.bool_)
        for value in wanted:
            if place := self._slices.get(value):
                found_V[self._rows_N[slice(*place)]] = True
        for row, own in self._changed.items():
            found_V[row] = not wanted.isdisjoint(own)
        return found_V

    def within(self, bounds: Mapping[str, float]) -> Bools:
        """Returns that no item matches: strings have no bounds."""
        return np.zeros(self._items, dtype=np.bool_)

    def unknown(self, values: Iterable[Value]) -> int:
        """See `Column`."""
        new = set().union(*self._changed.values())
        return sum(value not in self._slices and value not in new for value in values)

    def values(self, rows: Sequence[int]) -> list[tuple[Value, ...]]:
        """See `Column`. The values by item are put together when they are first asked for."""
        if self._by_row is None:
            self._by_row = self._ordered_by_row()
        offsets_V, numbers_N, names = self._by_row
        found: list[tuple[Value, ...]] = []
        for row in rows:
            own = self._changed.get(row)
            if own is None:
                numbers = numbers_N[offsets_V[row] : offsets_V[row + 1]].tolist()
                own = tuple([names[number] for number in numbers])
            found.append(own)
        return found

    def _ordered_by_row(self) -> tuple[NDArray[np.int64], NDArray[np.int32], list[str]]:
        """Returns where the values of each item begin, their numbers, and the names of these."""
        lengths = [end - first for first, end in self._slices.values()]
        numbers_N = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        offsets_V = np.zeros(self._items + 1, dtype=np.int64)
        np.cumsum(np.bincount(self._rows_N, minlength=self._items), out=offsets_V[1:])
        order_N = np.argsort(self._rows_N, kind="stable")
        return offsets_V, numbers_N[order_N], list(self._slices)

    def set(self, row: int, value: Any) -> None:
        """See `Column`; takes a string or a list of strings."""
        own = [value] if isinstance(value, str) else value or ()
        self._changed[row] = tuple(dict.fromkeys(own))
        if len(self._changed) >= FOLD_AT:
            self._fold()

    def _fold(self) -> None:
        """Takes the changed items into the lists."""
        names = [name for name, (first, end) in self._slices.items() for _ in range(end - first)]
        pairs = pl.DataFrame({"row": self._rows_N, "value": names}, PAIRS)
        kept = pairs.filter(~pl.col("row").is_in(list(self._changed)))
        new = [(row, value) for row, own in self._changed.items() for value in own]
        self._build(pl.concat([kept, pl.DataFrame(new, PAIRS, orient="row")]))
        self._changed = {}


class Numbers:
    """A number for each item: a quantity, a time in seconds since 1970, or a flag as 0 or 1."""

    def __init__(self, values_V: NDArray[np.float64]) -> None:
        """Takes the values; NaN for an item without one."""
        self._values_V = values_V

    def among(self, values: Iterable[Value]) -> Bools:
        """See `Column`."""
        numbers = [float(value) for value in values if not isinstance(value, str)]
        return np.isin(self._values_V, numbers)

    def within(self, bounds: Mapping[str, float]) -> Bools:
        """See `Column`."""
        parts = [COMPARISONS[name](self._values_V, limit) for name, limit in bounds.items()]
        within_V: Bools = np.logical_and.reduce(parts)
        return within_V

    def unknown(self, values: Iterable[Value]) -> int:
        """Returns 0: any number could be a value."""
        return 0

    def values(self, rows: Sequence[int]) -> list[tuple[Value, ...]]:
        """See `Column`."""
        return [() if np.isnan(value) else (value,) for value in self._values_V[rows].tolist()]

    def set(self, row: int, value: Any) -> None:
        """See `Column`; takes a number, a flag or a time."""
        self._values_V[row] = seconds(value) if isinstance(value, str | datetime) else value


class AttributeColumns:
    """The columns of a bundle by name, and their kinds."""

    def __init__(self, items: int, kinds: Mapping[str, Kind], columns: dict[str, Column]) -> None:
        """Takes the number of items, the kinds of all attributes, and those that are not text."""
        self.items = items
        self.kinds = kinds
        self._columns = columns

    @classmethod
    def of(cls, items: pl.DataFrame, kinds: Mapping[str, Kind] | None = None) -> "AttributeColumns":
        """Reads the attributes of items. Kinds that are not given follow from the columns' types.

        A value that is not of its column's kind counts as missing.
        """
        own = items.drop(OWN, strict=False)
        found = {column.name: (kinds or {}).get(column.name) or kind_of(column) for column in own}
        columns = {name: _column(own[name], kind) for name, kind in found.items() if kind != "text"}
        return cls(items.height, found, columns)

    def get(self, field: str) -> Column | None:
        """Returns a column, None if the bundle has none of this name that a filter can read."""
        return self._columns.get(field)

    def set(self, row: int, field: str, value: Any) -> None:
        """Changes the value of an item; None takes it away. Raises KeyError or ValueError."""
        self._columns[field].set(row, np.nan if value is None and self._is_number(field) else value)

    def _is_number(self, field: str) -> bool:
        return isinstance(self._columns[field], Numbers)


def kind_of(column: pl.Series) -> Kind:
    """Returns the kind that suits a column's type."""
    kind = column.dtype
    if isinstance(kind, pl.List | pl.Array):
        return "text" if kind.inner is not None and kind.inner.is_nested() else "categories"
    if kind == pl.Boolean:
        return "flag"
    if kind.is_numeric():
        return "number"
    if kind in (pl.Date, pl.Datetime):
        return "time"
    if kind not in (pl.String, pl.Categorical, pl.Enum):
        return "text"
    different = column.n_unique()
    return "category" if different <= max(FEW, MAX_CATEGORIES * len(column)) else "text"


def seconds(time: str | datetime) -> float:
    """Returns a time in seconds since 1970; UTC if it names no zone. Raises ValueError."""
    moment = time if isinstance(time, datetime) else datetime.fromisoformat(time)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _column(values: pl.Series, kind: Kind) -> Column:
    if kind == "category":
        text = values.cast(pl.String, strict=False)
        return Categories(text.to_frame().select(pl.concat_list(pl.all())).to_series())
    if kind == "categories":
        return Categories(_lists(values))
    if kind == "time" and values.dtype in (pl.Date, pl.Datetime):
        values = values.dt.epoch("us").cast(pl.Float64) / 1e6
    numbers = values.cast(pl.Float64, strict=False).fill_null(np.nan)
    return Numbers(numbers.to_numpy().copy())


def _lists(values: pl.Series) -> pl.Series:
    if isinstance(values.dtype, pl.List | pl.Array):
        return values.cast(pl.List(pl.String), strict=False)
    return values.cast(pl.String, strict=False).str.split("|")
