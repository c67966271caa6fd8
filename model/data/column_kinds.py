"""Columns of item metadata → columns whose types fit their kinds (`model.kinds`).

The columns of a text file are strings, so that their values say the kind. The types of a Parquet
file say it themselves, except for strings, which are category or text. A kind that is given wins.
"""

from collections.abc import Mapping
from typing import NamedTuple

import polars as pl

from model.data.times import iso_seconds
from model.kinds import FALSE_WORDS, TRUE_WORDS, Kind

OWN_COLUMNS = ("item_id", "count")
"""Columns of the catalogue that are no attributes."""
NUMBER = r"^[+-]?(0|[1-9]\d*)?(\.\d+)?([eE][+-]?\d{1,3})?$"
"""The form of numbers in a column whose kind is guessed: `007` may be an id."""
MISSING_WORDS = ("", "null", "none", "n/a", "na", "nan", r"\n", "-", "?")
"""Values in lower case that a column of numbers, times or flags may hold in place of none."""
MIN_CATEGORIES, MAX_CATEGORY_LENGTH = 100, 50
"""A column is text if more values than these, and than half of its rows, are different, or if they
are longer than this number of characters on the average."""
LISTS = 0.05
"""Share of the values with a `|` from which on a column holds lists."""
NEARLY = 0.9
"""Share of the values that fit a kind from which on those that do not are told."""
SHOWN = 3


class TypedColumns(NamedTuple):
    """Items whose attributes have the types of their kinds."""

    items: pl.DataFrame
    kinds: dict[str, Kind]
    hints: list[str]
    """Values that are of another kind than the rest of their column, in words."""


def type_columns(items: pl.DataFrame, given: Mapping[str, Kind], from_text: bool) -> TypedColumns:
    """Returns the items with every attribute in the type of its kind: the given one, or a guess.

    `from_text` tells that the strings come from a text file, so that they may be numbers. Values
    that cannot be of a given kind are null; the hints count them. Raises ValueError if a kind is
    given for a column that cannot have it.
    """
    columns, kinds, hints = [], dict[str, Kind](), list[str]()
    for name in items.columns:
        if name in OWN_COLUMNS:
            continue
        column = items[name]
        kind = given.get(name) or guess_kind(column, from_text)
        try:
            typed, lost = as_kind(column, kind)
        except pl.exceptions.PolarsError:
            raise ValueError(
                f"--item-kinds {name}={kind}: values of type {column.dtype} cannot be of this kind"
            ) from None
        if name in given and len(lost):
            hints.append(f"{_some(name, lost)} not of the kind {kind}: they are missing now")
        elif name not in given and from_text and kind in ("category", "text"):
            hints += _nearly(column)
        columns.append(typed)
        kinds[name] = kind
    return TypedColumns(items.with_columns(columns), kinds, hints)


def guess_kind(column: pl.Series, from_text: bool) -> Kind:
    """Returns the kind that the values of a column are likely to have."""
    dtype = column.dtype
    if dtype == pl.Boolean:
        return "flag"
    if dtype.is_numeric():
        return "number"
    if dtype == pl.Date or dtype == pl.Datetime:
        return "time"
    if isinstance(dtype, pl.List | pl.Array):
        inner = dtype.inner
        names = inner == pl.String or inner.is_integer() or inner in (pl.Categorical, pl.Enum)
        return "categories" if names and isinstance(dtype, pl.List) else "text"
    if isinstance(dtype, pl.Categorical | pl.Enum):
        return "category"
    return _guess_of_strings(column, from_text) if dtype == pl.String else "text"


def as_kind(column: pl.Series, kind: Kind) -> tuple[pl.Series, pl.Series]:
    """Returns the column in the type of a kind, and the values that became null (distinct)."""
    if kind == "text":
        return column, column.clear()
    typed = _CASTS[kind](column)
    present = column.filter(column.is_not_null() & typed.is_null())
    if present.dtype == pl.String and kind not in ("category", "categories"):
        present = present.filter(~_bare(present).is_in(MISSING_WORDS))
    return typed.alias(column.name), present.unique(maintain_order=True)


def describe(kinds: Mapping[str, Kind]) -> str:
    """Returns the attributes with their kinds, for the account of `recgpt data prepare`."""
    return ", ".join(f"{name} ({kind})" for name, kind in kinds.items())


def _guess_of_strings(column: pl.Series, from_text: bool) -> Kind:
    values = column.drop_nulls()
    if column.name == "title" or not len(values):
        return "text"
    guesses: tuple[Kind, ...] = ("flag", "number", "time") if from_text else ()
    for kind in guesses:
        if _share(values, kind) == 1:
            return kind
    if from_text and values.str.contains("|", literal=True).mean() >= LISTS:  # type: ignore[operator]
        names = _as_categories(values).explode(empty_as_null=True)
        return "categories" if _few(names) else "text"
    return "category" if _few(values) else "text"


