"""Raw logs → usable events in a Parquet file, and an account of every row that is not usable."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
from pydantic import BaseModel

from model.data.config import Format
from model.data.logs import Table, read_lines, read_table
from model.ids import MAX_ID_LENGTH

log = logging.getLogger(__name__)

EXAMPLES = 5
"""Malformed rows shown for each reason."""

USER_NAMES = ("user_id", "user", "userid", "uid", "customer_id", "visitorid", "reviewer_id")
ITEM_NAMES = ("item_id", "item", "itemid", "iid", "product_id", "movie_id", "movieid", "asin")
TIME_NAMES = ("timestamp", "time", "datetime", "date", "ts", "event_time", "created_at")


class Malformed(BaseModel, frozen=True):
    """Rows left out for one reason."""

    count: int
    examples: list[str]
    """`file:line: content`, a few of the first; content cut to 100 characters."""


@dataclass
class Account:
    """Rows seen so far, and the malformed ones by reason."""

    rows: int = 0
    malformed: dict[str, Malformed] = field(default_factory=dict)

    @property
    def usable(self) -> int:
        """Rows that are not malformed."""
        return self.rows - sum(bad.count for bad in self.malformed.values())

    def add(self, name: str, rows: pl.LazyFrame) -> None:
        """Count `rows`: problem (null: well-formed), line, text."""
        found = rows.group_by("problem").len().collect(engine="streaming")
        self.rows += int(found["len"].sum())
        for reason, count in sorted(found.drop_nulls().rows()):
            before = self.malformed.get(reason, Malformed(count=0, examples=[]))
            wanted = EXAMPLES - len(before.examples)
            shown = rows.filter(pl.col("problem") == reason).select("line", "text").head(wanted)
            examples = [f"{name}:{line}: {text}" for line, text in shown.collect().rows()]
            self.malformed[reason] = Malformed(
                count=before.count + count, examples=before.examples + examples
            )


@dataclass(frozen=True)
class Columns:
    """Which columns to read; None finds them by their usual names."""

    user: str | None
    item: str | None
    time: str | None
    in_order: bool
    """There is no time: the rows stand in order."""


def clean_logs(
    files: Sequence[tuple[Path, Format]], columns: Columns, scratch: Path
) -> tuple[pl.LazyFrame, Account]:
    """The usable events: user, item (String), time (Float64), rest (Int64), order (UInt32).

    Sorting by time, rest, order gives the order of time with ties in the order of the log; `rest`
    is what a large integer time loses as a float. Raises ValueError where no row is usable.
    """
    account = Account()
    parts = []
    for number, (path, kind) in enumerate(files):
        part = scratch / f"rows-{number:06}.parquet"
        if kind == "lines":
            cleaned = _clean_lines(path)
        else:
            cleaned = _clean_table(read_table(path, kind, scratch), columns)
        try:
            cleaned.sink_parquet(part, compression="lz4", statistics=False)
        except pl.exceptions.PolarsError as error:
            raise ValueError(f"{path} can't be read to its end: {error}") from error
        for copy in scratch.glob("*.unquoted"):
            copy.unlink()
        account.add(path.name, pl.scan_parquet(part, glob=False))
        log.info("read %s: %s rows so far", path, f"{account.rows:,}")
        parts.append(part)
    good = pl.scan_parquet(parts, glob=False, row_index_name="order")
    good = good.filter(pl.col("problem").is_null()).drop("problem", "line", "text")
    if not account.usable:
        raise ValueError(_nothing_usable(files[0][0], account))
    return good, account


def _nothing_usable(path: Path, account: Account) -> str:
    if not account.rows:
        return f"{path}: there is no row in it"
    reasons = "\n".join(
        f"  {count.count:,}: {reason}, such as {count.examples[0]}"
        for reason, count in account.malformed.items()
    )
    return (
        f"{path}: none of its {account.rows:,} rows is usable\n{reasons}\n"
        "Check the format and the columns that are read as user, item and time"
    )


def _clean_lines(path: Path) -> pl.LazyFrame:
    rows = read_lines(path).with_columns(time=pl.lit(0.0), rest=pl.lit(0, pl.Int64))
    return _with_problem(rows)


def _clean_table(table: Table, columns: Columns) -> pl.LazyFrame:
    user = table.find("the user's id", columns.user, USER_NAMES)
    item = table.find("the item's id", columns.item, ITEM_NAMES)
    time = None if columns.in_order else table.find("the time", columns.time, TIME_NAMES)
    for purpose, found in (("user", user), ("item", item), ("time", time)):
        if found is None and not (purpose == "time" and columns.in_order):
            hint = " (or, with rows in order of time, --in-order)" if purpose == "time" else ""
            raise ValueError(
                f"{table.path}: which column is the {purpose}? Name it with --{purpose}-column"
                f"{hint}. Its columns: {', '.join(table.columns)}"
            )
    kinds = table.rows.collect_schema()
    key, rest, problem = (pl.lit(0.0), pl.lit(0, pl.Int64), pl.lit(None, pl.String))
    if time is not None:
        key, rest, problem = time_key(pl.col(time), kinds[time], table.path)
    rows = table.rows.select(
        "line",
        "text",
        id_text(pl.col(str(user)), kinds[str(user)], table.path).alias("user"),
        id_text(pl.col(str(item)), kinds[str(item)], table.path).alias("item"),
        key.alias("time"),
        rest.alias("rest"),
        pl.col("problem"),
        problem.alias("time_problem"),
    )
    return _with_problem(rows, pl.col("time_problem"))


def _with_problem(rows: pl.LazyFrame, *more: pl.Expr) -> pl.LazyFrame:
    """The first of the row's problems; line and text are kept of malformed rows only."""
    found = [pl.col("problem")]
    found += [id_problem(name) for name in ("user", "item")]
    kept = ("user", "item", "time", "rest", "problem")
    malformed = pl.when(pl.col("problem").is_not_null())
    return rows.with_columns(problem=pl.coalesce(*found, *more)).select(
        *kept, malformed.then(pl.col("line")).alias("line"), malformed.then(pl.col("text"))
    )


