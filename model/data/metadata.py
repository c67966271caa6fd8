"""Titles, genres and other attributes of the items, from a file, joined onto the catalogue."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import polars as pl
from pydantic import BaseModel

from model.data.account import Account, Malformed
from model.data.clean import ITEM_NAMES
from model.data.column_kinds import type_columns
from model.data.id_columns import id_problem, id_text, shown_ids
from model.data.logs import log_files
from model.data.table import Table, open_table
from model.data.times import date_seconds, is_near
from model.kinds import Kind

TITLE_NAMES = ("title", "movie_title", "item_title", "name", "product_title")
ROW_NUMBERS = re.compile(r"|Unnamed: \d+|__index_level_\d+__")
"""Names that data frames give the column of their row numbers."""


class MetadataReport(BaseModel, frozen=True):
    """The use that was made of the metadata's rows."""

    rows: int
    malformed: dict[str, Malformed]
    repeated: int
    """Rows left out because an earlier row describes their item."""
    without: int
    """Items of the catalogue that no row describes."""
    kinds: dict[str, Kind]
    """The kind of each attribute."""
    hints: list[str] = []
    """Warnings about odd rows and about columns that are left out, in words."""


@dataclass(frozen=True)
class MetadataColumns:
    """The names of the columns to read.

    None: id and title are found by their usual names, and genres are not read.
    """

    item_id: str | None = None
    title: str | None = None
    genres: str | None = None
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    """Kinds of attributes, by their names in the catalogue; those of others are guessed."""


class Metadata(NamedTuple):
    """The rows of a file of metadata that can be used."""

    items: pl.DataFrame
    """item_id, title, genres, then the other columns; one row an item, in the file's order."""
    account: Account
    repeated: int
    hints: list[str]


@dataclass(frozen=True)
class MetadataFile:
    """A file of metadata whose columns have been looked up."""

    table: Table
    names: dict[int, str]
    """Position of a column → its name in the catalogue; the item's id is `item_id`."""
    genres: bool
    kinds: Mapping[str, Kind]
    """The kinds that are given for some of the attributes."""
    hints: list[str]
    """Columns that are left out, in words."""

    def read(self, scratch: Path, wanted: pl.LazyFrame | None = None) -> Metadata:
        """Reads the first row of every item, of those in `wanted` (item_id) if it is given.

        Text files give strings, an empty one is null; Parquet keeps its types, but bytes become
        text or are left out.
        """
        at = next(at for at, name in self.names.items() if name == "item_id")
        text = id_text(pl.col(str(at)), self.table.types[at], self.table.name_of(at))
        rows = self.table.rows(scratch).with_columns(item=self.table.bare(text))
        rows = rows.with_columns(problem=pl.coalesce("problem", id_problem("item")))
        account = Account()
        account.add(self.table.path.name, rows)
        usable = rows.filter(pl.col("problem").is_null())
        items = usable.select(pl.col("item").alias("item_id"), *self._attributes())
        hints = [*self.hints]
        if wanted is not None:
            items = items.join(wanted, on="item_id", how="semi", maintain_order="left")
        found = items.collect(engine="streaming")
        if wanted is not None and not found.height and account.usable:
            hints.append(_no_match(self.table.path, usable, wanted))
        first = found.unique("item_id", keep="first", maintain_order=True)
        if self.genres:
            first = first.with_columns(genres=as_list(first["genres"]))
        first, dropped = _without_bytes(first, self.table.path)
        first, far = _without_far_dates(first, self.table.path)
        return Metadata(first, account, found.height - first.height, hints + dropped + far)

    def _attributes(self) -> list[pl.Expr]:
        """Returns all columns but the id, title first."""
        attributes = [entry for entry in self.names.items() if entry[1] != "item_id"]
        ordered = sorted(attributes, key=lambda entry: entry[1] != "title")
        return [self._attribute(at).alias(name) for at, name in ordered]

    def _attribute(self, at: int) -> pl.Expr:
        value = pl.col(str(at))
        if self.table.types[at] != pl.String:
            return value
        return self.table.bare(value).replace("", None)


def open_metadata(path: Path, columns: MetadataColumns) -> MetadataFile:
    """Looks up the columns of a file of metadata, without reading its rows.

    Raises ValueError if a named column is missing, a column's name is taken, a kind is given for no
    attribute, or the type of the item's id can't be one.
    """
    ((file, kind), *more) = log_files(path, "auto")
    if more or kind == "lines" or kind == "gaps":
        raise ValueError(f"{path}: item metadata is one CSV, TSV or Parquet file")
    table = open_table(file, kind)
    names, hints = _names(table, columns)
    at = next(at for at, name in names.items() if name == "item_id")
    id_text(pl.col(str(at)), table.types[at], table.name_of(at))
    attributes = [name for name in names.values() if name != "item_id"]
    if unknown := [name for name in columns.kinds if name not in attributes]:
        raise ValueError(
            f"--item-kinds: {path} has no attribute {', '.join(map(repr, unknown))}. "
            f"Its attributes: {', '.join(attributes) or 'none'}"
        )
    return MetadataFile(table, names, columns.genres is not None, columns.kinds, hints)


