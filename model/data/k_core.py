"""Events with numbered ids, and their k-core: only frequent users and items."""

import logging
from pathlib import Path

import polars as pl

from model.data import parquet

log = logging.getLogger(__name__)


def number_ids(rows: pl.LazyFrame, scratch: Path) -> tuple[pl.LazyFrame, pl.Series, pl.Series]:
    """Numbers users and items by first appearance.

    Returns the events as user, item (UInt32), time, rest, order, and the ids of users and items.
    From here on events are numbers: less than half the size, and quick to join.
    """
    ids = {}
    coded = rows
    for name in ("user", "item"):
        seen = rows.group_by(name).agg(pl.col("order").min()).collect(engine="streaming")
        numbered = seen.sort("order").select(name).with_row_index("number")
        ids[name] = numbered[name]
        coded = coded.join(numbered.lazy(), on=name).drop(name).rename({"number": name})
    coded.sink_parquet(scratch / "coded.parquet", compression="lz4")
    for part in scratch.glob("rows-*.parquet"):
        part.unlink()
    return parquet.scan(scratch / "coded.parquet"), ids["user"], ids["item"]


def k_core(
    events: pl.LazyFrame, min_user: int, min_item: int
) -> tuple[pl.LazyFrame, pl.Series, pl.Series]:
    """Returns the largest part in which each user has `min_user` events, each item `min_item`.

    Returns its events with users and items numbered anew, and the old number of each new one. An
    item that falls out may take a user below the limit, and so on: the loop ends when no user does.
    """
    users = _frequent(events, "user", 0)
    items = _frequent(events, "item", min_item)
    while True:
        before = len(users)
        users = _frequent(_of(events, "item", items), "user", min_user)
        items = _frequent(_of(events, "user", users), "item", min_item)
        log.info("k-core: %s users, %s items", f"{len(users):,}", f"{len(items):,}")
        if len(users) == before:
            break
    for old in (users, items):
        numbered = old.to_frame().lazy().with_row_index("number")
        name = old.name
        events = events.join(numbered, on=name).drop(name).rename({"number": name})
    return events, users, items


def _of(events: pl.LazyFrame, name: str, kept: pl.Series) -> pl.LazyFrame:
    return events.join(kept.to_frame().lazy(), on=name, how="semi")


def _frequent(events: pl.LazyFrame, name: str, least: int) -> pl.Series:
    """Returns the values of column `name` that occur at least `least` times, in order."""
    counts = events.group_by(name).len().filter(pl.col("len") >= least)
    return counts.select(name).collect(engine="streaming")[name].sort()
