"""Counts the users that it takes to find the better of two rankings: apart, and interleaved.

    python -m loadtest.experiments.bench_interleaving --out docs/results

Simulated users like 30 candidates to different degrees, and visit one to thirty times. Two rankers
see what they like with different noise and show 10; position p is looked at with 1/p. In an A/B
test a user sees one ranking, interleaved both. The table has the smallest number of users, on a
grid, with which 80 % of 400 experiments find the better ranking: by Welch's test of clicks per
user, and by the sign test of `recgpt experiment report`. The two rankings of a user have the same
candidates, as those of two settings do.

Shapes: U users, C candidates, K positions.
"""

import argparse
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, ttest_ind

from loadtest.environment import environment
from loadtest.results import number, put_between_marks, say
from service.experiments.team_draft import team_draft

POOL, CANDIDATES, SHOWN = 10_000, 30, 10
MAX_VISITS = 30
GRID = [round(25 * 2 ** (step / 2)) for step in range(22)]
EXPERIMENTS, POWER, ALPHA = 400, 0.8, 0.05
GOOD, WORSE = 0.3, (0.4, 0.5, 0.7)
"""Noise of the rankers."""
Floats = NDArray[np.float64]


def main() -> None:
    """Prints the table, and writes it to the page of results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows = [row(noise) for noise in WORSE]
    text = "\n".join([*HEAD, *rows, "", f"`{environment()['command']}`, {environment()['commit']}"])
    print(text)
    if given.out:
        put_between_marks(given.out / "experiments.md", "interleaving", text)


HEAD = (
    "| difference in clicks | users, A/B | users, interleaved | ratio |",
    "|---|---|---|---|",
)


def row(worse: float) -> str:
    """Returns a line of the table: the better ranker beside one with this noise."""
    rng = np.random.default_rng(0)
    taste_UC = rng.beta(1, 9, (POOL, CANDIDATES))
    spread = taste_UC.std()
    visits_U = np.minimum(1 + rng.poisson(rng.gamma(0.7, 8, POOL)), MAX_VISITS)
    attraction_UC = np.minimum(taste_UC * rng.lognormal(-0.5, 1, (POOL, 1)), 1)
    lists = [
        np.argsort(-(taste_UC + rng.normal(0, noise * spread, taste_UC.shape)), axis=1)
        for noise in (worse, GOOD)
    ]
    clicks, credits_U = np.zeros((2, POOL), dtype=np.int64), np.zeros(POOL, dtype=np.int64)
    for visit in range(MAX_VISITS):
        here = np.flatnonzero(visits_U > visit)
        for count_U, order_UC in zip(clicks, lists, strict=True):
            shown_UK = order_UC[here, :SHOWN]
            count_U[here] += clicks_of(rng, attraction_UC[here], shown_UK).sum(axis=1)
        both = [order_UC[here] for order_UC in lists]
        credits_U[here] += interleaved(rng, attraction_UC[here], both, visit)
    votes_U = np.sign(credits_U)
    apart = users_needed(lambda users: by_welch(rng, clicks, users))
    together = users_needed(lambda users: by_votes(rng, votes_U, users))
    lift = clicks[1].mean() / clicks[0].mean() - 1
    say(f"noise {worse}: {lift:+.1%}, {apart} users apart, {together} together")
    if not apart or not together:
        least = f"more than {GRID[-1]:,}"
        return f"| {lift:+.1%} | {apart or least} | {together or least} | |"
    return f"| {lift:+.1%} | {apart:,} | {together:,} | {number(apart / together)} |"


def clicks_of(
    rng: np.random.Generator, attraction_UC: Floats, shown_UK: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Returns whether users click the item at each position: U K."""
    examined_K = 1 / np.arange(1.0, shown_UK.shape[1] + 1)
    chances_UK = np.take_along_axis(attraction_UC, shown_UK, axis=1) * examined_K
    clicked_UK: NDArray[np.bool_] = rng.random(chances_UK.shape) < chances_UK
    return clicked_UK


def interleaved(
    rng: np.random.Generator, attraction_UC: Floats, lists: list[NDArray[np.int64]], seed: int
) -> NDArray[np.int64]:
    """Returns the clicks of each user on items of the second ranker, less those on the first's."""
    flips = random.Random(seed)
    items_UK, teams_UK = np.zeros((2, len(attraction_UC), SHOWN), dtype=np.int64)
    for user, (one, two) in enumerate(zip(*(part.tolist() for part in lists), strict=True)):
        picks = team_draft((one, two), SHOWN, lambda: flips.random() < 0.5)
        items_UK[user] = [(one, two)[team][at] for team, at in picks]
        teams_UK[user] = [pick.team for pick in picks]
    clicked_UK = clicks_of(rng, attraction_UC, items_UK)
    credits_U: NDArray[np.int64] = (clicked_UK * (2 * teams_UK - 1)).sum(axis=1)
    return credits_U


def users_needed(power_of: Callable[[int], float]) -> int:
    """Returns the smallest number of users on the grid that has the power; 0 if none has."""
    return next((users for users in GRID if power_of(users) >= POWER), 0)


def by_welch(rng: np.random.Generator, clicks: NDArray[np.int64], users: int) -> float:
    """Returns the share of A/B tests with this number of users that find the better ranker."""
    found = 0
    for _ in range(EXPERIMENTS):
        drawn = rng.integers(POOL, size=users)
        first, second = clicks[0][drawn[: users // 2]], clicks[1][drawn[users // 2 :]]
        if first.any() or second.any():
            test = ttest_ind(second, first, equal_var=False)
            found += test.pvalue < ALPHA and test.statistic > 0
    return found / EXPERIMENTS


def by_votes(rng: np.random.Generator, votes_U: NDArray[np.int64], users: int) -> float:
    """Returns the share of interleaved experiments that find the better ranker."""
    found = 0
    for _ in range(EXPERIMENTS):
        drawn = votes_U[rng.integers(POOL, size=users)]
        wins, losses = int((drawn > 0).sum()), int((drawn < 0).sum())
        if wins > losses:
            found += binomtest(wins, wins + losses).pvalue < ALPHA
    return found / EXPERIMENTS


if __name__ == "__main__":
    main()
