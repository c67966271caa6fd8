"""Faiss's searches on a GPU, exact or by lists, with tensors where they are.

They are asked for more than is wanted, because Faiss cannot know what is closed.

Shapes: B batch, V catalogue, D width, C closed rows (-1: none), F hits.
"""

import math
from typing import Any

import faiss
import torch
from torch import Tensor

from index.formats import LIST_SAMPLE, count_of_lists
from service.recall.gpu.search import HITS, Search, exact_scores

_gpu_part: Any = faiss  # the stubs know that of the CPU only

FAISS_BYTES = 256 << 20  # of its own temporary memory
MOST = 2048  # hits, and lists, that Faiss takes on a GPU


class _Faiss:
    """What its searches have in common."""

    recordable = False

    def __init__(self, empty: Any, vectors_VD: Tensor, otherwise: Search) -> None:
        """`otherwise` searches where more hits are wanted than Faiss can give."""
        self._vectors_VD, self._items, self._otherwise = vectors_VD, len(vectors_VD), otherwise
        self._index, self._resources = _on_device(empty, vectors_VD.device)

    def hits(self, interest_BD: Tensor, closed_BC: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """See `service.recall.gpu.search.Search`."""
        asked = min(most + closed_BC.shape[1], self._items)
        if asked > MOST:
            return self._otherwise.hits(interest_BD, closed_BC, most)
        rows_BF, scores_BF = self._find(interest_BD.contiguous(), asked)
        closed_BF = (rows_BF[..., None] == closed_BC[:, None]).any(dim=2)
        scores_BF = scores_BF.masked_fill(closed_BF, -torch.inf)
        scores_BF, order_BF = scores_BF.sort(dim=1, descending=True, stable=True)
        most = min(most, self._items)
        return rows_BF.gather(1, order_BF)[:, :most], scores_BF[:, :most]

    def _find(self, interest_BD: Tensor, asked: int) -> tuple[Tensor, Tensor]:
        scores_BF = interest_BD.new_empty(len(interest_BD), asked)
        rows_BF = torch.empty_like(scores_BF, dtype=torch.int64)
        rows_at = faiss.cast_integer_to_idx_t_ptr(rows_BF.data_ptr())
        self._index.search_c(
            len(interest_BD), _floats(interest_BD), asked, _floats(scores_BF), rows_at
        )
        return rows_BF, scores_BF


class FaissFlat(_Faiss):
    """Its exact search."""

    def __init__(self, vectors_VD: Tensor, otherwise: Search) -> None:
        super().__init__(faiss.IndexFlatIP(vectors_VD.shape[1]), vectors_VD, otherwise)
        self._index.add_c(self._items, _floats(vectors_VD))


class FaissLists(_Faiss):
    """Items in lists by their nearest centroid, in 16 bits; hits are scored again.

    As many lists are searched as find the wanted share of the exact hits: `recall` was found.
    """

    def __init__(
        self, vectors_VD: Tensor, otherwise: Search, queries_BD: Tensor, target: float
    ) -> None:
        """`otherwise` is exact: it is what the share is of."""
        items, width = vectors_VD.shape
        lists = count_of_lists(items)
        index: Any = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatIP(width),
            width,
            lists,
            faiss.ScalarQuantizer.QT_fp16,
            faiss.METRIC_INNER_PRODUCT,
            False,  # codes of items, not of what is left beside the centroid
        )
        super().__init__(index, vectors_VD, otherwise)
        drawn = torch.randperm(items, generator=torch.Generator().manual_seed(0))
        sample_ND = vectors_VD[drawn[: LIST_SAMPLE * lists].to(vectors_VD.device)]
        self._index.train_c(len(sample_ND), _floats(sample_ND))
        self._index.add_c(items, _floats(vectors_VD))
        self._choose(queries_BD, target)

    def _choose(self, queries_BD: Tensor, target: float) -> None:
        """The least power of two of lists that finds enough, and holds enough items."""
        closed_B1 = torch.full((len(queries_BD), 1), -1, device=queries_BD.device)
        self._hits = min(self._items, HITS)  # more of them take more lists
        exact_BF, _ = self._otherwise.hits(queries_BD, closed_B1, self._hits)
        lists = int(self._index.nlist)
        self._lists = min(lists, 1 << math.ceil(math.log2(1 + 4 * MOST * lists / self._items)))
        while True:
            rows_BF, _ = self.hits(queries_BD, closed_B1, self._hits)
            found_BF = (rows_BF[..., None] == exact_BF[:, None]).any(dim=2)
            self.recall = float(found_BF.float().mean())
            if self.recall >= target or self._lists == min(lists, MOST):
                return
            self._lists = min(2 * self._lists, lists, MOST)

    def _find(self, interest_BD: Tensor, asked: int) -> tuple[Tensor, Tensor]:
        times = max(1.0, asked / self._hits)
        self._index.nprobe = min(math.ceil(self._lists * times), int(self._index.nlist), MOST)
        rows_BF, _ = super()._find(interest_BD, asked)
        scores_BF = exact_scores(rows_BF.clamp(min=0), interest_BD, self._vectors_VD)
        return rows_BF, scores_BF.masked_fill(rows_BF < 0, -torch.inf)  # its lists held no more


def _on_device(index: Any, device: torch.device) -> tuple[Any, Any]:
    """The index there, on torch's stream; and what must live as long."""
    if device.type == "cpu":
        return index, None
    on = device.index or 0
    stream = torch.cuda.current_stream(on).cuda_stream
    resources = _gpu_part.StandardGpuResources()
    resources.setTempMemory(FAISS_BYTES)
    resources.setDefaultStream(on, _gpu_part.cast_integer_to_cudastream_t(stream))
    return _gpu_part.index_cpu_to_gpu(resources, on, index), resources


def _floats(tensor: Tensor) -> Any:
    """Where Faiss finds the numbers. Keep the tensor: the pointer does not."""
    return faiss.cast_integer_to_float_ptr(tensor.data_ptr())
