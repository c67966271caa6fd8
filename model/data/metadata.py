"""Titles, genres and other attributes of the items, from a file, joined onto the catalogue."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl
from pydantic import BaseModel

from model.data.clean import ITEM_NAMES, Account, Malformed, id_problem, id_text
from model.data.logs import Table, log_files, read_table

TITLE_NAMES = ("title", "movie_title", "item_title", "name", "product_title")


class MetadataReport(BaseModel, frozen=True):
    """What became of the metadata's rows."""

    rows: int
    malformed: dict[str, Malformed]
    repeated: int
    """Rows of an item that an earlier row describes already: left out."""
    without: int
    """Items of the catalogue that no row describes."""


@dataclass(frozen=True)
class MetadataColumns:
    """Which columns to read; None finds id and title by their usual names, and no genres."""

    item_id: str | None = None
    title: str | None = None
    genres: str | None = None


def add_metadata(
    items: pl.DataFrame, path: Path, scratch: Path, columns: MetadataColumns
) -> tuple[pl.DataFrame, MetadataReport]:
    """`items` (item_id, count), in the same order, with title, genres and the other columns.

    See `read_metadata`.
    """
    about, account, repeated = read_metadata(path, scratch, columns, items.lazy().select("item_id"))
    report = MetadataReport(
        rows=account.rows,
        malformed=account.malformed,
        repeated=repeated,
        without=items.height - about.height,
    )
    return items.join(about, on="item_id", how="left", maintain_order="left"), report


def read_metadata(
    path: Path, scratch: Path, columns: MetadataColumns, wanted: pl.LazyFrame | None = None
) -> tuple[pl.DataFrame, Account, int]:
    """The first row of every item (of those `wanted`) in the file's order, an account of the
    rows, and how many were left out because they repeat an item.

    Columns: item_id, title, genres, then the others. Text files give strings, Parquet keeps its
    types; an empty string is null. Raises ValueError where a named column is missing or a column's
    name is taken.
    """
    ((file, kind), *more) = log_files(path, "auto")
    if more or kind == "lines":
        raise ValueError(f"{path}: item metadata is one CSV, TSV or Parquet file")
    table = read_table(file, kind, scratch)
    names = _names(table, columns)
    id_at = next(at for at, name in names.items() if name == "item_id")
    id_kind = table.rows.collect_schema()[id_at]
    rows = table.rows.with_columns(item=id_text(pl.col(id_at), id_kind, file))
    rows = rows.with_columns(problem=pl.coalesce("problem", id_problem("item")))
    account = Account()
    account.add(file.name, rows)
    about = rows.filter(pl.col("problem").is_null()).select(
        pl.col("item").alias("item_id"), *_attributes(table, names)
    )
    if wanted is not None:
        about = about.join(wanted, on="item_id", how="semi", maintain_order="left")
    found = about.collect(engine="streaming")
    first = found.unique("item_id", keep="first", maintain_order=True)
    if columns.genres is not None:
        first = first.with_columns(genres=as_list(first["genres"]))
    return first, account, found.height - first.height


def as_list(values: pl.Series) -> pl.Series:
    """Lists of strings; text is split at `|` where the column has one anywhere, else at spaces."""
    if isinstance(values.dtype, pl.List | pl.Array):
        return values.cast(pl.List(pl.String))
    text = values.cast(pl.String)
    bars = bool(text.str.contains("|", literal=True).any())
    parts = text.str.split("|") if bars else text.str.extract_all(r"\S+")
    return parts.list.eval(pl.element().str.strip_chars()).list.eval(
        pl.element().filter(pl.element() != "")
    )


def _names(table: Table, columns: MetadataColumns) -> dict[str, str]:
    """Position → name in the catalogue: the plain name, but for the id, title and genres."""
    names = {str(at): name for at, name in enumerate(table.columns)}
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
    found = list(names.values())
    taken = sorted({name for name in found if found.count(name) > 1 or name in ("", "count")})
    if taken:
        raise ValueError(
            f"{table.path}: rename the columns {', '.join(map(repr, taken))}: these names are "
            "empty, stand twice, or are taken by the catalogue's own columns"
        )
    return names


def _attributes(table: Table, names: dict[str, str]) -> list[pl.Expr]:
    """All columns but the id, title first."""
    kinds = table.rows.collect_schema()
    attributes = {at: name for at, name in names.items() if name != "item_id"}
    ordered = sorted(attributes.items(), key=lambda entry: entry[1] != "title")
    return [
        (pl.col(at).replace("", None) if kinds[at] == pl.String else pl.col(at)).alias(name)
        for at, name in ordered
    ]
