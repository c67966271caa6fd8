"""Raw logs → usable events in a Parquet file, and an account of every row that is not usable."""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from model.data import parquet
from model.data.account import Account
from model.data.actions import action_key
from model.data.config import Format
from model.data.id_columns import id_problem, id_text
from model.data.table import Table, open_table, read_gaps, read_lines
from model.data.times import TimeRange, time_key, time_range

log = logging.getLogger(__name__)

USER_NAMES = ("user_id", "user", "userid", "uid", "customer_id", "visitorid", "reviewer_id")
ITEM_NAMES = ("item_id", "item", "itemid", "iid", "product_id", "movie_id", "movieid", "asin")
TIME_NAMES = ("timestamp", "time", "datetime", "date", "ts", "event_time", "created_at")


@dataclass(frozen=True)
class Columns:
    """The names of the columns to read; None: found by their usual names."""

    user: str | None
    item: str | None
    time: str | None
    in_order: bool
    """There is no time: the rows stand in order."""
    action: str | None = None
    """Not read if None."""
    like_from: float | None = None
    """Actions are ratings, of which those from here on are likes."""


@dataclass(frozen=True)
class CleanLog:
    """The usable events of a log, and what was seen on the way."""

    events: pl.LazyFrame
    """user, item (String), time (Float64), rest (Int64), order (UInt32).

    Sorting by time, rest, order gives the order of time with ties in the order of the log; `rest`
    is what a large integer time loses as a float. With an action column also action (String),
    null if the row has none.
    """
    account: Account
    times: TimeRange | None
    """None if no time was read."""
    hints: list[str]
    """Warnings about rows that look odd, in words."""


Reader = Callable[[Path], pl.LazyFrame]
"""Returns the rows of a file; takes a folder for copies."""


def clean_logs(files: Sequence[tuple[Path, Format]], columns: Columns, scratch: Path) -> CleanLog:
    """Reads the files into Parquet files in `scratch`.

    The columns of all files are looked up before the first is read. Raises ValueError if a column
    is missing or has a type that it can't have, and if no row is usable.
    """
    readers = [(path, _reader(path, kind, columns)) for path, kind in files]
    account = Account()
    parts = []
    for number, (path, reader) in enumerate(readers):
        parts.append(scratch / f"rows-{number:06}.parquet")
        copies = scratch / "copies"  # of one file at a time
        copies.mkdir()
        _sink(reader(copies), parts[-1], path)
        shutil.rmtree(copies)
        account.add(path.name, parquet.scan(parts[-1]))
        log.info("read %s: %s rows so far", path, f"{account.rows:,}")
    if not account.usable:
        raise ValueError(_nothing_usable(files[0][0], account))
    rows = parquet.scan(parts, row_number="order")
    spaces = rows.select(pl.col("spaces").sum()).collect(engine="streaming").item()
    hints = [f"spaces around ids were taken off in {spaces:,} rows"] if spaces else []
    events = rows.filter(pl.col("problem").is_null()).drop("problem", "line", "text", "spaces")
    timed = files[0][1] not in ("lines", "gaps") and not columns.in_order
    times = time_range(events) if timed else None
    return CleanLog(events, account, times, hints + (times.hints if times else []))


def _sink(rows: pl.LazyFrame, part: Path, path: Path) -> None:
    """Writes the rows of the file `path`. Raises ValueError if they can't be read or written."""
    try:
        rows.sink_parquet(part, compression="lz4", statistics=False)
    except parquet.UNREADABLE as error:
        if "No space left" in str(error):
            raise ValueError(f"no space is left in {part.parent.parent}: {error}") from error
        raise ValueError(f"{path} can't be read to its end: {error}") from error


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


def _reader(path: Path, kind: Format, columns: Columns) -> Reader:
    """Looks up the columns of a file; what it returns reads the file."""
    if kind == "lines" or kind == "gaps":
        time = pl.col("time").cast(pl.Float64) if kind == "gaps" else pl.lit(0.0)
        rows = read_gaps(path) if kind == "gaps" else read_lines(path)
        rows = rows.with_columns(time=time, rest=pl.lit(0, pl.Int64), spaces=pl.lit(False))
        return lambda _: _with_problem(rows)
    table = open_table(path, kind)
    wanted = _expressions(table, columns)
    return lambda scratch: _with_problem(
        table.rows(scratch).select("line", "text", "problem", **wanted), pl.col("time_problem")
    )


def _expressions(table: Table, columns: Columns) -> dict[str, pl.Expr]:
    """Returns user, item, time, rest, time_problem, spaces and, if it is to be read, action.

    They are expressions of the file's columns.
    """
    ids = {}
    raw = {
        "user": table.find("the user's id", columns.user, USER_NAMES),
        "item": table.find("the item's id", columns.item, ITEM_NAMES),
    }
    for purpose, at in raw.items():
        if at is None:
            raise ValueError(_which(table, purpose))
        ids[purpose] = id_text(pl.col(str(at)), table.types[at], table.name_of(at))
    key, rest, problem = pl.lit(0.0), pl.lit(0, pl.Int64), pl.lit(None, pl.String)
    if not columns.in_order:
        at = table.find("the time", columns.time, TIME_NAMES)
        if at is None:
            raise ValueError(_which(table, "time", " (or, with rows in order of time, --in-order)"))
        key, rest, problem = time_key(pl.col(str(at)), table.types[at], table.name_of(at))
    action = {}
    if columns.action is not None:
        at = table.find("the action", columns.action, ())
        action["action"] = action_key(pl.col(str(at)), columns.like_from)
    bare = {purpose: table.bare(value) for purpose, value in ids.items()}
    spaces = pl.any_horizontal(bare[purpose] != ids[purpose] for purpose in ids)
    return bare | action | {"time": key, "rest": rest, "time_problem": problem, "spaces": spaces}


def _which(table: Table, purpose: str, hint: str = "") -> str:
    return (
        f"{table.path}: which column is the {purpose}? Name it with --{purpose}-column{hint}. "
        f"Its columns: {', '.join(table.columns)}"
    )


def _with_problem(rows: pl.LazyFrame, *more: pl.Expr) -> pl.LazyFrame:
    """Adds the first problem of every row; keeps line and text of malformed rows only."""
    found = [pl.col("problem"), *(id_problem(name) for name in ("user", "item"))]
    kept = ["user", "item", "time", "rest", "spaces", "problem"]
    kept += ["action"] if "action" in rows.collect_schema() else []
    malformed = pl.when(pl.col("problem").is_not_null())
    return rows.with_columns(problem=pl.coalesce(*found, *more)).select(
        *kept, malformed.then(pl.col("line")).alias("line"), malformed.then(pl.col("text"))
    )
