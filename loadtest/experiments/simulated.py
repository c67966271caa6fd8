"""A simulated experiment: users of unequal activity, their exposures and their clicks."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

START = datetime(2026, 3, 1, tzinfo=UTC)
ARMS = ("a", "b")


def simulated(
    users: int, effect: float = 0.0, seed: int = 0, days: float = 14.0, share_b: float = 0.5
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Exposures and events of users who click `effect` more often in the arm b.

    Each user has a rate of their own, before the experiment as well.
    """
    rng = np.random.default_rng(seed)
    arm = np.where(rng.random(users) < share_b, "b", "a")
    rate = rng.gamma(1.0, 0.1, users)
    recalls = 1 + rng.poisson(8, users)
    user = np.repeat(np.arange(users), recalls)
    at = rng.random(len(user)) * days * 86_400
    exposures = pl.DataFrame(
        {
            "experiment": "e",
            "arm": arm[user],
            "user_id": [f"u{number}" for number in user],
            "request_id": [f"r{number}" for number in range(len(user))],
            "at": [START + timedelta(seconds=second) for second in at],
            "degraded": rng.random(len(user)) < 0.02,
        }
    )
    chance = rate[user] * np.where(arm[user] == "b", 1 + effect, 1)
    clicked = np.flatnonzero(rng.random(len(user)) < chance)
    clicks = exposures[clicked].select(
        "user_id", "request_id", pl.lit("click").alias("type"), pl.col("at").dt.offset_by("1m")
    )
    before = rng.poisson(rate * 9)
    past = np.repeat(np.arange(users), before)
    earlier = pl.DataFrame(
        {
            "user_id": [f"u{number}" for number in past],
            "request_id": [None] * len(past),
            "type": "click",
            "at": [START - timedelta(days=day) for day in rng.random(len(past)) * 13],
        },
        schema=clicks.schema,
    )
    return exposures, pl.concat([clicks, earlier]).with_columns(value=pl.lit(2.5))
