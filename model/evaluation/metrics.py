"""The quality of a recall: HR, NDCG, recall and coverage of anything that recalls.

HR@k and NDCG@k measure the next item, ranked against the whole catalogue without the user's history
(with leave-one-out the protocol of the public data sets). recall@k is the share of a case's set of
targets that a list of k holds, averaged over the cases; with one target it is HR@k. A target that
is in the history already counts as missed, unless the recall repeats items of the history.
Shapes: N cases, B batch, K candidates, S targets of a case, V catalogue.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model.data.dataset import Dataset, IntArray
from model.evaluation.protocols import Split, by_outcome, target_sets

Recall = Callable[[Sequence[IntArray], IntArray, Sequence[int]], list[IntArray]]
"""(whole histories as item rows, oldest first; user rows B, -1: unknown; lengths of lists) → for
each length K the item rows B K, best first, -1: no item. The lists of a user are those of separate
recalls: a shorter one need not be the start of a longer one."""


class Histories(list[IntArray]):
    """Histories as item rows, and what else the data set has of them."""

    actions: list[IntArray] | None = None
    """The actions of their events."""
    offers_BM: NDArray[np.int64] | None = None
    """Items shown after their last events and not taken, the newest first; -1: none."""


Figures = dict[str, dict[str, float]]
"""Metrics by the name of their model."""

RANKED_AT = (5, 10, 20)
DEEP_AT = (20, 50, 100, 200, 500)


class CaseFigures(NamedTuple):
    """The figures of a recall, case by case."""

    next_ranks_N: IntArray
    """Rank of the next item in a list of 20, from 1; 0: not in the list."""
    set_recalls: dict[int, NDArray[np.float64]]
    """For each length of list the found shares of the sets of targets: N each."""
    covered: dict[int, NDArray[np.bool_]]
    """For each length of list whether any list held the item: V each."""


def evaluate(
    recall: Recall,
    dataset: Dataset,
    split: Split,
    deep: Sequence[int] = DEEP_AT,
    batch: int = 256,
    known_users: bool = True,
) -> dict[str, float]:
    """Measures the next item in a list of 20, and the whole sets of targets in deeper lists.

    Returns HR@ and NDCG@5/10/20 of the next item, recall@ of the sets and coverage@ for each k of
    `deep`. Without `known_users`, every user is asked for as an unknown one.
    """
    found = measure_cases(recall, dataset, split, deep, batch, known_users)
    metrics = ranking_figures(found.next_ranks_N)
    metrics |= {f"recall@{k}": float(found.set_recalls[k].mean()) for k in deep}
    return metrics | {f"coverage@{k}": float(found.covered[k].mean()) for k in deep}


def evaluate_outcomes(
    recalls: Mapping[str, Recall], dataset: Dataset, split: Split, outcome: str | None
) -> Figures:
    """Returns the figures of each recall, by its name; none where there is no case.

    With an outcome they are of the cases whose next item got that action; those of the other cases
    stand beside them, as "NAME, not OUTCOME".
    """
    parts = {"": split}
    if outcome is not None:
        pair = by_outcome(dataset, split, outcome)
        parts = dict(zip(("", f", not {outcome}"), pair, strict=True))
    return {
        name + suffix: evaluate(recall, dataset, part)
        for suffix, part in parts.items()
        for name, recall in recalls.items()
        if len(part.users)
    }


def measure_cases(
    recall: Recall,
    dataset: Dataset,
    split: Split,
    deep: Sequence[int] = DEEP_AT,
    batch: int = 256,
    known_users: bool = True,
) -> CaseFigures:
    """Measures every case: see `evaluate`, which summarises them."""
    depths = sorted({max(RANKED_AT), *deep})
    sets_NS = target_sets(dataset, split)
    found = CaseFigures(
        np.zeros(len(split.users), dtype=np.int64),
        {k: np.zeros(len(split.users)) for k in depths},
        {k: np.zeros(dataset.catalogue, dtype=bool) for k in depths},
    )
    for part, histories, known_B in case_batches(dataset, split, batch, known_users):
        for k, rows_BK in zip(depths, recall(histories, known_B, depths), strict=True):
            if k == max(RANKED_AT):
                found.next_ranks_N[part] = ranks(rows_BK, split.targets[part])
            found.set_recalls[k][part] = set_recalls(rows_BK, sets_NS[part])
            found.covered[k][rows_BK[rows_BK >= 0]] = True
    return found


def set_recalls(rows_BK: IntArray, sets_BS: IntArray) -> NDArray[np.float64]:
    """Returns the share of each set that stands in the list: B."""
    real_BS = sets_BS >= 0
    found_BS = (sets_BS[:, :, None] == rows_BK[:, None]).any(axis=2) & real_BS
    shares_B: NDArray[np.float64] = found_BS.sum(axis=1) / real_BS.sum(axis=1)
    return shares_B


def case_batches(
    dataset: Dataset,
    split: Split,
    batch: int,
    known_users: bool = True,
    newest: int | None = None,
) -> Iterator[tuple[slice, Histories, IntArray]]:
    """Yields for each batch the cases that it is made of, their histories and their user rows B.

    Without `known_users` the user rows are -1. With `newest`, a history is cut to that
    number of its last items.
    """
    for start in tqdm(range(0, len(split.users), batch), "evaluate", leave=False, disable=None):
        part = slice(start, start + batch)
        users_B = split.users[part]
        histories = histories_of(dataset, users_B, split.lengths[part], newest)
        yield part, histories, users_B if known_users else np.full_like(users_B, -1)


def histories_of(
    dataset: Dataset, users_B: IntArray, lengths_B: IntArray, newest: int | None = None
) -> Histories:
    """Returns the first events of users, as many as `lengths_B` says, or the `newest` of these."""
    starts_B = np.asarray(dataset.offsets)[users_B]
    cuts = [
        slice(start + max(0, n - (newest or n)), start + n)
        for start, n in zip(starts_B, lengths_B, strict=True)
    ]
    histories = Histories(np.asarray(dataset.events[cut]) for cut in cuts)
    if dataset.actions is not None:
        histories.actions = [np.asarray(dataset.actions[cut]) for cut in cuts]
    if dataset.offers is not None:
        next_B = np.asarray(starts_B + lengths_B)
        ends_B = np.asarray(dataset.offsets)[np.asarray(users_B) + 1]
        histories.offers_BM = dataset.offers.before(np.where(next_B < ends_B, next_B, -1))
    return histories


def ranking_figures(ranks_N: IntArray) -> dict[str, float]:
    """Returns HR@ and NDCG@5/10/20 of ranks in lists of 20."""
    metrics = {f"HR@{k}": float(((ranks_N > 0) & (ranks_N <= k)).mean()) for k in RANKED_AT}
    return metrics | {f"NDCG@{k}": ndcg(ranks_N, k) for k in RANKED_AT}


def ranks(rows_BK: IntArray, targets_B: IntArray) -> IntArray:
    """Returns the rank of the target in each list, from 1; 0: not in the list."""
    found_BK = rows_BK == targets_B[:, None]
    return np.where(found_BK.any(axis=1), found_BK.argmax(axis=1) + 1, 0)


def ndcg(ranks_N: IntArray, k: int) -> float:
    """NDCG@k with one relevant item: the mean of `gains`."""
    return float(gains(ranks_N, k).mean())


def gains(ranks_N: IntArray, k: int) -> NDArray[np.float64]:
    """Returns the summand of each case in NDCG@k: 1 / log2(rank + 1) within the first k, else 0."""
    found_N = (ranks_N > 0) & (ranks_N <= k)
    return np.where(found_N, 1 / np.log2(np.maximum(ranks_N, 1) + 1), 0.0)


def check_equal(figures: Figures, trainer: Figures) -> list[str]:
    """Compares what is served with what was trained; returns the names of the compared models.

    Raises ValueError if a metric differs in the fourth decimal, or if there is none to compare.
    """
    compared = []
    for name in figures.keys() & trainer.keys():
        for metric in figures[name].keys() & trainer[name].keys():
            found, expected = figures[name][metric], trainer[name][metric]
            if abs(found - expected) >= 5e-5:
                raise ValueError(
                    f"{name}: {metric} is {found:.5f} here, but was {expected:.5f} in training: "
                    "is --data what the artifact was trained on?"
                )
            compared.append(name)
    if not compared:
        raise ValueError(
            f"nothing to compare: measured were {_metric_names(figures)}, "
            f"training recorded {_metric_names(trainer)}"
        )
    return sorted(set(compared))


def _metric_names(figures: Figures) -> str:
    """The models and metrics that figures hold, for an error."""
    names = [f"{model} ({', '.join(metrics)})" for model, metrics in figures.items()]
    return "; ".join(names) or "no figures"


def format_figures(figures: Figures) -> str:
    """Returns a table as text: a line per metric, a column per model."""
    if not figures:
        return ""
    names = list(next(iter(figures.values())))
    width = max(len(name) for name in names)
    widths = {model: max(len(model), 6) for model in figures}
    lines = [" " * width + "".join(f"  {model:>{widths[model]}}" for model in figures)]
    for name in names:
        values = (f"  {metrics[name]:>{widths[model]}.4f}" for model, metrics in figures.items())
        lines.append(f"{name:<{width}}" + "".join(values))
    return "\n".join(lines)
