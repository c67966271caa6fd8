"""Checks the analysis of experiments on simulated totals: false alarms, and effects that are found.

    python -m loadtest.experiments.bench_analysis --out docs/results
    python -m loadtest.experiments.bench_analysis --runs 100

1,000 experiments without a difference (A/A): as many as 5 % ± 1.5 % may find one. As many with the
planned number of users and the planned effect: 80 % ± 3 % of them have to find it. Exits with 1 if
a bar is missed.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from loadtest.environment import environment
from loadtest.experiments.simulated import simulated
from loadtest.results import put_between_marks, say
from service.experiments.analysis import Comparison, Question, analyse
from service.experiments.metric import Metric
from service.experiments.plan import plan
from service.experiments.totals import user_totals

USERS = 300
"""Users of an experiment without a difference."""
EFFECT, POWER, ALPHA = 0.3, 0.8, 0.05
TOLERANCES = {ALPHA: 0.015, POWER: 0.03}
QUESTION = Question(experiment="e", weights={"a": 1.0, "b": 1.0}, secondary=("click/exposure",))


def main() -> None:
    """Simulates, prints the table, and writes it to the page of results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    users = planned_users()
    rows, kept = [], True
    for title, size, effect, bar in (
        ("A/A", USERS, 0.0, ALPHA),
        (f"planted {EFFECT:+.0%}", users, EFFECT, POWER),
    ):
        found = [outcome(size, effect, seed) for seed in range(given.runs)]
        for name in found[0]:
            count = sum(excludes_zero(one[name]) for one in found)
            say(f"{title}, {name}: {count} of {given.runs}")
            rows.append(row(title, size, name, count, given.runs, bar))
            if name == QUESTION.primary:
                kept &= abs(count / given.runs - bar) <= TOLERANCES[bar]
    text = "\n".join([*HEAD, *rows, "", f"`{environment()['command']}`, {environment()['commit']}"])
    print(text)
    if given.out:
        put_between_marks(given.out / "experiments.md", "analysis", text)
    sys.exit(not kept)


HEAD = (
    "| experiments | users of each | metric | a difference is found | 95 % interval | expected |",
    "|---|---|---|---|---|---|",
)


def planned_users() -> int:
    """Returns the users that a plan asks for, by the figures of 20,000 users without a difference.

    The plan knows how well a user's past predicts their clicks, as CUPED does.
    """
    users = user_totals(*simulated(20_000, seed=1_000_000), [Metric.parse("click")]).users
    clicks, before = (users[name].to_numpy() for name in ("click", "click before"))
    correlation = float(np.corrcoef(clicks, before)[0, 1])
    mean, deviation = float(clicks.mean()), float(clicks.std())
    return plan(mean, deviation, EFFECT, power=POWER, correlation=correlation).users


def outcome(users: int, effect: float, seed: int) -> dict[str, Comparison]:
    """Returns the comparisons of a simulated experiment by metric."""
    names = (QUESTION.primary, *QUESTION.secondary)
    totals = user_totals(*simulated(users, effect, seed), [Metric.parse(name) for name in names])
    (arm,) = analyse(QUESTION, totals).arms
    return {one.metric: one for one in (arm.primary, *arm.secondary)}


def excludes_zero(one: Comparison) -> bool:
    """Returns whether the difference is beyond chance."""
    return not one.lower <= 0 <= one.upper


def row(title: str, users: int, metric: str, found: int, runs: int, expected: float) -> str:
    """Returns a line of the table."""
    interval = binomtest(found, runs).proportion_ci()
    return (
        f"| {title} | {users:,} | {metric} | {found:,} of {runs:,}: {found / runs:.1%} | "
        f"{interval.low:.1%} to {interval.high:.1%} | {expected:.0%} |"
    )


if __name__ == "__main__":
    main()