def _few(values: pl.Series) -> bool:
    """Returns whether values are names of categories, because many of them are the same."""
    few = values.n_unique() <= max(MIN_CATEGORIES, len(values) / 2)
    length = values.str.len_chars().mean() or 0.0
    assert isinstance(length, float)
    return few and length <= MAX_CATEGORY_LENGTH


def _share(values: pl.Series, kind: Kind) -> float:
    """Returns the share of values that are of a kind, among those that are not missing."""
    present = values.filter(~_bare(values).is_in(MISSING_WORDS))
    if not len(present):
        return 0
    if kind == "flag":
        words = set(_bare(present).unique())
        pairs = zip(TRUE_WORDS, FALSE_WORDS, strict=True)
        # a column of ones alone may as well hold numbers
        return float(any(words == {*pair} for pair in pairs) or words in ({"true"}, {"false"}))
    if kind == "number":
        present = present.set(~present.str.strip_chars().str.contains(NUMBER), None)
    return 1 - _CASTS[kind](present).null_count() / len(present)


def _nearly(column: pl.Series) -> list[str]:
    """Returns a hint if a column would hold numbers or times but for a few values."""
    values = column.drop_nulls()
    kinds: tuple[Kind, ...] = ("number", "time") if column.dtype == pl.String else ()
    for kind in kinds:
        if NEARLY <= _share(values, kind) < 1:
            _, lost = as_kind(values, kind)
            return [
                f"{_some(column.name, lost)} not of the kind {kind}, and all others are: to take "
                f"them for missing, say --item-kinds {column.name}={kind}"
            ]
    return []


def _some(name: str, values: pl.Series) -> str:
    shown = ", ".join(repr(value) for value in values.head(SHOWN).to_list())
    return f"attribute {name}: values such as {shown} are"


def _bare(values: pl.Series) -> pl.Series:
    return values.str.strip_chars().str.to_lowercase()


def _as_category(column: pl.Series) -> pl.Series:
    if isinstance(column.dtype, pl.List | pl.Array):
        return column.cast(pl.List(pl.String)).list.first()
    return column.cast(pl.String, strict=False).replace("", None)


def _as_categories(column: pl.Series) -> pl.Series:
    if isinstance(column.dtype, pl.List | pl.Array):
        return column.cast(pl.List(pl.String))
    parts = column.cast(pl.String, strict=False).str.split("|")
    parts = parts.list.eval(pl.element().str.strip_chars())
    return parts.list.eval(pl.element().filter(pl.element() != ""))


def _as_number(column: pl.Series) -> pl.Series:
    """Returns integers if all values are whole and fit, else floats; infinite ones are null."""
    if column.dtype.is_integer():
        return column
    if column.dtype == pl.String:
        column = column.str.strip_chars()
        whole = column.cast(pl.Int64, strict=False)
        missing = column.set(_bare(column).is_in(MISSING_WORDS), None)
        if whole.null_count() == missing.null_count():
            return whole
    number = column.cast(pl.Float64, strict=False)
    return number.set(~number.is_finite(), None)


def _as_time(column: pl.Series) -> pl.Series:
    """Returns dates if no value has a time of day, else datetimes in UTC.

    Numbers, and text that holds numbers, are seconds since 1970.
    """
    if column.dtype == pl.Date:
        return column
    if isinstance(column.dtype, pl.Datetime):
        zone = column.dtype.time_zone
        local = column.dt.convert_time_zone("UTC") if zone else column.dt.replace_time_zone("UTC")
        return local.cast(pl.Datetime("us", "UTC"))
    if column.dtype != pl.String:
        micros = (column.cast(pl.Float64, strict=False) * 1e6).cast(pl.Int64, strict=False)
        return micros.cast(pl.Datetime("us", "UTC"))
    dates = column.str.strip_chars().str.to_date("%Y-%m-%d", strict=False)
    missing = column.set(_bare(column).is_in(MISSING_WORDS), None)
    if dates.null_count() == missing.null_count():
        return dates
    seconds = pl.DataFrame({"t": column}).select(iso_seconds(pl.col("t").str.strip_chars()))
    return (seconds.to_series() * 1e6).cast(pl.Int64).cast(pl.Datetime("us", "UTC"))


def _as_flag(column: pl.Series) -> pl.Series:
    if column.dtype == pl.Boolean:
        return column
    words = dict.fromkeys(TRUE_WORDS, True) | dict.fromkeys(FALSE_WORDS, False)
    bare = _bare(column.cast(pl.String, strict=False)).str.replace(r"^([01])\.0$", "$1")
    return bare.replace_strict(words, default=None, return_dtype=pl.Boolean)


_CASTS = {
    "category": _as_category,
    "categories": _as_categories,
    "number": _as_number,
    "time": _as_time,
    "flag": _as_flag,
}
