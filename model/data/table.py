"""Files as people have them → tables of rows, with what is wrong beside each malformed row.

Text is read line by line, so that every line is accounted for and a broken one costs one row: a CSV
parser that meets a stray quote loses the rest of its chunk. All is lazy and streams: a file may be
larger than memory.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from model.data import parquet
from model.data.times import date_text
from model.data.unquote import EXAMPLE, NOT_UTF_8, has_quotes, read_header, unquote

SEPARATORS = {"csv": ",", "tsv": "\t"}
RECBOLE_TYPES = ("token", "token_seq", "float", "float_seq")
SHOWN = 8
"""Columns of a malformed Parquet row that are shown."""


@dataclass(frozen=True)
class Table:
    """A file with named columns, opened and not yet read."""

    path: Path
    format: Literal["csv", "tsv", "parquet"]
    columns: Sequence[str]
    """Names in the file's order, without byte order mark, spaces and RecBole's `:type`."""
    types: Sequence[pl.DataType]
    """Types of the columns: strings in a text file."""

    def find(self, purpose: str, wanted: str | None, usual: Iterable[str]) -> int | None:
        """Returns the position of the column `wanted`, else of the first of the `usual` names.

        Returns None if there is none of those. Raises ValueError if the wanted column is missing or
        the found name stands twice.
        """
        if wanted is not None and wanted not in self.columns:
            raise ValueError(
                f"{self.path} has no column {wanted!r} ({purpose}). "
                f"Its columns: {', '.join(self.columns)}"
            )
        lower = [name.lower() for name in self.columns]
        name = wanted or next((self.columns[lower.index(u)] for u in usual if u in lower), None)
        if name is None:
            return None
        if self.columns.count(name) > 1:
            raise ValueError(f"{self.path} has {name!r} ({purpose}) twice: rename one of them")
        return self.columns.index(name)

    def name_of(self, at: int) -> str:
        """Returns file and column for an error."""
        return f"{self.path}: the column {self.columns[at]!r}"

    def bare(self, value: pl.Expr) -> pl.Expr:
        """Returns a text without spaces around it; the strings of a Parquet file as they stand."""
        return value if self.format == "parquet" else value.str.strip_chars(" \t")

    def rows(self, scratch: Path) -> pl.LazyFrame:
        """Returns line (from 1), text (its beginning), problem (null: well-formed), "0", "1", …

        `scratch`: a folder for the copy that quotes in a text file need.
        """
        if self.format == "parquet":
            return self._parquet_rows()
        separator = SEPARATORS[self.format]
        if has_quotes(self.path):
            return parquet.scan(unquote(self.path, separator, len(self.columns), scratch))
        return self._split_lines(separator)

    def _parquet_rows(self) -> pl.LazyFrame:
        rows = parquet.scan(self.path)
        names = {name: str(at) for at, name in enumerate(rows.collect_schema())}
        shown = [
            _shown(str(at), kind)
            for at, kind in enumerate(self.types)
            if not kind.is_nested() and kind != pl.Binary
        ]
        text = pl.concat_str(shown[:SHOWN], separator=",") if shown else pl.lit("")
        return (
            rows.select(pl.col(name).alias(at) for name, at in names.items())
            .with_row_index("line", 1)
            .with_columns(
                text=text.str.head(EXAMPLE),
                problem=pl.lit(None, pl.String),
            )
        )

    def _split_lines(self, separator: str) -> pl.LazyFrame:
        width = len(self.columns)
        parts = pl.col("text").str.splitn(separator, width + 1)
        part = [parts.struct.field(f"field_{at}") for at in range(width + 1)]
        problem = pl.coalesce(
            _unreadable(),
            pl.when(part[width - 1].is_null()).then(pl.lit("too few fields")),
            pl.when(part[width].is_not_null()).then(pl.lit("too many fields")),
        )
        return (
            read_text(self.path)
            .filter(pl.col("line") > 1)
            .select(
                "line",
                pl.col("text").str.head(EXAMPLE),
                problem.alias("problem"),
                *(field.alias(str(at)) for at, field in enumerate(part[:width])),
            )
        )


def open_table(path: Path, kind: Literal["csv", "tsv", "parquet"]) -> Table:
    """Opens a file with named columns. Raises ValueError if it is empty or can't be read at all."""
    if kind == "parquet":
        try:
            schema = parquet.scan(path).collect_schema()
        except parquet.UNREADABLE as error:
            raise ValueError(f"{path} can't be read as Parquet: {error}") from error
        return Table(path, kind, [_plain(name) for name in schema], list(schema.dtypes()))
    header = read_header(path, SEPARATORS[kind])
    if header in ([], [""]):
        raise ValueError(f"{path} does not start with a line of column names")
    return Table(path, kind, [_plain(name) for name in header], [pl.String()] * len(header))


