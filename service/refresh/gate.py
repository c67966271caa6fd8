"""The gate: a new version is published only if its data look sound and it recalls no worse.

Both versions answer the same cases with the service's own recall: the events of the newest days,
which neither was trained on, each with its user's history up to it. If the versions recall items
for an outcome, such as a like, the events are those with that outcome. Events that follow from a
recall are left out, if there are enough others (see `service.refresh.inputs`).

Shapes: n cases.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from pydantic import BaseModel

from model.artifact.bundle import Artifact
from model.data.dataset import Dataset
from model.evaluation.bootstrap import paired_difference
from model.evaluation.config import ProtocolConfig
from model.evaluation.metrics import CaseFigures, measure_cases
from model.evaluation.protocols import Split, splits, with_outcome
from service.offline import service_recall
from service.recall.recaller import Recaller
from service.refresh.config import GateConfig
from service.refresh.inputs import ROW

DEPTH = 100
"""The length of the lists that are compared."""


class Check(BaseModel, frozen=True):
    """A condition of the gate."""

    name: str
    value: float
    bound: float
    """The worst value that passes."""
    passed: bool
    explanation: str
    """A sentence with the figures."""


class Measured(BaseModel, frozen=True):
    """The two versions side by side."""

    cases: int
    only_organic: bool
    """Whether events that follow from a recall are left out."""
    recall: dict[str, float]
    """recall@100 of `served` and `new`."""
    coverage: dict[str, float]
    """The share of all items that the lists of `served` and `new` hold."""
    interval: tuple[float, float] | None
    """The relative difference in recall, with 95 % confidence; None if the served one has none."""


def check_data(
    bounds: GateConfig,
    counts: dict[str, int],
    dataset: Dataset,
    protocol: ProtocolConfig,
    served: Artifact,
    recalled: Path,
) -> list[Check]:
    """Returns the checks of schema and drift, which need no new version.

    They compare the data with the served version's, and count the events to validate and to measure
    with. `recalled` is the file of events that follow from a recall, if there is one.
    """
    known = set(served.items["item_id"].to_list())
    known_V = np.array([item in known for item in dataset.item_ids])
    parts = splits(dataset, protocol)
    outcome = served.manifest.recall.outcome
    cases, _ = _cases(bounds, dataset, parts.test, outcome, recalled)
    validation = with_outcome(dataset, parts.validation, outcome)
    targets = parts.test.targets
    unknown = 1 - float(known_V[targets].mean()) if len(targets) else 1.0
    malformed = counts["malformed"] / counts["rows"]
    lost = 1 - float(known_V.sum()) / len(known)
    return [
        _at_most("readable rows", malformed, bounds.malformed, "of the rows cannot be read"),
        _at_most(
            "known items",
            unknown,
            bounds.unknown_items,
            "of the newest days' events are of items that the served version does not know",
        ),
        _at_most(
            "kept items", lost, bounds.lost_items, "of the served items have no event any more"
        ),
        _at_least("events to measure with", len(cases.users), bounds.min_cases),
        _at_least("events to validate with", len(validation.users), 1),
    ]


def measure(
    bounds: GateConfig,
    dataset: Dataset,
    protocol: ProtocolConfig,
    served: Artifact,
    new: Path,
    recalled: Path,
) -> Measured:
    """Measures the two versions on the newest days, of which there is an event."""
    test, outcome = splits(dataset, protocol).test, served.manifest.recall.outcome
    split, only_organic = _cases(bounds, dataset, test, outcome, recalled)
    found = {
        name: _figures(bundle, dataset, split)
        for name, bundle in (("served", served.folder), ("new", new))
    }
    recalls = {name: one.set_recalls[DEPTH] for name, one in found.items()}
    interval = None
    if recalls["served"].any():
        _, low, high = paired_difference(recalls["new"], recalls["served"], split.users)
        interval = (low, high)
    return Measured(
        cases=len(split.users),
        only_organic=only_organic,
        recall={name: float(recall_n.mean()) for name, recall_n in recalls.items()},
        coverage={name: float(one.covered[DEPTH].mean()) for name, one in found.items()},
        interval=interval,
    )


def check_quality(bounds: GateConfig, measured: Measured) -> list[Check]:
    """Returns the checks of the two versions' figures."""
    return [
        _no_loss(f"recall@{DEPTH}", measured.recall, bounds.recall_loss),
        _no_loss(f"coverage@{DEPTH}", measured.coverage, bounds.coverage_loss),
    ]


def _cases(
    bounds: GateConfig, dataset: Dataset, split: Split, outcome: str | None, recalled: Path
) -> tuple[Split, bool]:
    """Returns the cases to measure, and whether they are organic ones only."""
    split = with_outcome(dataset, split, outcome)
    organic, only = split, True
    if recalled.exists():
        organic = _not_recalled(dataset, split, recalled)
    if len(organic.users) < min(bounds.min_cases, len(split.users)):
        organic, only = split, False
    if len(organic.users) <= bounds.max_cases:
        return organic, only
    chosen = np.random.default_rng(0).choice(len(organic.users), bounds.max_cases, replace=False)
    return organic.at(np.sort(chosen)), only


def _not_recalled(dataset: Dataset, split: Split, recalled: Path) -> Split:
    """Returns the cases whose target is none of these events."""
    assert dataset.times is not None
    targets_n = np.asarray(dataset.offsets)[split.users] + split.lengths
    cases = pl.DataFrame(
        {
            "user_id": [dataset.user_ids[user] for user in split.users],
            "item_id": [dataset.item_ids[item] for item in split.targets],
            "timestamp": dataset.times[targets_n],
        },
        schema={"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64},
    ).with_row_index("case")
    others = cases.lazy().join(pl.scan_parquet(recalled), on=ROW, how="anti").collect()
    return split.at(np.sort(others["case"].to_numpy()))


def _figures(bundle: Path, dataset: Dataset, split: Split) -> CaseFigures:
    recaller = Recaller.load(bundle, "cpu")
    return measure_cases(
        service_recall(recaller, dataset, same_items=False), dataset, split, [DEPTH]
    )


def _at_most(name: str, value: float, bound: float, of_what: str) -> Check:
    return Check(
        name=name,
        value=value,
        bound=bound,
        passed=value <= bound,
        explanation=f"{value:.1%} {of_what}; at most {bound:.1%} may",
    )


def _at_least(name: str, value: int, bound: int) -> Check:
    return Check(
        name=name,
        value=value,
        bound=bound,
        passed=value >= bound,
        explanation=f"{value:,} {name} have a user with a history; {bound:,} are needed",
    )


def _no_loss(name: str, values: dict[str, float], bound: float) -> Check:
    served, new = values["served"], values["new"]
    loss = 1 - new / served if served else 0.0
    return Check(
        name=name,
        value=loss,
        bound=bound,
        passed=loss <= bound,
        explanation=f"{name} is {new:.4f} where the served version has {served:.4f}: "
        f"{-loss:+.1%}, and {-bound:+.1%} is accepted",
    )


def failed(checks: Sequence[Check]) -> list[Check]:
    """Returns the checks that did not pass."""
    return [check for check in checks if not check.passed]
