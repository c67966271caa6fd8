"""Exact search of the catalogue on GPUs, without a way back to the host in between.

Shapes: B batch, V catalogue, P items padded, D width, C closed rows (-1: none), F hits.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

GROUP = 64  # items whose best is looked at first
MARGIN = 32  # hits more than wanted that are scored again: 16-bit products misplace near ones
CLOSED, HITS = 64, 128  # of a usual batch: what is compared, and recorded, at start
SCORE_BYTES = 2 << 30  # for the scores of as many users as run together


class Search(Protocol):
    """A way to the best items."""

    recordable: bool
    """Whether a CUDA graph can hold it."""

    def hits(self, interest_BD: Tensor, closed_BC: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """Rows and scores of the best that are not closed, B F each, best first.

        F is `most`, or the catalogue's size if that is less. Where fewer are open, what is left has
        the score -inf, and its rows mean nothing.
        """


class WholeScores:
    """One matrix product over all items; products are of 16 bits on a GPU, hits scored again."""

    recordable = True

    def __init__(self, vectors_VD: Tensor) -> None:
        self._vectors_VD = vectors_VD
        self.items = len(vectors_VD)
        on_gpu = vectors_VD.device.type != "cpu"
        padding = GROUP - self.items % GROUP  # one at least: there, closing changes nothing
        coarse_VD = vectors_VD.half() if on_gpu else vectors_VD
        self._coarse_PD = F.pad(coarse_VD, (0, 0, 0, padding))
        self._together = max(1, SCORE_BYTES // (4 * len(self._coarse_PD)))

    def hits(self, interest_BD: Tensor, closed_BC: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """See `Search`."""
        turns = -(-len(interest_BD) // self._together)
        parts = zip(interest_BD.chunk(turns), closed_BC.chunk(turns), strict=True)
        found = [self._hits(part_BD, part_BC, most) for part_BD, part_BC in parts]
        rows, scores = zip(*found, strict=True)
        return torch.cat(rows), torch.cat(scores)

    def _hits(self, interest_BD: Tensor, closed_BC: Tensor, most: int) -> tuple[Tensor, Tensor]:
        scores_BP = self._product(interest_BD)
        scores_BP[:, self.items :] = -torch.inf
        inside = (closed_BC >= 0) & (closed_BC < self.items)
        scores_BP.scatter_(1, torch.where(inside, closed_BC, self.items), -torch.inf)
        coarse_BF, rows_BF = _best(scores_BP, min(most + MARGIN, self.items))
        rows_BF = rows_BF.clamp(max=self.items - 1)
        exact_BF = exact_scores(rows_BF, interest_BD, self._vectors_VD)
        exact_BF = exact_BF.masked_fill(coarse_BF == -torch.inf, -torch.inf)
        scores_BF, order_BF = exact_BF.sort(dim=1, descending=True, stable=True)
        most = min(most, self.items)
        return rows_BF.gather(1, order_BF)[:, :most], scores_BF[:, :most]

    def _product(self, interest_BD: Tensor) -> Tensor:
        coarse_DP = self._coarse_PD.t()
        if coarse_DP.dtype == interest_BD.dtype:
            return interest_BD @ coarse_DP
        return torch.mm(interest_BD.to(coarse_DP.dtype), coarse_DP, out_dtype=interest_BD.dtype)


def exact_scores(rows_BF: Tensor, interest_BD: Tensor, vectors_VD: Tensor) -> Tensor:
    """Of some items of each user, B F."""
    return torch.bmm(F.embedding(rows_BF, vectors_VD), interest_BD[..., None])[..., 0]


def _best(scores_BP: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The best scores and their columns, B F each: only in the groups whose best are the best."""
    batch, padded = scores_BP.shape
    groups = padded // GROUP
    if groups < 2 * most:
        return scores_BP.topk(most)
    grouped = scores_BP.view(batch, groups, GROUP)
    best_BF = grouped.amax(dim=2).topk(most, sorted=False).indices
    inside = grouped.gather(1, best_BF[..., None].expand(-1, -1, GROUP))
    scores_BF, places_BF = inside.flatten(1).topk(most)
    groups_BF = best_BF.gather(1, places_BF // GROUP)
    return scores_BF, groups_BF * GROUP + places_BF % GROUP


class Shards:
    """A catalogue whose rows are shared out to several GPUs, one range to each.

    The first one holds the whole table besides, from which the network reads.
    """

    recordable = False

    def __init__(self, vectors_VD: Tensor, devices: Sequence[torch.device]) -> None:
        self._items = len(vectors_VD)
        each = -(-self._items // len(devices))
        self._parts = [  # with the row at which each begins
            (first, device, WholeScores(vectors_VD[first : first + each].to(device)))
            for first, device in zip(range(0, self._items, each), devices, strict=False)
        ]

    def hits(self, interest_BD: Tensor, closed_BC: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """See `Search`: the best of every part's best."""
        home = interest_BD.device
        asked = [  # all are asked before the first is waited for
            (first, *part.hits(interest_BD.to(device), closed_BC.to(device) - first, most))
            for first, device, part in self._parts
        ]
        rows = [rows_BF.to(home) + first for first, rows_BF, _ in asked]
        all_BF = torch.cat([scores_BF.to(home) for *_, scores_BF in asked], dim=1)
        scores_BF, places_BF = all_BF.topk(min(most, self._items))
        return torch.cat(rows, dim=1).gather(1, places_BF), scores_BF
