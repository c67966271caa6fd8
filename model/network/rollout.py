"""From a history to several interests, one after another (docs/method.md, section 4).

Shapes: B batch, L length, M interests, D width, K items found per interest.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from model.network.gpt import GPT, Feedback, OlderItems

Search = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Takes the interests of one step (B D); returns scores and rows (B K each) of the best items
outside each history, best first. K is at least M, or all there are; a score of -inf: no item."""


class Rollout(NamedTuple):
    """The interests of a batch of histories, and what was found with each."""

    interests_BMD: Tensor
    scores_BMK: Tensor
    rows_BMK: Tensor
    offers_BM: Tensor
    """After each interest, the best item that is neither in the history nor offered before."""


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
) -> Rollout:
    """Generates interests auto-regressively; one search per interest finds candidates and offer.

    The model must be in evaluation mode. `users_B` holds user rows, -1 for an unknown user.
    """
    interest_BD, cache = model.prefill(history_BL, lengths_B, users_B, feedback, older)
    offers_BM = torch.zeros(len(lengths_B), 0, dtype=torch.int64, device=lengths_B.device)
    found = []
    for step in range(interests):
        if step:
            interest_BD = model.step(offers_BM[:, -1], cache)
        scores_BK, rows_BK = search(interest_BD)
        found.append((interest_BD, scores_BK, rows_BK))
        offers_BM = torch.cat([offers_BM, best_new(scores_BK, rows_BK, offers_BM)], dim=1)
    interests_BMD, scores_BMK, rows_BMK = (
        torch.stack(parts, dim=1) for parts in zip(*found, strict=True)
    )
    return Rollout(interests_BMD, scores_BMK, rows_BMK, offers_BM)


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
