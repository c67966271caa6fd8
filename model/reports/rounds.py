"""Two rounds of recall: the worth of what a user did with the first list in the second one.

The first list is recalled. Those of its items that the user met later are appended to the history,
in the order of the log, with what the user did with them, and the rest is recalled again. The same
second recall is measured with the items alone, and with what other users did with theirs.

Shapes: N cases, B batch, K candidates, T targets of a case.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.data.dataset import Dataset, IntArray
from model.evaluation.config import ProtocolConfig
from model.evaluation.metrics import Histories, Recall, case_batches, set_recalls
from model.evaluation.protocols import Split, distinct, splits
from model.reports.comparison import check_unseen
from model.reports.variants import CaseValues, compare_variants
from model.training.run import load_run, reference_recall

KS = (10, 20, 50, 100)
UNKNOWN = -1
NOTHING = "told nothing"
ITEMS = "told the items"
FEEDBACK = "told the feedback"
SHUFFLED = "told others' feedback"

Actions = Callable[[list[IntArray]], list[IntArray]]
"""(true actions of the items that each case met) → the actions that the network is told."""


def measure_rounds(
    run: Path, protocol: ProtocolConfig | None = None, shown: int = 20
) -> dict[str, Any]:
    """Measures the second recall of a run's network, after a first list of `shown` items.

    The targets are those of the test cases that the first list misses, cases without one that it
    holds left out. Without `protocol`, the cases are the run's own. Returns for the targets that
    got the wanted outcome, and for the others, what `compare_variants` says of recall@K; the base
    is the network that is told the items alone.

    Raises ValueError if the network reads no feedback or no outcome is wanted, if it was trained on
    targets, or if no first list holds one.
    """
    config, dataset, model = load_run(run)
    outcome = config.recall.outcome
    if config.model.feedback == "none" or outcome is None:
        raise ValueError(
            f"{run}: a second round needs a network that reads feedback, and an outcome to count: "
            "train one with --model.feedback and --recall.outcome"
        )
    test = splits(dataset, protocol or config.protocol).test
    check_unseen(config, dataset, test)
    recall = reference_recall(config, dataset, model)
    # Real offers come behind the first history, and the second one goes on with other items.
    return compare_rounds(recall, dataset.without_offers(), test, outcome, shown)


def compare_rounds(
    recall: Recall, dataset: Dataset, test: Split, outcome: str, shown: int
) -> dict[str, Any]:
    """Measures any recall, as `measure_rounds` does that of a run."""
    met, missed = first_round(recall, dataset, test, shown)
    chosen = np.flatnonzero([len(rows) for rows in met])
    if not len(chosen):
        raise ValueError(
            f"no list of {shown} holds a target: say a higher --shown, or more events of a case by "
            "--protocol.targets"
        )
    test, met, missed = test.at(chosen), _some(met, chosen), _some(missed, chosen)
    lists = {NOTHING: _further(recall, dataset, test, met, shown)}
    for name, told in _told(np.random.default_rng(0)).items():
        lists[name] = _second_round(recall, dataset, test, met, told)
    code = dataset.action_code(outcome)
    wanted = _of_action(missed, lambda actions: actions == code)
    others = _of_action(missed, lambda actions: (actions != code) & (actions >= 0))
    return {
        outcome: _compared(lists, wanted, test),
        f"not {outcome}": _compared(lists, others, test),
    }


def first_round(
    recall: Recall, dataset: Dataset, split: Split, shown: int
) -> tuple[Histories, Histories]:
    """Returns the targets of each case that a list of `shown` items holds, and those it misses."""
    met, missed = _no_histories(), _no_histories()
    for part, histories, users_B in case_batches(dataset, split, batch=256):
        (rows_BK,) = recall(histories, users_B, [shown])
        starts_B = np.asarray(dataset.offsets)[split.users[part]] + split.lengths[part]
        for rows_K, start, size in zip(rows_BK, starts_B, split.sizes[part], strict=True):
            events = slice(start, start + size)
            rows_T, actions_T = dataset.events[events], _actions(dataset)[events]
            held_T = np.isin(rows_T, rows_K)
            for side, chosen_T in ((met, held_T), (missed, ~held_T)):
                side.append(rows_T[chosen_T])
                _told_to(side).append(actions_T[chosen_T])
    return met, missed


def _told(rng: np.random.Generator) -> dict[str, Actions]:
    """Returns what the network is told of the items that users met, by variant."""

    def of_others(actions: list[IntArray]) -> list[IntArray]:
        ends = np.cumsum([len(own) for own in actions])
        return np.split(rng.permutation(np.concatenate(actions)), ends[:-1])

    return {
        ITEMS: lambda actions: [np.full_like(own, UNKNOWN) for own in actions],
        FEEDBACK: lambda actions: actions,
        SHUFFLED: of_others,
    }


def _second_round(
    recall: Recall, dataset: Dataset, split: Split, met: Histories, told: Actions
) -> NDArray[np.int64]:
    """Returns the lists of histories that go on with the items met: N K."""
    actions = told(_told_to(met))
    lists = []
    for part, histories, users_B in case_batches(dataset, split, batch=256):
        longer = Histories(_joined(histories, met[part]))
        longer.actions = _joined(_told_to(histories), actions[part])
        lists.append(recall(longer, users_B, [max(KS)])[0])
    return np.concatenate(lists)


def _further(
    recall: Recall, dataset: Dataset, split: Split, met: Histories, shown: int
) -> NDArray[np.int64]:
    """Returns the lists of the histories alone, without the items met: N K."""
    rows_NK = np.full((len(split.users), max(KS)), -1)
    for part, histories, users_B in case_batches(dataset, split, batch=256):
        (found_BK,) = recall(histories, users_B, [max(KS) + shown])
        for row_K, found_K, items in zip(rows_NK[part], found_BK, met[part], strict=True):
            left_K = found_K[~np.isin(found_K, items)][: len(row_K)]
            row_K[: len(left_K)] = left_K
    return rows_NK


def _compared(
    lists: dict[str, NDArray[np.int64]], targets: list[IntArray], split: Split
) -> dict[str, Any]:
    """Compares the variants on the cases that have such targets."""
    chosen = np.flatnonzero([len(rows) for rows in targets])
    longest = max((len(targets[case]) for case in chosen), default=1)
    sets_NT = np.full((len(chosen), longest), -1)
    for set_T, case in zip(sets_NT, chosen, strict=True):
        set_T[: len(targets[case])] = targets[case]
    sets_NT = distinct(sets_NT)
    figures: dict[str, CaseValues] = {
        name: {f"recall@{k}": set_recalls(rows_NK[chosen, :k], sets_NT) for k in KS}
        for name, rows_NK in lists.items()
    }
    return compare_variants(figures, ITEMS, split.users[chosen])


def _of_action(
    targets: Histories, wanted: Callable[[IntArray], NDArray[np.bool_]]
) -> list[IntArray]:
    """Returns the targets of each case whose action is a wanted one."""
    told = _told_to(targets)
    return [rows[wanted(actions)] for rows, actions in zip(targets, told, strict=True)]


def _some(targets: Histories, cases: IntArray) -> Histories:
    """Returns the targets of some cases."""
    some = Histories(targets[case] for case in cases)
    some.actions = [_told_to(targets)[case] for case in cases]
    return some


def _joined(first: Sequence[IntArray], second: Sequence[IntArray]) -> list[IntArray]:
    return [np.concatenate(pair) for pair in zip(first, second, strict=True)]


def _no_histories() -> Histories:
    empty = Histories()
    empty.actions = []
    return empty


def _actions(dataset: Dataset) -> IntArray:
    assert dataset.actions is not None  # an outcome is one of them
    return dataset.actions


def _told_to(histories: Histories) -> list[IntArray]:
    assert histories.actions is not None  # their data set has actions
    return histories.actions
