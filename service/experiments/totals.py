"""Per-user totals: what every user of an experiment was shown, and did.

Exposures and events meet by `request_id`: an event counts if it names a recall of the experiment. A
user who did nothing counts with zeros, and so does a user whose events came too late.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from service.experiments.metric import DEGRADED, EXPOSURES, SPECIAL, Metric

Kind = pl.DataType | type[pl.DataType]

EXPOSURE_COLUMNS: dict[str, Kind] = {
    "experiment": pl.String,
    "arm": pl.String,
    "user_id": pl.String,
    "request_id": pl.String,
    "at": pl.Datetime("us", "UTC"),
}
EVENT_COLUMNS: dict[str, Kind] = {
    "user_id": pl.String,
    "type": pl.String,
    "at": pl.Datetime("us", "UTC"),
    "request_id": pl.String,
}


CLOCKS = timedelta(minutes=1)
"""Time by which an event may come before its recall: clocks differ, and some send whole seconds."""


@dataclass(frozen=True)
class Totals:
    """The totals of an experiment's users."""

    users: pl.DataFrame
    """user_id, arm, a column for each metric, and those of the time before the experiment."""
    mixed_users: int
    """Users who saw two arms, and are left out."""
    since: datetime
    until: datetime
    """See `planned`."""
    versions: dict[str, list[str]]
    """The versions that answered each arm; empty if the exposures do not say."""


def read_exposures(path: Path, experiment: str, fixed: Collection[str] = ()) -> pl.DataFrame:
    """Reads the exposures of an experiment, but for those of users with a fixed arm.

    Raises ValueError if there are none, or no column.
    """
    kept = (pl.col("experiment") == experiment) & ~pl.col("user_id").is_in(list(fixed))
    found = _read(path, EXPOSURE_COLUMNS).filter(kept).collect()
    if not found.height:
        raise ValueError(f"{path} has no exposure of the experiment {experiment}")
    return found


def read_events(path: Path) -> pl.DataFrame:
    """Reads events, each once if they have a column `id`. Raises ValueError if one is missing."""
    found = _read(path, EVENT_COLUMNS).collect()
    if "id" not in found.columns:
        return found
    known = pl.col("id").is_not_null()
    return pl.concat([found.filter(known).unique("id", keep="first"), found.filter(~known)])


def user_totals(
    exposures: pl.DataFrame,
    events: pl.DataFrame,
    metrics: Sequence[Metric],
    within: timedelta = timedelta(days=1),
    before: timedelta = timedelta(days=14),
    since: datetime | None = None,
    days: float | None = None,
) -> Totals:
    """Returns the totals of all users in the time that is `planned`.

    An event counts if it came `within` this time after the recall that it names. A recall counts
    once, though copies of a request that is sent twice, and the results of a batch, have the same
    id. The totals of the time `before` the start hold any events: they are no outcome, but tell how
    active a user is (CUPED).
    """
    exposures, since, until = planned(exposures, since, days)
    arms = exposures.group_by("user_id").agg(pl.col("arm").first(), seen=pl.col("arm").n_unique())
    users = arms.filter(pl.col("seen") == 1).select("user_id", "arm")
    exposed = exposures.join(users, on="user_id", how="semi")
    once = [pl.col("at").min().alias("shown_at")]
    shown = [pl.len().cast(pl.Float64).alias(EXPOSURES)]
    if DEGRADED in exposed.columns:
        once.append(pl.col(DEGRADED).max())
        shown.append(pl.col(DEGRADED).cast(pl.Float64).sum())
    recalls = exposed.group_by("request_id", "user_id").agg(once)
    totals = users.join(recalls.group_by("user_id").agg(shown), on="user_id")
    outcomes = events.join(recalls, on=["request_id", "user_id"]).filter(is_in_time(within))
    earlier = events.filter(pl.col("at").is_between(since - before, since, closed="left"))
    for metric in metrics:
        if metric.type in SPECIAL:
            continue
        for kept, column in (outcomes, metric.column), (earlier, metric.before):
            if column not in totals.columns:
                totals = totals.join(_sums(kept, metric, column), on="user_id", how="left")
                totals = totals.with_columns(pl.col(column).fill_null(0.0))
    mixed = arms.height - users.height
    return Totals(totals.sort("user_id"), mixed, since, until, _versions(exposures))


def planned(
    exposures: pl.DataFrame, since: datetime | None, days: float | None
) -> tuple[pl.DataFrame, datetime, datetime]:
    """Returns the exposures of an experiment in its planned time, its start, and its end so far.

    It starts at `since`, or with the first exposure. It ends after `days`, and what comes later
    must not change the outcome; or with the last exposure. Raises ValueError if there is none.
    """
    first, last = exposures["at"].min(), exposures["at"].max()
    assert isinstance(first, datetime)
    assert isinstance(last, datetime)
    begin = (since or first).astimezone(UTC)
    end = begin + timedelta(days=days) if days else None
    kept = exposures.filter(pl.col("at") >= begin, pl.col("at") < end if end else True)
    if not kept.height:
        raise ValueError(f"no exposure is in the planned time, which begins at {begin.isoformat()}")
    return kept, begin, min(last, end) if end else last


def is_in_time(within: timedelta) -> pl.Expr:
    """Returns whether an event, at `at`, counts for what was shown at `shown_at`."""
    shown = pl.col("shown_at")
    return pl.col("at").is_between(shown - CLOCKS, shown + within)


def _versions(exposures: pl.DataFrame) -> dict[str, list[str]]:
    """Returns the versions that answered each arm."""
    if "version" not in exposures.columns:
        return {}
    found = exposures.group_by("arm").agg(pl.col("version").drop_nulls().unique().sort())
    return dict(found.iter_rows())


def _sums(events: pl.DataFrame, metric: Metric, column: str) -> pl.DataFrame:
    if metric.of_values and "value" not in events.columns:
        raise ValueError(f"{metric.name}: the events have no column `value`")
    total = pl.col("value").sum() if metric.of_values else pl.len()
    kept = events.filter(pl.col("type") == metric.type)
    return kept.group_by("user_id").agg(total.cast(pl.Float64).alias(column))


def _read(path: Path, columns: Mapping[str, Kind]) -> pl.LazyFrame:
    try:
        frame = pl.scan_parquet(path / "*.parquet" if path.is_dir() else path)
        missing = sorted(columns.keys() - set(frame.collect_schema().names()))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"{path} can't be read as Parquet: {error}") from error
    if missing:
        raise ValueError(f"{path} lacks the column {missing[0]}; it needs {', '.join(columns)}")
    return frame.with_columns(pl.col(name).cast(kind) for name, kind in columns.items())
