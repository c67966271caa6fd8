"""The quality of recalls for users that training never saw, beside users with a row of their own.

It takes two runs on the same data: one that held users out (`recgpt train --hold-out-users 0.1`),
and one that trained with all users. Both recall the test targets of the held-out users, the first
from their histories only, the second with their own rows.

Shapes: N cases.
"""

from pathlib import Path
from typing import Any

import numpy as np

from model.data.dataset import Dataset, IntArray, held_out_users, popularity
from model.evaluation.metrics import RANKED_AT, Recall, case_batches, gains, ranking_figures, ranks
from model.evaluation.protocols import Split, splits, with_outcome
from model.evaluation.reference import popular_recall
from model.training.run import load_run, reference_recall

LENGTHS = (1, 2, 3, 5)
"""Numbers of newest items to which the histories of new users are cut, besides whole ones."""


def compare_new_users(held_out: Path, full: Path) -> dict[str, Any]:
    """Measures the users that the run `held_out` did not train with, in it and in the run `full`.

    Returns what `recgpt evaluate new-users` writes:
    {"runs": {"held_out", "full"}, "held_out_users", "cases",
     "figures": {"popularity" | "new: history only" | "trained: own row" | "trained: history only":
                 {"HR@5", …, "NDCG@20"}},
     "by_history": {"1" | "2" | "3" | "5" | "all": {"HR@5", …, "NDCG@20"}},
     "difference": {"HR@5" | …: {"relative", "standard_error"}}}
    `by_history` has the figures of new users whose histories are cut to their newest items.
    `relative` is the difference from users with a row of their own: -0.05 is 5 % less.

    Raises ValueError if the runs do not belong together.
    """
    cold, view, cold_model = load_run(held_out)
    warm, dataset, warm_model = load_run(full)
    if not cold.hold_out_users or warm.hold_out_users:
        raise ValueError(
            f"{held_out} must have held users out (`recgpt train --hold-out-users 0.1`), "
            f"and {full} none"
        )
    users = held_out_users(dataset, cold.hold_out_users, cold.seed)
    if set(view.user_ids) != set(dataset.user_ids) - {dataset.user_ids[u] for u in users}:
        raise ValueError(f"{held_out} and {full} were not trained on the same data")
    test = splits(dataset, warm.protocol).test.of_users(users)
    split = with_outcome(dataset, test, warm.recall.outcome)
    training = splits(view, cold.protocol).training()
    new = reference_recall(cold, view, cold_model)
    own = reference_recall(warm, dataset, warm_model)
    ranks_by = {
        "popularity": _ranks(popular_recall(popularity(training)), dataset, split),
        "new: history only": _ranks(new, dataset, split, known=False),
        "trained: own row": _ranks(own, dataset, split),
        "trained: history only": _ranks(own, dataset, split, known=False),
    }
    return {
        "runs": {"held_out": str(held_out), "full": str(full)},
        "held_out_users": len(users),
        "cases": len(split.users),
        "figures": {name: ranking_figures(found) for name, found in ranks_by.items()},
        "by_history": _by_history(new, dataset, split),
        "difference": _difference(ranks_by["new: history only"], ranks_by["trained: own row"]),
    }


def _ranks(
    recall: Recall, dataset: Dataset, split: Split, known: bool = True, newest: int | None = None
) -> IntArray:
    """Returns the rank of every case's target in a list of 20: N."""
    found = [
        ranks(recall(histories, users_B, (max(RANKED_AT),))[0], split.targets[part])
        for part, histories, users_B in case_batches(dataset, split, 256, known, newest)
    ]
    return np.concatenate(found)


def _by_history(recall: Recall, dataset: Dataset, split: Split) -> dict[str, dict[str, float]]:
    """Returns the figures of the same cases for each length of history."""
    return {
        str(newest or "all"): ranking_figures(
            _ranks(recall, dataset, split, known=False, newest=newest)
        )
        for newest in (*LENGTHS, None)
    }


def _difference(new_N: IntArray, own_N: IntArray) -> dict[str, dict[str, float]]:
    """Returns the relative difference of each figure, with its standard error over the cases."""
    table = {}
    for k in RANKED_AT:
        hits = [((found > 0) & (found <= k)).astype(float) for found in (new_N, own_N)]
        for name, (new, own) in (("HR", hits), ("NDCG", [gains(new_N, k), gains(own_N, k)])):
            if not own.any():
                continue  # nothing to compare with
            paired = new - own
            table[f"{name}@{k}"] = {
                "relative": float(paired.mean() / own.mean()),
                "standard_error": float(paired.std() / np.sqrt(len(paired)) / own.mean()),
            }
    return table