def read_lines(path: Path) -> pl.LazyFrame:
    """Returns the events of S3-Rec's form `user item item …`: line, text, problem, user, item."""
    return _lines(path, pl.col("text")).explode("item", empty_as_null=True)


def read_gaps(path: Path) -> pl.LazyFrame:
    """Returns the events of lines with the seconds since the user's event before behind a tab.

    That is `read_lines` with the column time: seconds since the first event of the line.
    """
    parts = pl.col("text").str.splitn("\t", 2)
    gaps = parts.struct.field("field_1").fill_null("").str.extract_all(r"\S+")
    lines = _lines(path, parts.struct.field("field_0"), gaps.alias("gaps"))
    lines = lines.with_columns(pl.col("gaps").list.eval(pl.element().cast(pl.Int64, strict=False)))
    bad = pl.col("gaps").list.eval(pl.element().is_null() | (pl.element() < 0)).list.any()
    problem = (
        pl.when(pl.col("gaps").list.len() != pl.col("item").list.len())
        .then(pl.lit("not as many seconds as items"))
        .when(bad)
        .then(pl.lit("seconds are no number from 0 up"))
    )
    lines = lines.with_columns(problem=pl.coalesce("problem", problem))
    since_first = pl.col("gaps").list.eval(pl.element().cum_sum())
    # explode takes lists of one length, those of malformed lines too
    none = pl.col("item").list.eval(pl.lit(0, pl.Int64))
    times = pl.when(pl.col("problem").is_null()).then(since_first).otherwise(none)
    lines = lines.with_columns(time=times).drop("gaps")
    return lines.explode("item", "time", empty_as_null=True)


def _lines(path: Path, text: pl.Expr, *more: pl.Expr) -> pl.LazyFrame:
    """Lines of words: line, text (cut), problem, user, the list item, and `more` of the line."""
    words = text.str.extract_all(r"\S+")
    lines = read_text(path).with_columns(*more, user=words.list.first(), item=words.list.slice(1))
    problem = pl.coalesce(
        _unreadable(), pl.when(pl.col("item").list.len() == 0).then(pl.lit("no items in the line"))
    )
    return lines.with_columns(problem=problem, text=pl.col("text").str.head(EXAMPLE))


def read_text(path: Path) -> pl.LazyFrame:
    """Returns line (from 1) and text of every line; bytes that are not UTF-8 become U+FFFD."""
    return pl.scan_csv(
        path,
        has_header=False,
        schema={"text": pl.String},
        separator="\n",  # nothing separates fields: a line is one field
        quote_char=None,
        encoding="utf8-lossy",
        empty_string_is_null=False,
        row_index_name="line",
        row_index_offset=1,
        glob=False,
    )


def _shown(name: str, kind: pl.DataType) -> pl.Expr:
    """Returns the values of a column as text for examples."""
    value = pl.col(name)
    dated = isinstance(kind, pl.Date | pl.Datetime)
    return (date_text(value, kind) if dated else value.cast(pl.String)).fill_null("")


def _unreadable() -> pl.Expr:
    return (
        pl.when(pl.col("text").str.strip_chars() == "")
        .then(pl.lit("blank line"))
        .when(pl.col("text").str.contains("\ufffd", literal=True))
        .then(pl.lit(NOT_UTF_8))
    )


def _plain(name: str) -> str:
    """Returns the column's name without RecBole's type: `user_id:token` → `user_id`."""
    name = name.strip()
    plain, colon, kind = name.rpartition(":")
    return plain if colon and kind in RECBOLE_TYPES else name
