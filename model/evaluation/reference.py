"""Recalls to compare with: the exact one that the service must equal, and popular items.

The rules of a recall are written here once in plain torch and numpy (with `best_new` and `quotas`
of `model.network.rollout`); the service's compiled code is tested against them.

Shapes: B batch, M interests, K candidates, V catalogue, D width, S longest history.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from model.data.dataset import IntArray
from model.evaluation.metrics import Histories, Recall
from model.evaluation.protocols import distinct
from model.network.config import RecallConfig
from model.network.gpt import GPT, WHOLE_HISTORY, evaluating
from model.network.rollout import quotas, rollout
from model.network.tokens import Feedback, OlderItems
from model.network.top_items import best_rows


class InterestLists(NamedTuple):
    """Each interest's own best items, best first."""

    scores_BMK: NDArray[np.float32]
    rows_BMK: NDArray[np.int64]
    """-1: no item, behind all others."""
    interests_BMD: NDArray[np.float32]


def interest_lists(
    model: GPT,
    histories: Sequence[IntArray],
    users_B: IntArray,
    interests: int,
    k: int,
    wanted: int = -1,
    repeats: bool = False,
    avoided: int = -1,
    guidance: float = 0.0,
) -> InterestLists:
    """Rolls out M interests and lists the k best items of each, seen ones only with `repeats`.

    `wanted` is the action that the next item shall get, for networks that read outcomes; with
    `guidance`, `avoided` is the one that it shall not get.
    Real offers that the histories come with are made before generated ones.
    One rollout serves lists of every length and of fewer interests: what is offered does not depend
    on how a list is shared, and the first interests of a longer rollout are those of a shorter one.
    """
    device = model.items.weight.device
    history_BL, lengths_B = pad(histories, model.config.max_history)
    seen_BS = torch.from_numpy(_repeated(histories)).to(device)[:, : 0 if repeats else None]
    real_BM = histories.offers_BM if isinstance(histories, Histories) else None
    feedback = None
    if model.config.feedback != "none":
        longest = model.config.max_history
        feedback = feedback_of(histories, longest, wanted, avoided).to(device)
    depth = max(k, interests)  # an offer may be the last of as many items as interests
    with torch.no_grad():
        table_VD = model.item_vectors()
    with evaluating(model):
        found = rollout(
            model,
            torch.from_numpy(history_BL).to(device),
            torch.from_numpy(lengths_B).to(device),
            torch.from_numpy(users_B.astype(np.int64)).to(device),
            interests,
            lambda interest_BD: best_rows(interest_BD, table_VD, seen_BS, depth),
            feedback,
            older_items(histories, model.config.max_history).to(device),
            guidance,
            None if real_BM is None else torch.from_numpy(real_BM).to(device),
        )
    scores_BMK, rows_BMK = found.scores_BMK[..., :k], found.rows_BMK[..., :k]
    rows_BMK = rows_BMK.masked_fill(scores_BMK == -torch.inf, -1)
    found_on_host = (part.cpu().numpy() for part in (scores_BMK, rows_BMK, found.interests_BMD))
    return InterestLists(*found_on_host)


def feedback_of(
    histories: Sequence[IntArray], max_history: int, wanted: int, avoided: int = -1
) -> Feedback:
    """Returns the feedback in the newest items of histories; no action is known of a plain list.

    The outcome at an item is the action that the item after it got; at the last it is `wanted`, or
    `avoided` for the interests that guided ones move away from.
    """
    told = histories.actions if isinstance(histories, Histories) else None
    unknown = [np.full(len(history), -1) for history in histories]
    actions_BL, lengths_B = pad(unknown if told is None else told, max_history)
    outcomes_BL = np.roll(actions_BL, -1, axis=1)
    avoided_BL = outcomes_BL.copy()
    last = np.arange(len(lengths_B)), lengths_B - 1
    outcomes_BL[last], avoided_BL[last] = wanted, avoided
    return Feedback(*map(torch.from_numpy, (actions_BL, outcomes_BL, avoided_BL)))


def older_items(histories: Sequence[IntArray], max_history: int) -> OlderItems:
    """Returns the items of histories before the newest that the network reads one by one."""
    older = [history[-WHOLE_HISTORY:-max_history] for history in histories]
    history_N = np.repeat(np.arange(len(older)), list(map(len, older)))
    rows_N = np.concatenate(older).astype(np.int64)
    return OlderItems(torch.from_numpy(rows_N), torch.from_numpy(history_N))


def merge_by_quotas(rows_BMK: IntArray, quotas_M: Sequence[int]) -> IntArray:
    """Takes from each interest in turn its best items that no earlier interest gave.

    Returns where each candidate stands in its user's lists, B sum(quotas): interest times K plus
    place, -1 where an interest has run out of items. Exact if the lists are as long as the merged
    one.
    """
    batch, _, depth = rows_BMK.shape
    positions_BK = np.full((batch, sum(quotas_M)), -1, dtype=np.int64)
    start = 0
    for interest, quota in enumerate(quotas_M):
        rows_BK = rows_BMK[:, interest]
        given_BK = at_positions(rows_BMK, positions_BK[:, :start], -1)
        new_BK = (rows_BK >= 0) & ~(rows_BK[:, :, None] == given_BK[:, None]).any(axis=2)
        places_BK = new_BK.cumsum(axis=1) - 1
        user, place = np.nonzero(new_BK & (places_BK < quota))
        positions_BK[user, start + places_BK[user, place]] = interest * depth + place
        start += quota
    return positions_BK