def id_problem(name: str) -> pl.Expr:
    """What is wrong with the id in column `name`; null where nothing is."""
    value = pl.col(name)
    return (
        pl.when(value.is_null() | (value.str.strip_chars() == ""))
        .then(pl.lit(f"no {name} id"))
        .when(value.str.len_chars() > MAX_ID_LENGTH)
        .then(pl.lit(f"{name} id longer than {MAX_ID_LENGTH} characters"))
    )


def id_text(value: pl.Expr, kind: pl.DataType, path: Path) -> pl.Expr:
    """Ids as strings: 7 and "7" are one id. Raises ValueError for a type that can't be an id."""
    if not (kind.is_integer() or isinstance(kind, pl.String | pl.Categorical | pl.Enum)):
        raise ValueError(f"{path}: ids of type {kind}; they must be strings or integers")
    return value.cast(pl.String)


def time_key(value: pl.Expr, kind: pl.DataType, path: Path) -> tuple[pl.Expr, pl.Expr, pl.Expr]:
    """Seconds (or the log's own unit) as a float, the rest an integer loses in it, the problem.

    Times are integers, floats, or ISO dates and datetimes (without a zone: UTC), alone or as text.
    Raises ValueError for a column of any other type.
    """
    if isinstance(kind, pl.Date | pl.Datetime):
        return *_finite(_seconds(value), None), _time_problem(_seconds(value), value.is_null())
    if isinstance(kind, pl.String):
        text = value.str.strip_chars()
        whole = text.cast(pl.Int64, strict=False)
        number = pl.coalesce(whole.cast(pl.Float64), text.cast(pl.Float64, strict=False))
        # parsed as a date only where it is no number: most logs skip the slow part
        seconds = pl.coalesce(number, _iso_seconds(pl.when(number.is_null()).then(text)))
        blank = text.is_null() | (text == "")
        return *_finite(seconds, whole), _time_problem(seconds, blank)
    if kind.is_integer() or kind.is_float() or isinstance(kind, pl.Decimal):
        number = value.cast(pl.Float64)
        whole_number = value.cast(pl.Int64, strict=False) if kind.is_integer() else None
        return *_finite(number, whole_number), _time_problem(number, value.is_null())
    raise ValueError(f"{path}: times of type {kind}; they must be numbers, dates or text")


def _seconds(value: pl.Expr) -> pl.Expr:
    return value.cast(pl.Datetime("us")).dt.epoch("us") / 1e6


def _finite(number: pl.Expr, whole: pl.Expr | None) -> tuple[pl.Expr, pl.Expr]:
    if whole is None:
        return number, pl.lit(0, pl.Int64)
    return number, (whole - whole.cast(pl.Float64).cast(pl.Int64, strict=False)).fill_null(0)


def _time_problem(number: pl.Expr, missing: pl.Expr) -> pl.Expr:
    return (
        pl.when(missing)
        .then(pl.lit("no time"))
        .when(number.is_null())
        .then(pl.lit("time is neither a number nor an ISO date"))
        .when(~number.is_finite())
        .then(pl.lit("time is not finite"))
    )


def _iso_seconds(text: pl.Expr) -> pl.Expr:
    """ISO 8601 with `T` or a space, any part of the clock's time left out, with or without zone."""
    text = text.str.replace(" ", "T", literal=True).str.replace("[zZ]$", "+00:00")
    forms = ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S%.f")
    local = [text.str.to_datetime(form, time_unit="us", strict=False) for form in forms]
    zoned = [
        text.str.to_datetime(f"{form}%#z", time_unit="us", strict=False).dt.replace_time_zone(None)
        for form in forms[1:]
    ]
    return pl.coalesce(*local, *zoned).dt.epoch("us") / 1e6
