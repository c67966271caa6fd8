"""Times as logs write them → seconds (or the log's own unit), and their range in words.

A bare number does not say its unit. Its size does: times of this age are about 1.7e9 seconds, 1000
times as many milliseconds, and so on. So a column that mixes units, which would order events
wrongly, shows as groups of times with wide gaps between them.
"""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import polars as pl

UNITS = (
    ("numbers below 100,000,000", 0, 0.0),
    ("seconds", 10**8, 1.0),
    ("milliseconds", 10**11, 1e-3),
    ("microseconds", 10**14, 1e-6),
    ("nanoseconds", 10**17, 1e-9),
)
"""Name, smallest size and length in seconds of every unit that a number may be in."""
LARGEST = 2.0**63
"""Times from here on have no whole seconds in 64 bits."""
NEAR = -62_135_596_800, 253_402_300_799
"""The first and the last second of the years 1 to 9999, which have an ISO form."""
GAP = 100
"""Ratio between the largest time of one unit and the smallest of the next that tells a mixture."""


class TimeRange(NamedTuple):
    """The times of a log in words."""

    first: str
    last: str
    hints: list[str]
    """Warnings about times that look odd."""


def time_key(value: pl.Expr, kind: pl.DataType, what: str) -> tuple[pl.Expr, pl.Expr, pl.Expr]:
    """Returns seconds (or the log's own unit) as a float, the rest that a large integer loses in
    it, and the problem.

    Times are integers, floats, or ISO dates and datetimes (without a zone: UTC), alone or as text.
    Raises ValueError for a column (named by `what`) of any other type.
    """
    if isinstance(kind, pl.Date | pl.Datetime):
        seconds = date_seconds(value, kind)
        too_far = pl.when(~is_near(seconds)).then(pl.lit("time beyond the years 1 to 9999"))
        problem = pl.coalesce(_problem(seconds, value.is_null()), too_far)
        return *_finite(seconds, None), problem
    if isinstance(kind, pl.String):
        text = value.str.strip_chars()
        whole = text.cast(pl.Int64, strict=False)
        number = pl.coalesce(whole.cast(pl.Float64), text.cast(pl.Float64, strict=False))
        # parsed as a date only if it is no number: most logs skip the slow part
        seconds = pl.coalesce(number, iso_seconds(pl.when(number.is_null()).then(text)))
        blank = text.is_null() | (text == "")
        return *_finite(seconds, whole), _problem(seconds, blank)
    if kind.is_integer() or kind.is_float() or isinstance(kind, pl.Decimal | pl.Null):
        number = value.cast(pl.Float64)
        whole_number = value.cast(pl.Int64, strict=False) if kind.is_integer() else None
        return *_finite(number, whole_number), _problem(number, value.is_null())
    raise ValueError(f"{what} has the type {kind}: times must be numbers, dates or text")


def time_range(times: pl.LazyFrame) -> TimeRange:
    """Returns the range of the column `time`; hints tell of mixed units and of the future."""
    size = pl.col("time").abs()
    unit = pl.sum_horizontal([(size >= least).cast(pl.Int8) for _, least, _ in UNITS]) - 1
    groups = (
        times.group_by(unit.alias("unit"))
        .agg(
            pl.len(),
            pl.col("time").min().alias("first"),
            pl.col("time").max().alias("last"),
            size.min().alias("smallest"),
            size.max().alias("largest"),
            _is_calendar_date(pl.col("time")).all().alias("dates"),
        )
        .collect(engine="streaming")
        .sort("unit")
    )
    first, last = float(groups["first"].min()), float(groups["last"].max())  # type: ignore[arg-type]
    hints = [_mixture(groups), _calendar(groups), _future(last)]
    return TimeRange(_moment(first), _moment(last), [hint for hint in hints if hint])


def whole_seconds(events: pl.LazyFrame) -> pl.Expr:
    """Returns the whole seconds (Int64) of the columns time and rest, in the unit of the largest.

    Numbers that are too small to tell their unit count as seconds.
    """
    largest = events.select(pl.col("time").abs().max()).collect(engine="streaming").item()
    _, _, length = [unit for unit in UNITS if largest >= unit[1]][-1]
    per_second = round(1 / length) if length else 1
    whole = pl.col("time").floor().cast(pl.Int64) + pl.col("rest")
    return whole // per_second


