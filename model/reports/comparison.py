"""Two runs on the same data, compared case by case on the test split."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.data.dataset import Dataset
from model.evaluation.bootstrap import paired_difference
from model.evaluation.config import ProtocolConfig
from model.evaluation.metrics import CaseFigures, gains, measure_cases
from model.evaluation.protocols import Split, by_outcome, splits
from model.training.config import TrainConfig
from model.training.run import load_run, reference_recall

NEXT_AT = (10, 20)
SETS_AT = (20, 50, 100, 200, 500)


def compare_runs(
    new: Path, old: Path, protocol: ProtocolConfig | None = None, interests: int | None = None
) -> dict[str, Any]:
    """Measures both runs by the reference recall on the same test cases.

    Each is told the real offers that its own data have. Without `protocol`, the cases are those of
    the new run; both must have been trained without them. Without `interests`, each run generates
    as many as it serves. Returns {"new", "old", "cases", "figures": {metric: {"new", "old",
    "relative", "low", "high"}}}: `relative` is the difference as a share of the old figure, between
    `low` and `high` with 95 % confidence. If the new run asks for an outcome, the cases are those
    whose target got it, and "others" has "cases" and "figures" of the other cases.

    Raises ValueError if the runs are not of the same data, or if one may have seen test events.
    """
    new_config, dataset, _ = load_run(new)
    old_config, other, _ = load_run(old)
    if dataset.user_ids != other.user_ids or not np.array_equal(dataset.events, other.events):
        raise ValueError(f"{new} and {old} were not trained on the same data")
    parts = splits(dataset, protocol or new_config.protocol)
    for config in (new_config, old_config):
        check_unseen(config, dataset, parts.test)
    split, outcome = parts.test, new_config.recall.outcome
    found = {"new": str(new), "old": str(old)}
    if outcome is None:
        return found | _compared(new, old, split, interests)
    split, others = by_outcome(dataset, split, outcome)
    not_wanted = _compared(new, old, others, interests)
    wanted = _compared(new, old, split, interests)
    return found | wanted | {"outcome": outcome, "others": not_wanted}


def check_unseen(config: TrainConfig, dataset: Dataset, test: Split) -> None:
    """Raises ValueError if a run was trained on targets of these cases."""
    trained_U = splits(dataset, config.protocol).training_lengths
    if (trained_U[test.users] > test.lengths).any():
        raise ValueError(
            f"{config.out} was trained on test events of this protocol: train it with this "
            "--protocol, too"
        )


def _compared(new: Path, old: Path, split: Split, interests: int | None) -> dict[str, Any]:
    by_run = [_figures(_cases(run, split, interests)) for run in (new, old)]
    figures = {name: _difference(by_run[0][name], by_run[1][name], split) for name in by_run[0]}
    return {"cases": len(split.users), "figures": figures}


def _cases(run: Path, split: Split, interests: int | None) -> CaseFigures:
    config, dataset, model = load_run(run)
    recall = config.recall
    if interests is not None:
        recall = recall.model_copy(update={"interests": interests})
    recaller = reference_recall(config, dataset, model, recall)
    return measure_cases(recaller, dataset, split, SETS_AT)


def _figures(found: CaseFigures) -> dict[str, NDArray[np.float64]]:
    """The figures of every case by metric."""
    ranks_N = found.next_ranks_N
    figures = {f"HR@{k}": ((ranks_N > 0) & (ranks_N <= k)).astype(float) for k in NEXT_AT}
    figures |= {f"NDCG@{k}": gains(ranks_N, k) for k in NEXT_AT}
    return figures | {f"recall@{k}": found.set_recalls[k] for k in SETS_AT}


def _difference(
    new_N: NDArray[np.float64], old_N: NDArray[np.float64], split: Split
) -> dict[str, float]:
    means = {"new": float(new_N.mean()), "old": float(old_N.mean())}
    if not old_N.any():
        return means  # nothing to be relative to
    return means | paired_difference(new_N, old_N, split.users)._asdict()


def format_comparison(found: dict[str, Any]) -> str:
    """Returns a table as text: a line per metric."""
    cases = f"{found['cases']:,} test cases of both runs"
    if "outcome" in found:
        cases += f" with the outcome {found['outcome']}"
    lines = [f"{cases}; relative difference [95 % interval]", *_rows(found)]
    if "outcome" in found:
        lines += [f"{found['others']['cases']:,} test cases with another outcome"]
        lines += _rows(found["others"])
    return "\n".join(lines)


def _rows(found: dict[str, Any]) -> list[str]:
    lines = []
    for name, row in found["figures"].items():
        line = f"{name:<12}{row['old']:>9.4f} → {row['new']:.4f}"
        if "relative" in row:
            line += f"  {row['relative']:+7.1%} [{row['low']:+.1%}, {row['high']:+.1%}]"
        lines.append(line)
    return lines
