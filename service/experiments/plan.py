"""The size of an experiment: how many users and days it takes to find a difference."""

import math
from datetime import UTC, datetime, timedelta
from statistics import NormalDist

import polars as pl
from pydantic import BaseModel


class Plan(BaseModel, frozen=True):
    """The users that an experiment needs."""

    mean: float
    """The metric's mean over users."""
    deviation: float
    """The metric's standard deviation over users."""
    correlation: float
    """The metric's correlation with the same figure before the experiment (CUPED)."""
    effect: float
    """The relative difference to be found."""
    power: float
    alpha: float
    arms: int
    users: int
    """In all arms together."""


def plan(
    mean: float,
    deviation: float,
    effect: float,
    arms: int = 2,
    power: float = 0.8,
    alpha: float = 0.05,
    correlation: float = 0.0,
) -> Plan:
    """Returns the users that find a relative `effect` on a mean with this `power`.

    All arms are of equal size, and each is compared with the control by a two-sided test, with
    Bonferroni's correction for their number. Figures before the experiment with this correlation
    shrink the variance to 1 - correlation² of it. The effect also makes the treatment's counts vary
    more: by chance in proportion to the mean, and between users in proportion to its square.
    """
    if mean <= 0 or deviation <= 0:
        raise ValueError("the metric has no mean or no variance: nothing can be compared")
    quantile = NormalDist().inv_cdf
    wanted = quantile(1 - alpha / (2 * (arms - 1))) + quantile(power)
    by_chance = min(mean, deviation**2)
    treated = by_chance * (1 + effect) + (deviation**2 - by_chance) * (1 + effect) ** 2
    variances = (deviation**2 + treated) * (1 - correlation**2)
    in_an_arm = variances * (wanted / (effect * mean)) ** 2
    return Plan(
        mean=mean,
        deviation=deviation,
        correlation=correlation,
        effect=effect,
        power=power,
        alpha=alpha,
        arms=arms,
        users=arms * math.ceil(in_an_arm),
    )


def early_look(since: datetime, until: datetime, days: float) -> str:
    """Returns why an experiment of this length has no verdict yet; empty if it has ended."""
    end = since + timedelta(days=days)
    if until >= end - timedelta(hours=1):
        return ""
    return (
        f"the experiment runs until {end.astimezone(UTC):%Y-%m-%d %H:%M} UTC: a look before the "
        "planned end would find differences by chance"
    )


def figures_of(events: pl.DataFrame, kind: str, days: float) -> tuple[float, float, float]:
    """Returns mean, standard deviation and correlation of events of a type over users.

    The users are those with any event in the last `days` of the log; the correlation is with the
    same number of days before them. Raises ValueError if the log has too few events.
    """
    end = events["at"].max()
    span = pl.duration(seconds=days * 86400)
    last = events.filter(pl.col("at") > pl.lit(end) - span)
    earlier = events.filter(
        pl.col("at").is_between(pl.lit(end) - 2 * span, pl.lit(end) - span, closed="right")
    )
    users = last.select("user_id").unique()
    for name, part in ("now", last), ("before", earlier):
        counts = part.filter(pl.col("type") == kind).group_by("user_id").agg(pl.len().alias(name))
        users = users.join(counts, on="user_id", how="left").with_columns(
            pl.col(name).fill_null(0).cast(pl.Float64)
        )
    mean, deviation = users["now"].mean(), users["now"].std()
    if users.height < 2 or not mean or not deviation:
        raise ValueError(f"the log has no {kind} events of several users in its last {days:g} days")
    correlation = users.select(pl.corr("now", "before")).item()
    known = isinstance(correlation, float) and math.isfinite(correlation)
    assert isinstance(mean, float)
    assert isinstance(deviation, float)
    return mean, deviation, correlation if known else 0.0