def _mixture(groups: pl.DataFrame) -> str:
    """Returns a hint if the groups of one unit each lie far apart."""
    gaps = groups["smallest"][1:].to_numpy() > GAP * groups["largest"][:-1].to_numpy()
    if not gaps.any():
        return ""
    listed = [
        f"{rows:,} like {UNITS[number][0]} ({_moment(first)} to {_moment(last)})"
        for number, rows, first, last in groups.select("unit", "len", "first", "last").rows()
    ]
    return (
        f"the times look like a mixture of units: {', '.join(listed)}. "
        "Events are in the order of the bare numbers: write all times in one unit"
    )


def _calendar(groups: pl.DataFrame) -> str:
    """Returns a hint if every number reads as a date."""
    if not groups["dates"].all():
        return ""
    return (
        f"the times look like dates written as numbers, such as {groups['last'][0]:.0f}: they are "
        "in order, but the time between them is wrong. Write them as 2026-01-31"
    )


def _future(last: float) -> str:
    """Returns a hint if the newest time lies in the future."""
    newest = _date(last)
    if newest is None or newest <= datetime.now(UTC) + timedelta(days=1):
        return ""
    return f"the newest time lies in the future: {_moment(last)}"


def _is_calendar_date(time: pl.Expr) -> pl.Expr:
    """Returns whether a number reads as YYYYMMDD, or as that with hhmm or hhmmss behind it."""
    whole = time.cast(pl.Int64, strict=False)
    readings = []
    for digits in (0, 4, 6):
        date = whole // 10**digits
        year, month, day = date // 10_000, date // 100 % 100, date % 100
        limits = ((year, 1970, 2100), (month, 1, 12), (day, 1, 31))
        readings.append(pl.all_horizontal(part.is_between(low, up) for part, low, up in limits))
    return pl.any_horizontal(readings)


def _date(time: float) -> datetime | None:
    """Returns the date that a number is likely to mean; None if it is likely to be no date."""
    _, _, seconds = [unit for unit in UNITS if abs(time) >= unit[1]][-1]
    try:
        return datetime.fromtimestamp(time * seconds, UTC) if seconds else None
    except (OverflowError, ValueError, OSError):
        return None


def _moment(time: float) -> str:
    date = _date(time)
    return f"{time:.15g}" if date is None else f"{date:%Y-%m-%d %H:%M}"


def _finite(number: pl.Expr, whole: pl.Expr | None) -> tuple[pl.Expr, pl.Expr]:
    if whole is None:
        return number, pl.lit(0, pl.Int64)
    return number, (whole - whole.cast(pl.Float64).cast(pl.Int64, strict=False)).fill_null(0)


def _problem(number: pl.Expr, missing: pl.Expr) -> pl.Expr:
    return (
        pl.when(missing)
        .then(pl.lit("no time"))
        .when(number.is_null())
        .then(pl.lit("time is neither a number nor an ISO date"))
        .when(~number.is_finite())
        .then(pl.lit("time is not finite"))
        .when(number.abs() >= LARGEST)
        .then(pl.lit("time is too large a number"))
    )


def date_seconds(value: pl.Expr, kind: pl.DataType) -> pl.Expr:
    """Returns the seconds of dates or datetimes, of any that the type can hold."""
    number = value.to_physical().cast(pl.Float64)
    if isinstance(kind, pl.Datetime):
        return number / {"ms": 1e3, "us": 1e6, "ns": 1e9}[kind.time_unit]
    return number * 86_400


def date_text(value: pl.Expr, kind: pl.DataType) -> pl.Expr:
    """Returns dates or datetimes as text. Null for far ones, on which polars panics."""
    return pl.when(is_near(date_seconds(value, kind))).then(value).cast(pl.String)


def is_near(seconds: pl.Expr) -> pl.Expr:
    """Returns whether a time lies in the years 1 to 9999."""
    return seconds.is_between(*NEAR)


def iso_seconds(text: pl.Expr) -> pl.Expr:
    """Returns the seconds of ISO 8601 with `T` or a space, parts of the time left out, any zone."""
    text = text.str.replace(" ", "T", literal=True).str.replace("[zZ]$", "+00:00")
    forms = ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S%.f")
    local = [text.str.to_datetime(form, time_unit="us", strict=False) for form in forms]
    zoned = [
        text.str.to_datetime(f"{form}%#z", time_unit="us", strict=False).dt.replace_time_zone(None)
        for form in forms[1:]
    ]
    return pl.coalesce(*local, *zoned).dt.epoch("us") / 1e6
