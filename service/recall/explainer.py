"""The steps behind an answer: each interest's own hits, the offers, and related history.

They are computed again by the network in torch, exactly and for one query at a time, so that a
plain recall does nothing for them. Where the index is approximate, a hit may be listed here that a
recall misses.

Shapes: L items of the history that the network reads, N excluded items, K candidates, M interests,
D width, F hits listed for each interest, O real offers.
"""

import numpy as np
import torch
from torch.nn.functional import normalize

from model.evaluation.reference import older_items
from model.network.gpt import GPT
from model.network.rollout import rollout
from model.network.tokens import Feedback
from model.network.top_items import best_rows
from service.recall.item_ids import ItemIds
from service.recall.query_batch import BatchFeedback
from service.recall.types import ExplainedItem, Explanation, Floats, Ints

SHOWN = 10
"""Hits that are listed for each interest."""
RELATED = 3
"""Items of the history that are named for each candidate."""


class Explainer:
    """Explains answers of a bundle, from one thread at a time."""

    def __init__(self, model: GPT, ids: ItemIds) -> None:
        """Takes a network in evaluation mode on any device, and the ids of its items."""
        self._model = model
        self._ids = ids

    def explain(
        self,
        user: int,
        history_L: Ints,
        whole_N: Ints,
        excluded_N: Ints,
        rows_K: Ints,
        interests: int,
        feedback: BatchFeedback | None = None,
        guidance: float = 0.0,
        real_1O: Ints | None = None,
    ) -> Explanation:
        """Returns the steps that led a query to these candidates; no step without a history.

        `user` is a row of the user table, -1 if unknown; `whole_N` is the history with its older
        items; `real_1O` are real offers.
        """
        if not len(history_L):
            return Explanation([], [], [], [[] for _ in rows_K])
        vectors_VD = self._model.items.weight
        device = vectors_VD.device
        excluded_1N = torch.from_numpy(excluded_N).to(device)[None]
        found = rollout(
            self._model,
            torch.from_numpy(history_L).to(device)[None],
            torch.tensor([len(history_L)], device=device),
            torch.tensor([user], device=device),
            interests,
            lambda interest_1D: best_rows(interest_1D, vectors_VD, excluded_1N, SHOWN),
            feedback and _tensors(feedback).to(device),
            older_items([whole_N], len(history_L)).to(device),
            guidance,
            None if real_1O is None else torch.from_numpy(real_1O).to(device),
        )
        scores_MF = found.scores_BMK[0].cpu().numpy()
        rows_MF = found.rows_BMK[0].cpu().numpy()
        return Explanation(
            history=self._items(history_L, np.zeros(len(history_L), np.float32)),
            interests=[
                self._items(rows_F[np.isfinite(scores_F)], scores_F[np.isfinite(scores_F)])
                for rows_F, scores_F in zip(rows_MF, scores_MF, strict=True)
            ],
            offers=self._ids.ids_of(found.offers_BM[0, :-1].tolist()),
            related=self._related(rows_K, history_L),
        )

    def _items(self, rows_F: Ints, scores_F: Floats) -> list[ExplainedItem]:
        rows = rows_F.tolist()
        scores = [round(score, 6) for score in scores_F.tolist()]
        return list(map(ExplainedItem, rows, self._ids.ids_of(rows), scores))

    def _related(self, rows_K: Ints, history_L: Ints) -> list[list[str]]:
        """Returns for each candidate the ids of the history with the largest cosines."""
        distinct_L = np.unique(history_L)
        vectors_VD = self._model.items.weight
        device = vectors_VD.device
        hits_KD = normalize(vectors_VD[torch.from_numpy(rows_K).to(device)])
        history_LD = normalize(vectors_VD[torch.from_numpy(distinct_L).to(device)])
        nearest_KR = (hits_KD @ history_LD.T).topk(min(RELATED, len(distinct_L))).indices
        rows_KR = distinct_L[nearest_KR.cpu().numpy()]
        return [self._ids.ids_of(rows_R) for rows_R in rows_KR.tolist()]


def _tensors(feedback: BatchFeedback) -> Feedback:
    """Returns the feedback of a batch of one query, 1 L."""
    actions_1L = torch.from_numpy(feedback.actions_S[None])
    outcomes_1L = torch.from_numpy(feedback.outcomes_S[None])
    avoided_S = feedback.avoided_S
    avoided_1L = None if avoided_S is None else torch.from_numpy(avoided_S[None])
    return Feedback(actions_1L, outcomes_1L, avoided_1L)
