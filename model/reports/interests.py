"""The gain of further interests: recall of M of them against one, at the same length of the list.

One rollout serves every list, because the item that is appended does not depend on the quotas, and
the first interests of a longer rollout are those of a shorter one. The best unseen items of each
interest are therefore found once, and every (interests, first_share, k) is merged from them.

Shapes: N cases, B batch, M interests, D width, K candidates, V catalogue, G genres.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from model.data.dataset import Dataset, IntArray
from model.evaluation.metrics import case_batches, set_recalls
from model.evaluation.protocols import Split, splits, target_sets, with_outcome
from model.evaluation.reference import DenseRecall, at_positions, merge_by_quotas
from model.network.rollout import quotas
from model.reports.diversity import diversities, genre_vectors
from model.training.run import load_run, reference_recall

KS = (20, 50, 100, 200)
MERGED_AT_ONCE = 256  # users
SHARES = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
Stage = Literal["pretrain", "tune"]


def compare_interests(run: Path, interests: int, genres_column: str = "genres") -> dict[str, Any]:
    """Measures lists of 1 … `interests` interests by every network of a run, on both splits.

    Returns what `recgpt evaluate interests` writes:
    {"run", "ks", "shares", "splits": {"validation" | "test": {"pretrain" | "tune": {
         "lists": [{"interests", "first_share", "k", "recall", "coverage", "diversity"?}],
         "overlap": [{"interest": 2 …, "k", "shared_with_first", "jaccard"}]}}},
     "chosen": [{"stage", "interests", "k", "first_share", "validation", "test", "one_interest"}],
     "tables": {stage: {"1 interest" | "2 interests" …: {"recall@20" …: of "chosen", on test}}}}
    `diversity` (if items have genres): the mean of 1 - cosine between the genres of two items of a
    list. `shared_with_first`: the share of an interest's own k items that the first interest has,
    too; `jaccard`: the mean over all earlier interests. `chosen`: the one first_share with the
    highest mean recall over all k on validation, its recall there and on test, and the test recall
    of one interest.
    """
    figures: dict[str, dict[str, Any]] = {"validation": {}, "test": {}}
    for stage in _stages(run):
        config, dataset, model = load_run(run, stage)
        reachable = min(interests, model.config.max_interests)
        recall = reference_recall(
            config, dataset, model, config.recall.model_copy(update={"interests": reachable})
        )
        parts = splits(dataset, config.protocol)
        for name, part in (("validation", parts.validation), ("test", parts.test)):
            split = with_outcome(dataset, part, config.recall.outcome)
            lists_NMK = top_lists(recall, dataset, split)
            figures[name][stage] = {
                "lists": _lists(lists_NMK, target_sets(dataset, split), dataset, genres_column),
                "overlap": _overlap(lists_NMK),
            }
    chosen = _choose(figures)
    return {
        "run": str(run),
        "ks": list(KS),
        "shares": list(SHARES),
        "splits": figures,
        "chosen": chosen,
        "tables": _tables(figures["test"], chosen),
    }


def top_lists(recall: DenseRecall, dataset: Dataset, split: Split, batch: int = 256) -> IntArray:
    """Returns each interest's own best items outside the history, N M K; -1 stands for no item."""
    k = min(max(KS), dataset.catalogue)
    lists_NMK = np.empty((len(split.users), recall.config.interests, k), dtype=np.int32)
    for part, histories, users_B in case_batches(dataset, split, batch):
        lists_NMK[part] = recall.lists(histories, users_B, k).rows_BMK
    return lists_NMK


def _lists(
    lists_NMK: IntArray, sets_NS: IntArray, dataset: Dataset, genres_column: str
) -> list[dict[str, float]]:
    """Returns recall, coverage and diversity for every way to share a list."""
    genres_VG = genre_vectors(dataset.items, genres_column)
    figures = []
    for interests, share, k in _ways(lists_NMK.shape[1]):
        shares_M = quotas(min(k, lists_NMK.shape[2]), interests, share)
        hits, diversity = 0.0, 0.0
        covered_V = np.zeros(dataset.catalogue + 1, dtype=bool)
        for start in range(0, len(lists_NMK), MERGED_AT_ONCE):
            part = slice(start, start + MERGED_AT_ONCE)
            lists_BMK = lists_NMK[part]
            merged_BK = at_positions(lists_BMK, merge_by_quotas(lists_BMK, shares_M), -1)
            hits += float(set_recalls(merged_BK, sets_NS[part]).sum())
            covered_V[merged_BK] = True
            if genres_VG is not None:
                diversity += float(diversities(merged_BK, genres_VG).sum())
        cases = max(1, len(lists_NMK))
        found = {"interests": interests, "first_share": share, "k": k, "recall": hits / cases}
        found |= {"coverage": float(covered_V[:-1].mean())}
        figures.append(found if genres_VG is None else found | {"diversity": diversity / cases})
    return figures


