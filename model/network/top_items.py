"""The best items for each interest, out of a catalogue of any size in bounded memory.

Shapes: B interests, D width, V catalogue, S closed items an interest, K candidates.
"""

import torch
from torch import Tensor

SCORES_AT_ONCE = 8 << 20
"""Interests times items: 32 MB of scores. A larger catalogue is scanned in parts."""

LEAST_ITEMS = 4096
"""Of a part, however many interests there are."""


@torch.no_grad()
def best_rows(
    interests_BD: Tensor, table_VD: Tensor, closed_BS: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Scores and rows of the k best items that are not closed: each B K, best first.

    Closed rows may repeat. Where fewer than k are open, closed ones follow with a score of -inf;
    K is less than k where the catalogue is.
    """
    size = max(LEAST_ITEMS, SCORES_AT_ONCE // max(1, len(interests_BD)))
    scores, rows = [], []
    for start in range(0, len(table_VD), size):
        part = interests_BD @ table_VD[start : start + size].T
        places_BS = closed_BS - start
        case, slot = ((places_BS >= 0) & (places_BS < part.shape[1])).nonzero(as_tuple=True)
        part[case, places_BS[case, slot]] = -torch.inf
        top = part.topk(min(k, part.shape[1]), dim=1)
        scores.append(top.values)
        rows.append(top.indices + start)
    if len(scores) == 1:
        return scores[0], rows[0]
    top = torch.cat(scores, dim=1).topk(min(k, len(table_VD)), dim=1)
    return top.values, torch.cat(rows, dim=1).gather(1, top.indices)