def merge_by_probability(
    lists: InterestLists, table_VD: NDArray[np.float32], weights_M: NDArray[np.float64], k: int
) -> NDArray[np.int64]:
    """Returns the k rows of highest mean probability, best first, B k; -1: no item.

    The candidates are the k best of every interest. Each interest gives each of them the
    probability of a softmax over all candidates, and `weights_M` weigh the interests.
    """
    rows_BN = lists.rows_BMK[..., :k].reshape(len(lists.rows_BMK), -1)
    rows_BN = distinct(rows_BN)
    logits_BMN = np.einsum("bmd,bnd->bmn", lists.interests_BMD, table_VD[rows_BN])
    logits_BMN = np.where(rows_BN[:, None] >= 0, logits_BMN, -np.inf)
    odds_BMN = np.exp(logits_BMN - logits_BMN.max(axis=2, keepdims=True))
    shares_BMN = odds_BMN / odds_BMN.sum(axis=2, keepdims=True)
    mean_BN = np.where(rows_BN >= 0, np.einsum("m,bmn->bn", weights_M, shares_BMN), -1)
    best_BK = np.argsort(-mean_BN, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(rows_BN, best_BK, axis=1)


def interest_weights(interests: int, recall: RecallConfig) -> NDArray[np.float64]:
    """Returns the weights of the interests in a mean; their sum is 1.

    They are the recall's own, or its first share and equal ones behind it, if it has none, or fewer
    than there are interests, or only zeros for these.
    """
    own_M = np.array(recall.weights[:interests])
    if len(own_M) == interests and own_M.sum() > 0:
        shares_M: NDArray[np.float64] = own_M / own_M.sum()
        return shares_M
    rest = (1 - recall.first_share) / max(1, interests - 1)
    return np.array([1.0 if interests == 1 else recall.first_share] + [rest] * (interests - 1))


def at_positions(values_BMK: NDArray[Any], positions_BK: IntArray, missing: float) -> NDArray[Any]:
    """Returns rows or scores of merged lists, B K; `missing` where the position is -1."""
    flat_BN = values_BMK.reshape(len(values_BMK), -1)
    found_BK = np.take_along_axis(flat_BN, np.maximum(positions_BK, 0), axis=1)
    return np.where(positions_BK >= 0, found_BK, values_BMK.dtype.type(missing))


@dataclass(frozen=True)
class DenseRecall:
    """The reference recall: every item scored, seen items masked unless they may be repeated.

    The service must equal it.

    Training validates with it, and its test figures are the trainer's own.
    """

    model: GPT
    config: RecallConfig
    wanted: int = -1
    """See `interest_lists`."""
    repeats: bool = False
    avoided: int = -1

    def __call__(
        self, histories: Sequence[IntArray], users_B: IntArray, ks: Sequence[int]
    ) -> list[IntArray]:
        """See `Recall`."""
        interests, first_share = self.config.interests, self.config.first_share
        lists = self.lists(histories, users_B, max(ks))
        if self.config.merge == "probability" and interests > 1:
            with torch.no_grad():
                table_VD = self.model.item_vectors().cpu().numpy()
            weights_M = interest_weights(interests, self.config)
            return [merge_by_probability(lists, table_VD, weights_M, k) for k in ks]
        rows_BMK = lists.rows_BMK
        merged = (merge_by_quotas(rows_BMK, quotas(k, interests, first_share)) for k in ks)
        return [at_positions(rows_BMK, positions_BK, -1) for positions_BK in merged]

    def lists(self, histories: Sequence[IntArray], users_B: IntArray, k: int) -> InterestLists:
        """Returns the k best items of each interest, before they are merged."""
        return interest_lists(
            self.model,
            histories,
            users_B,
            self.config.interests,
            k,
            self.wanted,
            self.repeats,
            self.avoided,
            self.config.guidance,
        )


def popular_recall(counts_V: NDArray[np.int64], repeats: bool = False) -> Recall:
    """Returns the baseline that recalls the most popular items, ties by row.

    Seen items are recalled only with `repeats`.
    """
    order_V = np.argsort(-counts_V, kind="stable")

    def recall(
        histories: Sequence[IntArray], users_B: IntArray, ks: Sequence[int]
    ) -> list[IntArray]:
        k = max(ks)
        rows_BK = np.full((len(histories), k), -1, dtype=np.int64)
        for row_K, history in zip(rows_BK, histories, strict=True):
            first = order_V[: k + len(history)]
            given = first[:k] if repeats else first[~np.isin(first, history)][:k]
            row_K[: len(given)] = given
        return [rows_BK[:, :k] for k in ks]

    return recall


def pad(
    histories: Sequence[IntArray | list[int]], max_history: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the newest items of each history, padded on the right: rows B L and lengths B."""
    newest = [history[-max_history:] for history in histories]
    lengths_B = np.array([len(history) for history in newest], dtype=np.int64)
    real_BL = np.arange(lengths_B.max(initial=1)) < lengths_B[:, None]
    history_BL = np.zeros(real_BL.shape, dtype=np.int64)
    history_BL[real_BL] = np.concatenate(newest)
    return history_BL, lengths_B


def _repeated(histories: Sequence[IntArray]) -> NDArray[np.int64]:
    """Whole histories, each filled up to the longest with its own first item: B S."""
    lengths_B = np.array([len(history) for history in histories])
    slots_S = np.arange(lengths_B.max())
    firsts_B = np.cumsum(lengths_B) - lengths_B
    picked_BS = firsts_B[:, None] + np.where(slots_S < lengths_B[:, None], slots_S, 0)
    rows_BS: NDArray[np.int64] = np.concatenate(histories).astype(np.int64)[picked_BS]
    return rows_BS
