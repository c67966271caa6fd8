"""Recalls to compare with: the exact one that the service must equal, and popular items.

Shapes: B batch, K candidates, V catalogue, D width, S longest history.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.data.dataset import IntArray
from model.evaluation.metrics import Recall
from model.network.config import RecallConfig
from model.network.gpt import GPT, evaluating
from model.network.rollout import quotas, rollout
from model.network.top_items import best_rows


@dataclass(frozen=True)
class DenseRecall:
    """The reference recall: every score computed, seen items masked. What the service must equal.

    Used for validation while training, and as the trainer's own figure after it.
    """

    model: GPT
    config: RecallConfig

    def __call__(self, histories: Sequence[IntArray], users_B: IntArray, k: int) -> IntArray:
        """See `Recall`."""
        device = self.model.items.weight.device
        history_BL, lengths_B = pad(histories, self.model.config.max_history)
        seen_BS = torch.from_numpy(_repeated(histories)).to(device)
        closed, offered = [seen_BS], [seen_BS]  # … or recalled already, … or offered already
        shares = iter(quotas(k, self.config.interests, self.config.first_share))
        lists: list[Tensor] = []
        with torch.no_grad():
            table_VD = self.model.item_vectors()

        def search(interest_BD: Tensor) -> Tensor:
            scores, rows = best_rows(interest_BD, table_VD, torch.cat(closed, dim=1), next(shares))
            closed.append(rows)
            lists.append(rows.masked_fill(scores == -torch.inf, -1))
            if len(lists) == self.config.interests:
                return seen_BS[:, 0]  # nothing follows
            _, best_B1 = best_rows(interest_BD, table_VD, torch.cat(offered, dim=1), 1)
            offered.append(best_B1)
            return best_B1[:, 0]

        with evaluating(self.model):
            rollout(
                self.model,
                torch.from_numpy(history_BL).to(device),
                torch.from_numpy(lengths_B).to(device),
                torch.from_numpy(users_B.astype(np.int64)).to(device),
                self.config.interests,
                search,
            )
        return torch.cat(lists, dim=1).cpu().numpy()


def popular_recall(counts_V: NDArray[np.int64]) -> Recall:
    """The baseline: the most popular unseen items, ties by row."""
    order_V = np.argsort(-counts_V, kind="stable")

    def recall(histories: Sequence[IntArray], users_B: IntArray, k: int) -> IntArray:
        rows_BK = np.full((len(histories), k), -1, dtype=np.int64)
        for row_K, history in zip(rows_BK, histories, strict=True):
            first = order_V[: k + len(history)]
            unseen = first[~np.isin(first, history)][:k]
            row_K[: len(unseen)] = unseen
        return rows_BK

    return recall


def pad(
    histories: Sequence[IntArray | list[int]], max_history: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The newest items of each history, padded on the right: rows B L and lengths B."""
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
