"""Impressions of a log → the offers of the events that follow them.

An impression is an offer of the user's next event: an item that the user was shown and did not
take. The item of that event is none, because it was taken.

Shapes: U users, N events.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel

from model.data import parquet
from model.data.arrays import new_array, passes
from model.data.dataset import offsets_of
from model.network.config import MAX_OFFERS

UNKNOWN = "user or item not in the data set"
LATE = "after the user's last event"
TAKEN = "taken, the item of the next event"
REPEATED = "shown again before the next event"
OLDER = f"older than the newest {MAX_OFFERS}"
ORDER = ("user", "time", "rest", "order")


class ImpressionReport(BaseModel, frozen=True):
    """The impressions that were read, and the offers that they make."""

    rows: int
    offers: int
    left_out: dict[str, int]
    """Impressions that are no offer, by the reason."""

    def lines(self) -> list[tuple[str, str]]:
        """Returns the lines of a table of figures."""
        left_out = [(f"  left out: {reason}", f"{n:,}") for reason, n in self.left_out.items()]
        return [("impressions", f"{self.rows:,}"), *left_out, ("offers", f"{self.offers:,}")]


def split_impressions(
    rows: pl.LazyFrame, action: str, scratch: Path
) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """Returns the events among the rows of a log, and its impressions: the rows of this action.

    Raises ValueError if no row has the action.
    """
    is_impression = pl.col("action").eq_missing(action)
    path = scratch / "impressions.parquet"
    shown = rows.filter(is_impression).select(*ORDER, "item")
    shown.sink_parquet(path, compression="lz4")
    impressions = parquet.scan(path)
    if not impressions.select(pl.len()).collect().item():
        raise ValueError(f"--offer-action {action}: no row has this action in --action-column")
    return rows.filter(~is_impression), impressions


def write_offers(
    kept: Path,
    impressions: pl.LazyFrame,
    ids: tuple[pl.Series, pl.Series],
    lengths_U: NDArray[np.int64],
    folder: Path,
    rows_a_pass: int,
) -> ImpressionReport:
    """Writes offers.npy and offer_offsets.npy for the events in the file `kept`.

    `ids` are those of the users and of the items of the data set, in the order of their rows.
    """
    coded = _coded(impressions, ids, kept.parent / "coded-impressions.parquet")
    shown_U = np.zeros(len(lengths_U), dtype=np.int64)
    of_users = coded.group_by("user").len().collect(engine="streaming")
    shown_U[of_users["user"].to_numpy()] = of_users["len"].to_numpy()
    rows = pl.concat(
        source.select(*ORDER, "item", is_event=pl.lit(is_event))
        for source, is_event in ((parquet.scan(kept), True), (coded, False))
    )
    total = int(impressions.select(pl.len()).collect().item())
    left_out = Counter({UNKNOWN: total - int(shown_U.sum())})
    ends = offsets_of(lengths_U)
    offsets = new_array(folder / "offer_offsets.npy", np.int64, int(ends[-1]) + 1)
    parts: list[Path] = []
    for first, last in passes(lengths_U + shown_U, rows_a_pass):
        part = rows.filter(pl.col("user").is_between(first, last, closed="left"))
        offers = _offers(part.collect(engine="streaming").sort(*ORDER), left_out)
        parts.append(kept.parent / f"offers-{first:012}.npy")
        np.save(parts[-1], offers["item"].to_numpy().astype(np.int32))
        counts = np.bincount(offers["event"].to_numpy(), minlength=ends[last] - ends[first])
        offsets[ends[first] + 1 : ends[last] + 1] = counts
    np.cumsum(offsets, out=offsets)
    out = new_array(folder / "offers.npy", np.int32, int(offsets[-1]))
    np.concatenate([np.load(path, mmap_mode="r") for path in parts], out=out)
    for array in (offsets, out):
        array.flush()
    found = {reason: count for reason, count in left_out.items() if count}
    return ImpressionReport(rows=total, offers=len(out), left_out=found)


def _coded(impressions: pl.LazyFrame, ids: tuple[pl.Series, pl.Series], path: Path) -> pl.LazyFrame:
    """Returns the impressions of known users and items, with rows in place of their ids."""
    for name, known in zip(("user", "item"), ids, strict=True):
        numbered = known.alias(name).to_frame().with_row_index("number").lazy()
        impressions = impressions.join(numbered, on=name).drop(name).rename({"number": name})
    impressions.sink_parquet(path, compression="lz4")
    return parquet.scan(path)


def _offers(rows: pl.DataFrame, left_out: Counter[str]) -> pl.DataFrame:
    """Returns event, the number of one among `rows`, and item of each offer, the newest first.

    Adds up the impressions that are none.
    """
    rows = rows.with_columns(event=pl.col("is_event").cum_sum())  # the next one, if it is none
    events = rows.filter("is_event").select(
        pl.col("event") - 1, next_user=pl.col("user"), next_item=pl.col("item")
    )
    shown = rows.filter(~pl.col("is_event")).join(events, "event", "left", maintain_order="left")

    def left(reason: str, kept: pl.DataFrame) -> pl.DataFrame:
        left_out[reason] += len(shown) - len(kept)
        return kept

    shown = left(LATE, shown.filter(pl.col("user") == pl.col("next_user")))
    shown = left(TAKEN, shown.filter(pl.col("item") != pl.col("next_item"))).reverse()
    shown = left(REPEATED, shown.unique(["event", "item"], keep="first", maintain_order=True))
    shown = shown.sort("event", maintain_order=True)
    return left(OLDER, shown.group_by("event", maintain_order=True).head(MAX_OFFERS))
