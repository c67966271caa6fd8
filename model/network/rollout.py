"""From a history to several interests, one after another (docs/method.md, section 4).

Shapes: B batch, L length, M interests, D width, K items found per interest.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.network.gpt import GPT
from model.network.tokens import Feedback, OlderItems

Vectors = TypeVar("Vectors", Tensor, NDArray[np.float32])

Search = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Takes the interests of one step (B D); returns scores and rows (B K each) of the best items
outside each history, best first. K is at least M, or all there are; a score of -inf: no item."""


class Rollout(NamedTuple):
    """The interests of a batch of histories, and what was found with each."""

    interests_BMD: Tensor
    scores_BMK: Tensor
    rows_BMK: Tensor
    offers_BM: Tensor
    """After each interest, the next real offer, or the best item that is neither in the history nor
    offered before."""


@torch.no_grad()
def rollout(
    model: GPT,
    history_BL: Tensor,
    lengths_B: Tensor,
    users_B: Tensor,
    interests: int,
    search: Search,
    feedback: Feedback | None = None,
    older: OlderItems | None = None,
    guidance: float = 0.0,
    real_BM: Tensor | None = None,
) -> Rollout:
    """Generates interests auto-regressively; one search per interest finds candidates and offer.

    The model must be in evaluation mode. `users_B` holds user rows, -1 for an unknown user. With
    `guidance`, the network reads every history twice, and the interests are `guided`. `real_BM` are
    real offers, the newest first, -1: none; generated ones follow them.
    """
    offers_BM = torch.zeros(len(lengths_B), 0, dtype=torch.int64, device=lengths_B.device)
    if guidance:
        assert feedback is not None
        feedback, older = feedback.and_avoided(), older and older.twice(len(lengths_B))
        history_BL, lengths_B, users_B = (
            torch.cat([part, part]) for part in (history_BL, lengths_B, users_B)
        )
    interest_BD, cache = model.prefill(history_BL, lengths_B, users_B, feedback, older)
    found = []
    for step in range(interests):
        if step:
            newest_B = offers_BM[:, -1]
            newest_B = torch.cat([newest_B, newest_B]) if guidance else newest_B
            interest_BD = model.step(newest_B, cache)
        if guidance:
            interest_BD = guided(interest_BD, guidance)
        scores_BK, rows_BK = search(interest_BD)
        found.append((interest_BD, scores_BK, rows_BK))
        offer_B1 = best_new(scores_BK, rows_BK, offers_BM)
        if real_BM is not None:
            offer_B1 = real_first(real_BM[:, step : step + 1], offer_B1)
        offers_BM = torch.cat([offers_BM, offer_B1], dim=1)
    interests_BMD, scores_BMK, rows_BMK = (
        torch.stack(parts, dim=1) for parts in zip(*found, strict=True)
    )
    return Rollout(interests_BMD, scores_BMK, rows_BMK, offers_BM)


def guided(interests_2BD: Vectors, guidance: float) -> Vectors:
    """Returns the first half, interests for a wanted outcome, moved away from the second: B D."""
    half = len(interests_2BD) // 2
    return (1 + guidance) * interests_2BD[:half] - guidance * interests_2BD[half:]


def real_first(real_B1: Tensor, generated_B1: Tensor) -> Tensor:
    """Returns the real offers of a step, and generated ones where there is none: -1, or no column.

    Makes no decision on the host about a value, so that it can be recorded as a CUDA graph.
    """
    return torch.where(real_B1 >= 0, real_B1, generated_B1) if real_B1.shape[1] else generated_B1


def best_new(scores_BK: Tensor, rows_BK: Tensor, offered_BM: Tensor) -> Tensor:
    """Returns the first item found that was not offered before, B 1; the first of all if none is.

    Makes no decision on the host, so that it can be recorded as a CUDA graph.
    """
    first = slice(offered_BM.shape[1] + 1)  # one more than were offered
    scores_BK, rows_BK = scores_BK[:, first], rows_BK[:, first]
    old_BK = (rows_BK[..., None] == offered_BM[:, None]).any(dim=2) | (scores_BK == -torch.inf)
    return rows_BK.gather(1, old_BK.to(torch.uint8).argmin(dim=1, keepdim=True))


@lru_cache(1024)
def quotas(k: int, interests: int, first_share: float) -> tuple[int, ...]:
    """Returns how many of k candidates each interest gives.

    The first gives its share, rounded up; the others share the rest equally, and what is over goes
    to the earlier ones.

    >>> quotas(20, 2, 0.9)
    (18, 2)
    >>> quotas(100, 4, 0.7)
    (70, 10, 10, 10)
    """
    if interests == 1:
        return (k,)
    first = min(k, math.ceil(k * first_share - 1e-9))  # 0.9 * k may come out a hair too large
    each, extra = divmod(k - first, interests - 1)
    return (first, *(each + (i < extra) for i in range(interests - 1)))