def _ways(interests: int) -> Iterator[tuple[int, float, int]]:
    """Yields (interests, first_share, k) of every list."""
    for count in range(1, interests + 1):
        for share in SHARES if count > 1 else (1.0,):
            for k in KS:
                yield count, share, k


def _overlap(lists_NMK: IntArray) -> list[dict[str, float]]:
    """Returns the overlap of each further interest's own list with those of earlier interests."""
    figures = []
    for later in range(1, lists_NMK.shape[1]):
        for k in sorted({min(k, lists_NMK.shape[2]) for k in KS}):
            shared = [
                _shared(lists_NMK[:, earlier, :k], lists_NMK[:, later, :k])
                for earlier in range(later)
            ]
            jaccard = float(np.mean([(n / (2 * k - n)).mean() for n in shared]))
            with_first = float(shared[0].mean() / k)
            figures.append(
                {"interest": later + 1, "k": k, "shared_with_first": with_first, "jaccard": jaccard}
            )
    return figures


def _shared(one_NK: IntArray, other_NK: IntArray) -> IntArray:
    """Returns the number of items that two lists have in common: N."""
    both = np.sort(np.concatenate([one_NK, other_NK], axis=1), axis=1)
    twice_NK = (both[:, 1:] == both[:, :-1]) & (both[:, 1:] >= 0)
    return np.asarray(twice_NK.sum(axis=1))


def _choose(figures: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Chooses a share for each number of interests by its mean validation recall over all k.

    A bundle serves all lengths of list with one share. Test figures are only reported beside it.
    """
    chosen = []
    for stage, found in figures["validation"].items():
        recalls = {_way(entry): entry["recall"] for entry in found["lists"]}
        tested = {_way(entry): entry["recall"] for entry in figures["test"][stage]["lists"]}
        means: dict[tuple[int, float], float] = {}
        for count, share, k in recalls:
            means[count, share] = means.get((count, share), 0.0) + recalls[count, share, k]
        for count in sorted({count for count, _ in means}):
            _, share = max((way for way in means if way[0] == count), key=means.__getitem__)
            for k in KS:
                best = count, share, k
                chosen.append(
                    {"stage": stage, "interests": count, "k": k, "first_share": share}
                    | {"validation": recalls[best], "test": tested[best]}
                    | {"one_interest": tested[1, 1.0, k]}
                )
    return chosen


def _tables(figures: dict[str, Any], chosen: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the chosen lists as `model.reports.tables` shows them: one column per interests."""
    tables: dict[str, Any] = {}
    for name in ("recall", "coverage", "diversity", "shared_with_first"):
        for entry in chosen:
            of, count, k = figures[entry["stage"]], entry["interests"], entry["k"]
            rows = [row for row in of["lists"] if _way(row) == _way(entry)]
            rows += [row for row in of["overlap"] if (row["interest"], row["k"]) == (count, k)]
            columns = tables.setdefault(entry["stage"], {})
            column = columns.setdefault(f"{count} interest{'s' if count > 1 else ''}", {})
            column |= {f"{name}@{k}": row[name] for row in rows if name in row}
    return tables


def format_interests(found: dict[str, Any]) -> str:
    """Returns text tables of the test split: recall by interests and k, and the overlap."""
    lines = ["test recall, split as validation chose (first_share); one interest in brackets"]
    for entry in found["chosen"]:
        if entry["k"] == KS[0]:
            lines.append(f"{entry['stage']:>9}, {entry['interests']} interests")
        lines[-1] += f"   @{entry['k']} {entry['test']:.4f} [{entry['one_interest']:.4f}]"
        lines[-1] += f" ({entry['first_share']:g})"
    lines.append("own lists of further interests: shared with the first, Jaccard with all before")
    for stage, figures in found["splits"]["test"].items():
        for entry in figures["overlap"]:
            if entry["k"] == KS[0]:
                lines.append(f"{stage:>9}, interest {entry['interest']}")
            lines[-1] += f"   @{entry['k']} {entry['shared_with_first']:.3f} {entry['jaccard']:.3f}"
    return "\n".join(lines)


def _way(entry: dict[str, Any]) -> tuple[int, float, int]:
    return entry["interests"], entry["first_share"], entry["k"]


def _stages(run: Path) -> list[Stage]:
    stages: tuple[Stage, Stage] = ("pretrain", "tune")
    return [stage for stage in stages if (run / stage / "best.safetensors").exists()]
