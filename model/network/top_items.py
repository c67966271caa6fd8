"""The best items for each interest, out of a catalogue of any size in bounded memory.

Shapes: B interests, D width, V catalogue, S excluded items per interest, K candidates.
"""

import torch
from torch import Tensor

SCORES_AT_ONCE = 8 << 20
"""Interests times items: 32 MB of scores. A larger catalogue is scanned in parts."""

MIN_ITEMS = 4096
"""Lower bound of a part's items, for any number of interests."""


@torch.no_grad()
def best_rows(
    interests_BD: Tensor, table_VD: Tensor, excluded_BS: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Returns scores and rows of the k best items that are not excluded: each B K, best first.

    Excluded rows may repeat. If fewer than k items are left, excluded ones follow with a score of
    -inf. K is less than k if the catalogue is.
    """
    size = max(MIN_ITEMS, SCORES_AT_ONCE // max(1, len(interests_BD)))
    scores, rows = [], []
    for start in range(0, len(table_VD), size):
        part = interests_BD @ table_VD[start : start + size].T
        columns_BS = excluded_BS - start
        case, slot = ((columns_BS >= 0) & (columns_BS < part.shape[1])).nonzero(as_tuple=True)
        part[case, columns_BS[case, slot]] = -torch.inf
        top = part.topk(min(k, part.shape[1]), dim=1)
        scores.append(top.values)
        rows.append(top.indices + start)
    if len(scores) == 1:
        return scores[0], rows[0]
    top = torch.cat(scores, dim=1).topk(min(k, len(table_VD)), dim=1)
    return top.values, torch.cat(rows, dim=1).gather(1, top.indices)
