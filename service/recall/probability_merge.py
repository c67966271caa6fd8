"""Lists that are merged by the mean probability of their items over the interests.

Each interest lists its k best items. It gives each item of the united lists the probability of a
softmax over all of these, and the weighted mean of the probabilities ranks them. In torch:
`model.evaluation.reference.merge_by_probability`.

Shapes: B queries of the batch, W of them with a history, M interests, K candidates of a list, N
items of the united lists of a query, V catalogue, D width.
"""

import numpy as np
from numpy.typing import NDArray

from model.evaluation.reference import interest_weights
from model.network.config import RecallConfig
from service.recall.candidate_lists import CandidateLists
from service.recall.query_batch import Step
from service.recall.types import Floats, Ints


class ProbabilityMerge:
    """Collects the list of every interest, then merges them."""

    def __init__(self, vectors_VD: Floats, recall: RecallConfig) -> None:
        """Takes the item vectors, and the bundle's recall, which weighs the interests."""
        self._vectors_VD = vectors_VD
        self._recall = recall
        self._steps: list[tuple[Step, Floats, CandidateLists]] = []

    def list_of(self, step: Step, interests_WD: Floats, merged: CandidateLists) -> CandidateLists:
        """Returns an empty list for the hits of this step; offers are those of all steps."""
        own = merged._replace(
            scores_BK=np.empty_like(merged.scores_BK),
            rows_BK=np.empty_like(merged.rows_BK),
            interests_BK=np.empty_like(merged.interests_BK),
            sizes_B=np.zeros_like(merged.sizes_B),
        )
        self._steps.append((step, interests_WD, own))
        return own

    def finish(self, merged: CandidateLists) -> None:
        """Fills the merged list of every query that had a step."""
        if not self._steps:
            return
        for at, query in enumerate(self._steps[0][0].queries_W.tolist()):
            asked = [one for one in self._steps if one[0].quotas_W[at]]
            rows_N = _united([own.rows_BK[query, : own.sizes_B[query]] for _, _, own in asked])
            interests_MD = np.stack([interests_WD[at] for _, interests_WD, _ in asked])
            logits_MN = interests_MD @ self._vectors_VD[rows_N].T
            shares_MN = _softmax(logits_MN)
            shares_MN *= interest_weights(len(asked), self._recall)[:, None]
            best_K = np.argsort(-shares_MN.sum(axis=0), kind="stable")[: merged.k_B[query]]
            most_K = shares_MN[:, best_K].argmax(axis=0)
            merged.sizes_B[query] = size = len(best_K)
            merged.rows_BK[query, :size] = rows_N[best_K]
            merged.interests_BK[query, :size] = most_K
            merged.scores_BK[query, :size] = logits_MN[most_K, best_K]


def _united(lists: list[Ints]) -> Ints:
    """Returns the items of all lists, each once, in the order in which they come first."""
    rows_N = np.concatenate(lists)
    _, first = np.unique(rows_N, return_index=True)
    united_N: Ints = rows_N[np.sort(first)]
    return united_N


def _softmax(logits_MN: Floats) -> NDArray[np.float64]:
    if not logits_MN.size:
        return np.zeros(logits_MN.shape)
    odds_MN = np.exp(logits_MN.astype(np.float64) - logits_MN.max(axis=1, keepdims=True))
    shares_MN: NDArray[np.float64] = odds_MN / odds_MN.sum(axis=1, keepdims=True)
    return shares_MN
