"""Exact search of the catalogue on GPUs, without a way back to the host in between.

Shapes: B batch, V catalogue, P items padded, D width, C closed rows (-1: none), F hits.
"""

import logging
import time
from collections.abc import Sequence
from typing import Any, Protocol

import faiss
import torch
from torch import Tensor
from torch.nn import functional as F

log = logging.getLogger(__name__)

_gpu_part: Any = faiss  # the stubs know that of the CPU only

GROUP = 64  # items whose best is looked at first
MARGIN = 32  # hits more than wanted that are scored again: 16-bit products misplace near ones
TRIAL_USERS, TRIAL_CLOSED, TRIAL_HITS = 64, 64, 128  # when searches are compared
FAISS_BYTES = 256 << 20  # of its own temporary memory
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
        on_gpu = vectors_VD.device.type == "cuda"
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
        again_BFD = F.embedding(rows_BF, self._vectors_VD)
        exact_BF = torch.bmm(again_BFD, interest_BD[..., None])[..., 0]
        exact_BF = exact_BF.masked_fill(coarse_BF == -torch.inf, -torch.inf)
        scores_BF, order_BF = exact_BF.sort(dim=1, descending=True, stable=True)
        most = min(most, self.items)
        return rows_BF.gather(1, order_BF)[:, :most], scores_BF[:, :most]

    def _product(self, interest_BD: Tensor) -> Tensor:
        coarse_DP = self._coarse_PD.t()
        if coarse_DP.dtype == interest_BD.dtype:
            return interest_BD @ coarse_DP
        return torch.mm(interest_BD.to(coarse_DP.dtype), coarse_DP, out_dtype=interest_BD.dtype)


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


class FaissFlat:
    """Faiss's exact search, with tensors where they are. It is asked for more than is wanted."""

    recordable = False
    MOST = 2048  # hits that Faiss gives on a GPU

    def __init__(self, vectors_VD: Tensor, otherwise: Search) -> None:
        """`otherwise` searches where more hits are wanted than Faiss can give."""
        self._index: Any = faiss.IndexFlatIP(vectors_VD.shape[1])
        if vectors_VD.device.type == "cuda":
            on = vectors_VD.device.index or 0
            stream = torch.cuda.current_stream(on).cuda_stream
            self._resources = _gpu_part.StandardGpuResources()  # must live as long as the index
            self._resources.setTempMemory(FAISS_BYTES)
            self._resources.setDefaultStream(on, _gpu_part.cast_integer_to_cudastream_t(stream))
            self._index = _gpu_part.index_cpu_to_gpu(self._resources, on, self._index)
        self._index.add_c(len(vectors_VD), _floats(vectors_VD))
        self._items, self._otherwise = len(vectors_VD), otherwise

    def hits(self, interest_BD: Tensor, closed_BC: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """See `Search`."""
        asked = min(most + closed_BC.shape[1], self._items)
        if asked > self.MOST:
            return self._otherwise.hits(interest_BD, closed_BC, most)
        interest_BD = interest_BD.contiguous()
        scores_BF = interest_BD.new_empty(len(interest_BD), asked)
        rows_BF = torch.empty_like(scores_BF, dtype=torch.int64)
        rows_at = faiss.cast_integer_to_idx_t_ptr(rows_BF.data_ptr())
        self._index.search_c(
            len(interest_BD), _floats(interest_BD), asked, _floats(scores_BF), rows_at
        )
        closed_BF = (rows_BF[..., None] == closed_BC[:, None]).any(dim=2)
        scores_BF = scores_BF.masked_fill(closed_BF, -torch.inf)
        scores_BF, order_BF = scores_BF.sort(dim=1, descending=True, stable=True)
        most = min(most, self._items)
        return rows_BF.gather(1, order_BF)[:, :most], scores_BF[:, :most]


def _floats(tensor: Tensor) -> Any:
    """Where Faiss finds the numbers."""
    return faiss.cast_integer_to_float_ptr(tensor.data_ptr())


def fastest_search(vectors_VD: Tensor, devices: Sequence[torch.device]) -> Search:
    """What searches these on the devices: of the two ways on one GPU the one that is faster now."""
    if len(devices) > 1:
        return Shards(vectors_VD, devices)
    whole = WholeScores(vectors_VD)
    if vectors_VD.device.type == "cpu":
        return whole
    if not hasattr(faiss, "StandardGpuResources"):
        log.warning("this Faiss has no GPU part: whole scores are used (the extra `gpu` has one)")
        return whole
    by_faiss = FaissFlat(vectors_VD, otherwise=whole)
    seconds = {search: _seconds(search, vectors_VD) for search in (whole, by_faiss)}
    for search, taken in seconds.items():
        log.info("%s: %.2f ms for %d users", type(search).__name__, 1000 * taken, TRIAL_USERS)
    return min(seconds, key=lambda search: seconds[search])


def _seconds(search: Search, vectors_VD: Tensor) -> float:
    """The least of several searches takes this long; items count as interests."""
    interest_BD = vectors_VD[:TRIAL_USERS]
    closed_BC = torch.full((len(interest_BD), TRIAL_CLOSED), -1, device=vectors_VD.device)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        _, scores_BF = search.hits(interest_BD, closed_BC, TRIAL_HITS)
        scores_BF[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - started)
    return best
