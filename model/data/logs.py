"""Files as people have them → tables of rows, with what is wrong beside each malformed row.

Text is read line by line, so that every line is accounted for and one broken line costs one row:
a CSV parser that meets a stray quote loses the rest of its chunk. All is lazy and streams: a file
may be larger than memory.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from model.data.config import Format
from model.data.unquote import RECORD, UNIT, has_quotes, unquote

SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".inter": "tsv",
    ".item": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".txt": "lines",
}
RECBOLE_TYPES = ("token", "token_seq", "float", "float_seq")
EXAMPLE = 100
"""Characters of a malformed row that are shown."""
SHOWN = 8
"""Columns of a malformed Parquet row that are shown."""


@dataclass(frozen=True)
class Table:
    """A file's rows. `rows` has line (from 1), text (its beginning), problem (null: well-formed),
    and the file's columns under their positions "0", "1", …"""

    path: Path
    columns: list[str]
    """Names in the file's order, without byte order mark, spaces and RecBole's `:type`."""
    rows: pl.LazyFrame

    def find(self, purpose: str, wanted: str | None, usual: Iterable[str]) -> str | None:
        """Position of the column named `wanted`, else of the first of the `usual` names, else None.

        Raises ValueError where the wanted column is missing or the found name stands twice.
        """
        if wanted is not None and wanted not in self.columns:
            raise ValueError(
                f"{self.path} has no column {wanted!r} ({purpose}). "
                f"Its columns: {', '.join(self.columns)}"
            )
        lower = [name.lower() for name in self.columns]
        name = wanted or next((self.columns[lower.index(u)] for u in usual if u in lower), None)
        if name is not None and self.columns.count(name) > 1:
            raise ValueError(f"{self.path} has {name!r} ({purpose}) twice: rename one of them")
        return None if name is None else str(self.columns.index(name))


def log_files(path: Path, kind: Format | Literal["auto"]) -> list[tuple[Path, Format]]:
    """The file, or all files under the folder in sorted order (hidden and `_` names left out)."""
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    if path.is_file():
        return [(path, _format(path, kind))]
    files = [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file() and not any(p[0] in "._" for p in file.relative_to(path).parts)
    ]
    if not files:
        raise ValueError(f"{path} holds no file")
    found = [(file, _format(file, kind)) for file in files]
    if len({kind for _, kind in found}) > 1:
        raise ValueError(
            f"{path} holds files of several formats ({', '.join(sorted({k for _, k in found}))}): "
            "leave only the logs in it, or name their one format"
        )
    return found


def _format(path: Path, kind: Format | Literal["auto"]) -> Format:
    if kind != "auto":
        return kind
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"{path}: its suffix does not tell the format. Name it: csv, tsv, parquet or lines"
        )
    return SUFFIXES[path.suffix.lower()]


def read_table(path: Path, kind: Literal["csv", "tsv", "parquet"], scratch: Path) -> Table:
    """Open a file with named columns. `scratch`: folder for the copy that quotes in a CSV need.

    Raises ValueError where the file is empty or can't be read at all.
    """
    if kind == "parquet":
        return _parquet_table(path)
    if kind == "csv" and has_quotes(path):
        copy = scratch / f"{path.name}.unquoted"
        unquote(path, copy)
        return _text_table(path, copy, UNIT)
    return _text_table(path, path, "," if kind == "csv" else "\t")


def read_lines(path: Path) -> pl.LazyFrame:
    """S3-Rec's form, `user item item …`: line, text, problem, user, item; one row an event."""
    words = pl.col("text").str.extract_all(r"\S+")
    lines = _lines(path).with_columns(user=words.list.first(), item=words.list.slice(1))
    problem = pl.coalesce(
        _unreadable(), pl.when(pl.col("item").list.len() == 0).then(pl.lit("no items in the line"))
    )
    lines = lines.with_columns(problem=problem, text=pl.col("text").str.head(EXAMPLE))
    return lines.explode("item", empty_as_null=True)


def _parquet_table(path: Path) -> Table:
    try:
        schema = pl.read_parquet_schema(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"{path} can't be read as Parquet: {error}") from error
    names = {name: str(position) for position, name in enumerate(schema)}
    shown = [names[name] for name, kind in schema.items() if not kind.is_nested()][:SHOWN]
    text = pl.concat_str(pl.col(shown).cast(pl.String, strict=False).fill_null(""), separator=",")
    rows = (
        pl.scan_parquet(path, glob=False, hive_partitioning=False)
        .select(pl.col(name).alias(position) for name, position in names.items())
        .with_row_index("line", 1)
        .with_columns(
            text=text.str.head(EXAMPLE) if shown else pl.lit(""),
            problem=pl.lit(None, pl.String),
        )
    )
    return Table(path, [_plain(name) for name in schema], rows)


def _text_table(path: Path, lines_file: Path, separator: str) -> Table:
    """Split lines into columns; a line of `lines_file` may start with the number of its record."""
    with lines_file.open(encoding="utf-8-sig", errors="replace", newline="\n") as lines:
        header = lines.readline().rstrip("\r\n").split(separator)
    if header in ([], [""]):
        raise ValueError(f"{path} does not start with a line of column names")
    numbered = separator == UNIT
    columns = [_plain(name) for name in header[numbered:]]
    parts = pl.col("text").str.splitn(separator, len(header) + 1)
    part = [parts.struct.field(f"field_{i}") for i in range(len(header) + 1)]
    line, problem = pl.col("line"), _unreadable()
    if numbered:
        record = part[0].cast(pl.Int64, strict=False)
        line = record.abs().cast(pl.UInt32)
        numbered_problem = (
            pl.when(record < 0)
            .then(pl.lit("quotes that do not match"))
            .when(pl.col("text").str.contains(r"^\d+\x1f\s*$"))
            .then(pl.lit("blank line"))
        )
        problem = pl.coalesce(numbered_problem, problem)
    problem = pl.coalesce(
        problem,
        pl.when(part[len(header) - 1].is_null()).then(pl.lit("too few fields")),
        pl.when(part[len(header)].is_not_null()).then(pl.lit("too many fields")),
    )
    text = pl.col("text").str.head(EXAMPLE + 20)
    if numbered:
        text = text.str.replace(r"^-?\d+\x1f", "").str.replace_all(UNIT, ",", literal=True)
    rows = (
        _lines(lines_file)
        .filter(pl.col("line") > 1)
        .select(
            line.alias("line"),
            text.str.head(EXAMPLE).alias("text"),
            problem.alias("problem"),
            *(
                _restored(value, numbered).alias(str(i))
                for i, value in enumerate(part[numbered : len(header)])
            ),
        )
    )
    return Table(path, columns, rows)


def _restored(field: pl.Expr, numbered: bool) -> pl.Expr:
    return field.str.replace_all(RECORD, "\n", literal=True) if numbered else field


def _lines(path: Path) -> pl.LazyFrame:
    """Every line as it stands: line (from 1) and text, bytes that are not UTF-8 as U+FFFD."""
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


def _unreadable() -> pl.Expr:
    return (
        pl.when(pl.col("text").str.strip_chars() == "")
        .then(pl.lit("blank line"))
        .when(pl.col("text").str.contains("\ufffd", literal=True))
        .then(pl.lit("not UTF-8"))
    )


def _plain(name: str) -> str:
    """The column's name without RecBole's type: `user_id:token` → `user_id`."""
    name = name.strip()
    plain, colon, kind = name.rpartition(":")
    return plain if colon and kind in RECBOLE_TYPES else name
