"""From a history to M interest vectors, auto-regressively (METHOD section 4).

Shapes: B batch, L length, M interests, D width, K candidates.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from model.network.gpt import GPT

Search = Callable[[Tensor], Tensor]
"""Takes the interests of one step (B D); returns the item to append to each history (B, int64):
the best hit that is neither in the history nor appended before. The caller keeps the other hits
as candidates, so that one pass over the catalogue serves both."""


@torch.no_grad()
def rollout(
    model: GPT,
    history_BL: Tensor,
    lengths_B: Tensor,
    users_B: Tensor,
    interests: int,
    search: Search,
) -> Tensor:
    """Interest vectors B M D; `search` is called once an interest, in order.

    The model must be in evaluation mode. `users_B` holds user rows, -1 for an unknown user.
    """
    interest_BD, cache = model.prefill(history_BL, lengths_B, users_B, steps=interests - 1)
    found = [interest_BD]
    for _ in range(interests - 1):
        found.append(model.step(search(found[-1]), cache))
    search(found[-1])
    return torch.stack(found, dim=1)


@lru_cache(1024)
def quotas(k: int, interests: int, first_share: float) -> tuple[int, ...]:
    """How many of k candidates each interest gives: the first its share rounded up, the others
    the rest in equal parts, earlier ones first.

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
