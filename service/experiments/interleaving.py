"""The analysis of an interleaved experiment: whose items users take, one vote a user.

An event counts for the arm whose item it takes. A user votes for the arm with more of their events;
without a preference a user does not vote. The sign test asks whether the votes are as even as coins
would be.
"""

from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
from pydantic import BaseModel
from scipy.stats import binomtest

from model.reports.page import write_page
from service.experiments.metric import SPECIAL, Metric
from service.experiments.plan import early_look
from service.experiments.totals import is_in_time, planned


class InterleavingReport(BaseModel, frozen=True):
    """The outcome of an interleaved experiment."""

    experiment: str
    arms: tuple[str, str]
    """The control and the treatment."""
    versions: tuple[str, str] | None
    """The version of each arm, if they name one."""
    event: str
    """The type of the events that count."""
    since: datetime
    until: datetime
    users: int
    """Users who were shown a draft."""
    votes: tuple[int, int]
    """Users who prefer each arm."""
    events: tuple[int, int]
    """Events of each arm's items."""
    share: float | None
    """The treatment's share of the votes; None without a vote. Its interval is of 1 - alpha."""
    lower: float
    upper: float
    p_value: float
    verdict: str


def analyse_interleaving(
    experiment: str,
    arms: tuple[str, str],
    exposures: pl.DataFrame,
    events: pl.DataFrame,
    event: str = "click",
    alpha: float = 0.05,
    within: timedelta = timedelta(days=1),
    versions: tuple[str, str] | None = None,
    days: float | None = None,
    since: datetime | None = None,
) -> InterleavingReport:
    """Counts the votes of an experiment's users, and tests them at the planned end, after `days`.

    The experiment began at `since`, or with the first exposure. `exposures` have a column `teams`:
    the JSON of the items of each arm, by its name. Raises ValueError if they lack it, if there are
    none, or if `event` is no type of events.
    """
    metric = Metric.parse(event)
    if metric.name != metric.type or metric.type in SPECIAL:
        raise ValueError(f"{event}: an interleaved experiment counts events: name their type")
    if not exposures.height:
        raise ValueError(f"no user of {experiment} was shown a draft of both arms")
    for name, frame in (("teams", exposures), ("item_id", events)):
        if name not in frame.columns:
            raise ValueError(f"an interleaved experiment needs the column {name}, which is missing")
    exposures, since, until = planned(exposures, since, days)
    credits = _credits(arms, exposures, events.filter(pl.col("type") == event), within)
    control, treatment = credits["control"], credits["treatment"]
    votes = int((control > treatment).sum()), int((treatment > control).sum())
    total = sum(votes)
    test = binomtest(votes[1], total) if total else None
    interval = test.proportion_ci(1 - alpha) if test else None
    share = votes[1] / total if total else None
    p_value = float(test.pvalue) if test else 1.0
    early = early_look(since, until, days) if days else ""
    return InterleavingReport(
        experiment=experiment,
        arms=arms,
        versions=versions,
        event=event,
        since=since,
        until=until,
        users=exposures["user_id"].n_unique(),
        votes=votes,
        events=(int(control.sum()), int(treatment.sum())),
        share=share,
        lower=float(interval.low) if interval else 0.0,
        upper=float(interval.high) if interval else 1.0,
        p_value=p_value,
        verdict=f"No verdict: {early}." if early else _verdict(arms, event, votes, p_value, alpha),
    )


def write_interleaving_page(report: InterleavingReport, out: Path) -> None:
    """Writes the page of a report to `out`."""
    write_page(Path(__file__).with_name("interleaving.html"), out, report=report)


def _credits(
    arms: tuple[str, str], exposures: pl.DataFrame, events: pl.DataFrame, within: timedelta
) -> pl.DataFrame:
    """Returns for each user with an event that counts how many each arm has.

    The columns are user_id, control and treatment. An item that is taken twice after one recall
    counts once.
    """
    form = pl.Struct({arm: pl.List(pl.String) for arm in arms})
    teams = pl.col("teams").str.json_decode(form)
    picked = pl.concat(
        [
            exposures.select(
                "user_id",
                "request_id",
                shown_at="at",
                item_id=teams.struct.field(arm),
                team=pl.lit(team),
            ).explode("item_id")
            for team, arm in enumerate(arms)
        ]
    )
    row = ["user_id", "request_id", "item_id"]
    once = events.join(picked, on=row).filter(is_in_time(within)).unique(row)
    return once.group_by("user_id").agg(
        control=(pl.col("team") == 0).sum(), treatment=(pl.col("team") == 1).sum()
    )


def _verdict(
    arms: tuple[str, str], event: str, votes: tuple[int, int], p_value: float, alpha: float
) -> str:
    """Returns one sentence."""
    control, treatment = arms
    figures = f"{votes[1]:,} users to {votes[0]:,}, p = {p_value:.2g}"
    if p_value >= alpha:
        return (
            f"Users prefer neither {treatment} nor {control} beyond chance in {event} ({figures})."
        )
    if votes[1] > votes[0]:
        return f"Users prefer {treatment} in {event} ({figures})."
    return f"Keep {control}: users prefer it to {treatment} in {event} ({figures})."