def add_metadata(
    items: pl.DataFrame, file: MetadataFile, scratch: Path
) -> tuple[pl.DataFrame, MetadataReport]:
    """Returns `items` (item_id, count), in the same order, with title, genres and other columns."""
    found = file.read(scratch, items.lazy().select("item_id"))
    typed = type_columns(found.items, file.kinds, from_text=file.table.format != "parquet")
    report = MetadataReport(
        rows=found.account.rows,
        malformed=found.account.malformed,
        repeated=found.repeated,
        without=items.height - found.items.height,
        kinds=typed.kinds,
        hints=found.hints + typed.hints,
    )
    return items.join(typed.items, on="item_id", how="left", maintain_order="left"), report


def as_list(values: pl.Series) -> pl.Series:
    """Returns lists of strings; text is split at `|` if there is one anywhere, else at spaces."""
    if isinstance(values.dtype, pl.List | pl.Array):
        return values.cast(pl.List(pl.String))
    text = values.cast(pl.String)
    bars = bool(text.str.contains("|", literal=True).any())
    parts = text.str.split("|") if bars else text.str.extract_all(r"\S+")
    return parts.list.eval(pl.element().str.strip_chars()).list.eval(
        pl.element().filter(pl.element() != "")
    )


def _names(table: Table, columns: MetadataColumns) -> tuple[dict[int, str], list[str]]:
    """Returns position → name in the catalogue, and what is said of columns that are left out."""
    names = dict(enumerate(table.columns))
    id_at = table.find("the item's id", columns.item_id, ITEM_NAMES)
    if id_at is None:
        raise ValueError(
            f"{table.path}: which column is the item's id? Name it with --item-id-column. "
            f"Its columns: {', '.join(table.columns)}"
        )
    names[id_at] = "item_id"
    if (title_at := table.find("the title", columns.title, TITLE_NAMES)) is not None:
        names[title_at] = "title"
    genres_at = table.find("the genres", columns.genres, ()) if columns.genres else None
    if genres_at is not None:
        names[genres_at] = "genres"
    hints = []
    for at, name in list(names.items()):
        if ROW_NUMBERS.fullmatch(name) and at not in (title_at, genres_at):
            del names[at]
            hints.append(f"{table.path}: column {at + 1} ({name or 'without a name'}) is left out")
    found = list(names.values())
    taken = sorted({name for name in found if found.count(name) > 1 or name == "count"})
    if taken:
        raise ValueError(
            f"{table.path}: rename the columns {', '.join(map(repr, taken))}: these names stand "
            "twice, or are taken by the catalogue's own columns"
        )
    return names, hints


def _no_match(path: Path, rows: pl.LazyFrame, wanted: pl.LazyFrame) -> str:
    """Says that no row describes an item, with ids from both sides."""
    theirs = rows.select("item").head(3).collect()["item"]
    ours = wanted.head(3).collect()["item_id"]
    return (
        f"none of the rows of {path} describes an item of the log: its ids are such as "
        f"{shown_ids(theirs)}, the log's such as {shown_ids(ours)}"
    )


def _without_bytes(items: pl.DataFrame, path: Path) -> tuple[pl.DataFrame, list[str]]:
    """Turns columns of bytes into text; those that are no text are left out and told.

    JSON has no bytes, so that no answer of the service could hold them.
    """
    hints = []
    for name, kind in items.schema.items():
        if kind == pl.Binary:
            try:
                items = items.with_columns(pl.col(name).cast(pl.String))
                continue
            except pl.exceptions.PolarsError:
                pass
        if _has_bytes(kind):
            items = items.drop(name)
            hints.append(
                f"{path}: the column {name!r} is left out: values of the type {kind} can't be "
                "written as JSON"
            )
    return items, hints


def _without_far_dates(items: pl.DataFrame, path: Path) -> tuple[pl.DataFrame, list[str]]:
    """Makes dates beyond the years 1 to 9999 null, and tells of them: they have no ISO form."""
    hints = []
    for name, kind in items.schema.items():
        if not isinstance(kind, pl.Date | pl.Datetime):
            continue
        near = is_near(date_seconds(pl.col(name), kind))
        if far := items.select((~near).sum()).item():
            items = items.with_columns(pl.when(near).then(pl.col(name)))
            hints.append(
                f"{path}: the column {name!r} has {far:,} dates beyond the years 1 to 9999: they "
                "are missing now"
            )
    return items, hints


def _has_bytes(kind: pl.DataType) -> bool:
    """Returns whether bytes stand anywhere in values of this type."""
    if isinstance(kind, pl.List | pl.Array):
        return _has_bytes(kind.inner)  # type: ignore[arg-type]
    if isinstance(kind, pl.Struct):
        return any(_has_bytes(field.dtype) for field in kind.fields)  # type: ignore[arg-type]
    return isinstance(kind, pl.Binary | pl.Object)
