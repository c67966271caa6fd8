"""The worth of inputs: the same test cases with other actions, wanted outcomes and users.

An input that matters must cost something when it is wrong: actions in another order, another wanted
outcome, the mean of somebody else's history or their row of the user table, or the impressions that
somebody else did not take.

Shapes: B batch, L length, D width, N cases, M real offers.
"""

from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from model.data.dataset import Dataset, IntArray
from model.evaluation.metrics import Histories, measure_cases
from model.evaluation.protocols import Split, by_outcome, splits
from model.evaluation.reference import DenseRecall
from model.network.gpt import GPT
from model.reports.variants import compare_variants
from model.training.run import load_run, reference_recall

AS_IT_IS = "as it is"
GUIDED_BY = (0.1, 0.25, 0.5)
SETS_AT = (20, 100)
Actions = Callable[[NDArray[np.integer[Any]]], NDArray[np.integer[Any]]]
Means = Callable[[Tensor], Tensor]
Users = Callable[[IntArray], IntArray]
RealOffers = Callable[[NDArray[np.int64]], NDArray[np.int64]]


@dataclass(frozen=True)
class Variant:
    """A change of the inputs."""

    recall: DenseRecall
    actions: Actions | None = None
    means: Means | None = None
    users: Users | None = None
    offers: RealOffers | None = None

    def __call__(
        self, histories: Sequence[IntArray], users_B: IntArray, ks: Sequence[int]
    ) -> list[IntArray]:
        """See `Recall`."""
        if isinstance(histories, Histories):
            if self.actions and histories.actions is not None:
                histories.actions = [self.actions(actions) for actions in histories.actions]
            if self.offers and histories.offers_BM is not None:
                histories.offers_BM = self.offers(histories.offers_BM)
        users_B = self.users(users_B) if self.users else users_B
        with _changed_means(self.recall.model, self.means):
            return self.recall(histories, users_B, ks)


@contextmanager
def _changed_means(model: GPT, change: Means | None) -> Iterator[None]:
    """Changes the means of histories that the network takes."""
    if change is None:
        yield
        return
    own = model.history_means
    model.history_means = lambda *given: change(own(*given))  # type: ignore[method-assign]
    try:
        yield
    finally:
        del model.history_means


def measure_inputs(run: Path, part: Literal["validation", "test"] = "test") -> dict[str, Any]:
    """Measures a run's network on a split with its inputs changed, one after another.

    Returns for each group of cases {"cases", "variants": {name: {metric: {"value", "relative",
    "low", "high"}}}}: differences to the network as it is, relative to it, with 95 % intervals. The
    groups are the cases whose next item got the wanted outcome and the others, if one is wanted.

    Raises ValueError if the network reads nothing but items.
    """
    config, dataset, model = load_run(run)
    recall = reference_recall(config, dataset, model)
    variants = _variants(recall, dataset)
    if len(variants) == 1:
        raise ValueError(
            f"{run}: the network reads items only: train one with --model.feedback, "
            "--model.user-mean or --model.user-rank, or with several interests on data with real "
            "offers"
        )
    parts, outcome = splits(dataset, config.protocol), config.recall.outcome
    split = parts.test if part == "test" else parts.validation
    groups = {"all": split}
    if outcome is not None:
        groups = dict(
            zip((outcome, f"not {outcome}"), by_outcome(dataset, split, outcome), strict=True)
        )
    return {name: _measured(variants, dataset, part) for name, part in groups.items()}


def _variants(recall: DenseRecall, dataset: Dataset) -> dict[str, Variant]:
    config = recall.model.config
    found = {AS_IT_IS: Variant(recall)}
    if config.feedback == "outcome":
        asked = {f"asked for {name}": code for code, name in enumerate(dataset.action_names)}
        asked["asked for nothing"] = -1
        for name, code in asked.items():
            if code != recall.wanted:
                found[name] = Variant(replace(recall, wanted=code))
        found |= _guided(recall, dataset)
    if config.feedback != "none":
        rng = np.random.default_rng(0)
        found["told actions in another order"] = Variant(recall, rng.permutation)
        found["told no actions"] = Variant(recall, lambda actions: np.full_like(actions, -1))
    if config.user_mean:
        found["another user's mean"] = Variant(
            recall, means=lambda means_BLD: means_BLD.roll(_half(means_BLD), dims=0)
        )
        found["no mean"] = Variant(recall, means=lambda means_BLD: means_BLD * 0)
    if config.user_rank:
        found["another user's row"] = Variant(
            recall, users=lambda users_B: np.roll(users_B, _half(users_B))
        )
        found["no row"] = Variant(recall, users=lambda users_B: np.full_like(users_B, -1))
    if dataset.offers is not None and recall.config.interests > 1:
        found["another user's real offers"] = Variant(
            recall, offers=lambda real_BM: np.roll(real_BM, _half(real_BM), axis=0)
        )
        found["generated offers only"] = Variant(
            recall, offers=lambda real_BM: np.full_like(real_BM, -1)
        )
    return found


def _guided(recall: DenseRecall, dataset: Dataset) -> dict[str, Variant]:
    """Variants with more and less guidance, away from each action but the wanted one."""
    found = {}
    avoided = set(range(len(dataset.action_names))) - {recall.wanted}
    for weight in (0.0, *GUIDED_BY):
        settings = recall.config.model_copy(update={"guidance": weight})
        if weight == recall.config.guidance or recall.wanted < 0:
            continue
        for code in sorted(avoided if weight else {recall.avoided}):
            name = f"guided by {weight:g} from {dataset.action_names[code]}"
            variant = Variant(replace(recall, config=settings, avoided=code))
            found[name if weight else "without guidance"] = variant
    return found


def _half(cases: Sized) -> int:
    """Returns half the number of cases of a batch: so far away they are of other users."""
    return max(1, len(cases) // 2)


def _measured(variants: dict[str, Variant], dataset: Dataset, split: Split) -> dict[str, Any]:
    figures = {name: _figures(one, dataset, split) for name, one in variants.items()}
    return compare_variants(figures, AS_IT_IS, split.users)


def _figures(recall: Variant, dataset: Dataset, split: Split) -> dict[str, NDArray[np.float64]]:
    found = measure_cases(recall, dataset, split, SETS_AT)
    ranks_N = found.next_ranks_N
    hits_N = ((ranks_N > 0) & (ranks_N <= 10)).astype(float)
    return {"HR@10": hits_N} | {f"recall@{k}": found.set_recalls[k] for k in SETS_AT}
