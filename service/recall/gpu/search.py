"""Two ways to search the catalogue on a GPU: a matrix product, and Faiss's index there.

Both keep tensors on the device, so a rollout needs no trip to the host. `--gpu-search` chooses:

product  scores all items by one matrix product, so it is exact. A CUDA graph can hold it.
faiss    the format that the bundle's index.json names, as Faiss has it on a GPU: inverted lists,
         which are approximate, or else exact search. Faiss synchronises inside, so a CUDA graph
         cannot hold it.

Faiss's GPU indexes ignore selectors without an error, so excluded items are never given to it as
one: a search fetches as many more hits as there are excluded items, and drops those afterwards.
Queries with filters are searched by the product, whatever was chosen.

Shapes: B queries, V catalogue, P catalogue with padding, D width, C excluded rows (-1: none),
F fetched or wanted hits, U different filters.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import faiss
import torch
from torch import Tensor
from torch.nn import functional as F

from index.formats import LISTS_FILE, read_index_json
from service.settings import GpuSearch

GROUP = 64  # items whose maximum is looked at first
MARGIN = 32  # hits beyond the wanted ones that are scored again, because float16 misplaces some
SCORE_BYTES = 2 << 30  # for the scores of the queries that are searched together
FAISS_BYTES = 256 << 20  # Faiss's temporary memory
FAISS_MAX_HITS = 2048  # the most hits, and inverted lists, of a query that Faiss takes on a GPU
NPROBE_FACTOR = 1.125  # `index.ivf.search` probes up to an eighth more lists than it is told

_faiss_gpu: Any = faiss  # the stubs know only the CPU's part


class DeviceMasks(NamedTuple):
    """The items that queries may find, on the device."""

    allowed_UV: Tensor  # booleans
    of_query_B: Tensor  # the filter of each query


class Searcher(Protocol):
    """A search of the whole catalogue on one device."""

    recordable: bool
    """Whether a CUDA graph can hold the search."""

    def search(
        self,
        interests_BD: Tensor,
        excluded_BC: Tensor,
        hits: int,
        masks: DeviceMasks | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns scores and rows of the best items that may be found, B F each, best first.

        Those are the items that are not excluded and, with masks, that the query's filter allows.

        F is `hits`, or the catalogue's size if that is less. If fewer items are left, the remaining
        places have the score -inf and rows without a meaning, which are rows of the catalogue.
        """


def searcher(kind: GpuSearch, vectors_VD: Tensor, bundle: Path) -> Searcher:
    """Returns the search of that kind on the device of the vectors.

    Raises ValueError if it is not available.
    """
    on_gpu = vectors_VD.device.type != "cpu"
    if kind == "faiss" and on_gpu and not hasattr(faiss, "StandardGpuResources"):
        raise ValueError(
            "--gpu-search faiss: the installed Faiss has no GPU part. Install the extra `gpu` "
            "(faiss-gpu-cu12 in place of faiss-cpu), or use --gpu-search product"
        )
    product = ProductSearcher(vectors_VD)
    if kind == "product":
        return product
    if read_index_json(bundle)["kind"] == "ivf":
        return FaissListSearcher(vectors_VD, bundle, product)
    return FaissFlatSearcher(vectors_VD, product)


class ProductSearcher:
    """Exact search by one matrix product over all items.

    On a GPU the product runs in float16, twice as fast as float32. Its best `hits` and a margin are
    scored again in float32, and these scores decide the order.
    """

    recordable = True

    def __init__(self, vectors_VD: Tensor) -> None:
        self._vectors_VD = vectors_VD
        self.items = len(vectors_VD)
        on_gpu = vectors_VD.device.type != "cpu"
        padding = GROUP - self.items % GROUP  # at least one column, which excluded rows of -1 mark
        coarse_VD = vectors_VD.half() if on_gpu else vectors_VD
        self._coarse_PD = F.pad(coarse_VD, (0, 0, 0, padding))
        self._queries_at_once = max(1, SCORE_BYTES // (4 * len(self._coarse_PD)))

    def search(
        self,
        interests_BD: Tensor,
        excluded_BC: Tensor,
        hits: int,
        masks: DeviceMasks | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `Searcher`."""
        chunks = -(-len(interests_BD) // self._queries_at_once)
        parts = zip(interests_BD.chunk(chunks), excluded_BC.chunk(chunks), strict=True)
        of_parts = masks.of_query_B.chunk(chunks) if masks else ()
        found = []
        for part, (part_BD, part_BC) in enumerate(parts):
            allowed_BV = masks.allowed_UV[of_parts[part]] if masks else None
            found.append(self._search(part_BD, part_BC, hits, allowed_BV))
        scores, rows = zip(*found, strict=True)
        return torch.cat(scores), torch.cat(rows)

    def _search(
        self, interests_BD: Tensor, excluded_BC: Tensor, hits: int, allowed_BV: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        scores_BP = self._product(interests_BD)
        scores_BP[:, self.items :] = -torch.inf
        if allowed_BV is not None:
            scores_BP[:, : self.items].masked_fill_(~allowed_BV, -torch.inf)
        inside = (excluded_BC >= 0) & (excluded_BC < self.items)
        scores_BP.scatter_(1, torch.where(inside, excluded_BC, self.items), -torch.inf)
        coarse_BF, rows_BF = _top(scores_BP, min(hits + MARGIN, self.items))
        rows_BF = rows_BF.clamp(max=self.items - 1)
        exact_BF = _exact_scores(rows_BF, interests_BD, self._vectors_VD)
        exact_BF = exact_BF.masked_fill(coarse_BF == -torch.inf, -torch.inf)
        return _best(exact_BF, rows_BF, min(hits, self.items))

    def _product(self, interests_BD: Tensor) -> Tensor:
        coarse_DP = self._coarse_PD.t()
        if coarse_DP.dtype == interests_BD.dtype:
            return interests_BD @ coarse_DP
        return torch.mm(interests_BD.to(coarse_DP.dtype), coarse_DP, out_dtype=interests_BD.dtype)


class _FaissSearcher:
    """The part that is common to Faiss's indexes."""

    recordable = False

    def __init__(self, index: Any, vectors_VD: Tensor, fallback: Searcher) -> None:
        """The fallback searches for queries with filters, and for more hits than Faiss fetches."""
        self._vectors_VD, self._items, self._fallback = vectors_VD, len(vectors_VD), fallback
        self._index, self._resources = _on_device(index, vectors_VD.device)

    def search(
        self,
        interests_BD: Tensor,
        excluded_BC: Tensor,
        hits: int,
        masks: DeviceMasks | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `Searcher`."""
        fetched = min(hits + excluded_BC.shape[1], self._items)
        if fetched > FAISS_MAX_HITS or masks:
            return self._fallback.search(interests_BD, excluded_BC, hits, masks)
        scores_BF, rows_BF = self._fetch(interests_BD.contiguous(), fetched)
        dropped_BF = (rows_BF[..., None] == excluded_BC[:, None]).any(dim=2) | (rows_BF < 0)
        scores_BF = scores_BF.masked_fill(dropped_BF, -torch.inf)
        return _best(scores_BF, rows_BF.clamp(min=0), min(hits, self._items))

    def _fetch(self, interests_BD: Tensor, count: int) -> tuple[Tensor, Tensor]:
        scores_BF = interests_BD.new_empty(len(interests_BD), count)
        rows_BF = torch.empty_like(scores_BF, dtype=torch.int64)
        rows_at = faiss.cast_integer_to_idx_t_ptr(rows_BF.data_ptr())
        self._index.search_c(
            len(interests_BD), _floats(interests_BD), count, _floats(scores_BF), rows_at
        )
        return scores_BF, rows_BF


class FaissFlatSearcher(_FaissSearcher):
    """Faiss's exact search."""

    def __init__(self, vectors_VD: Tensor, fallback: Searcher) -> None:
        super().__init__(faiss.IndexFlatIP(vectors_VD.shape[1]), vectors_VD, fallback)
        self._index.add_c(self._items, _floats(vectors_VD))


class FaissListSearcher(_FaissSearcher):
    """The bundle's inverted lists of 8-bit codes; hits are scored again by their vectors.

    As many lists are probed as index.json says for the CPU's search, and as many times more as
    more hits are fetched than it was measured with.
    """

    def __init__(self, vectors_VD: Tensor, bundle: Path, fallback: Searcher) -> None:
        content = read_index_json(bundle)
        index: Any = faiss.read_index(str(bundle / LISTS_FILE))
        rotation: Any = faiss.downcast_VectorTransform(index.chain.at(0))
        width = vectors_VD.shape[1]
        turn_DD = torch.from_numpy(faiss.vector_to_array(rotation.A).reshape(width, width).T.copy())
        self._turn_DD = turn_DD.to(vectors_VD.device)
        self._owner = index  # of the lists, which a CPU searches in place
        super().__init__(faiss.downcast_index(index.index), vectors_VD, fallback)
        self._nprobe = NPROBE_FACTOR * content["parameters"]["nprobe"]
        self._measured_hits = int(content["measured"]["hits"])

    def _fetch(self, interests_BD: Tensor, count: int) -> tuple[Tensor, Tensor]:
        nprobe = math.ceil(self._nprobe * max(1.0, count / self._measured_hits))
        self._index.nprobe = min(nprobe, int(self._index.nlist), FAISS_MAX_HITS)
        _, rows_BF = super()._fetch(interests_BD @ self._turn_DD, count)
        return _exact_scores(rows_BF.clamp(min=0), interests_BD, self._vectors_VD), rows_BF


def _exact_scores(rows_BF: Tensor, interests_BD: Tensor, vectors_VD: Tensor) -> Tensor:
    """Returns the scores of some items of each query, B F."""
    return torch.bmm(F.embedding(rows_BF, vectors_VD), interests_BD[..., None])[..., 0]


def _best(scores_BF: Tensor, rows_BF: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns the best scores in descending order, and their rows."""
    scores_BF, order_BF = scores_BF.sort(dim=1, descending=True, stable=True)
    return scores_BF[:, :count], rows_BF.gather(1, order_BF)[:, :count]


def _top(scores_BP: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns the best scores and their columns, B F each.

    The `count` best items lie in the `count` groups whose maxima are the best, so only those groups
    are sorted: a selection from P / GROUP maxima and one from `count` groups, not one from P.
    """
    batch, padded = scores_BP.shape
    groups = padded // GROUP
    if groups < 2 * count:
        return scores_BP.topk(count)
    grouped = scores_BP.view(batch, groups, GROUP)
    best_BF = grouped.amax(dim=2).topk(count, sorted=False).indices
    inside = grouped.gather(1, best_BF[..., None].expand(-1, -1, GROUP))
    scores_BF, positions_BF = inside.flatten(1).topk(count)
    groups_BF = best_BF.gather(1, positions_BF // GROUP)
    return scores_BF, groups_BF * GROUP + positions_BF % GROUP


def _on_device(index: Any, device: torch.device) -> tuple[Any, Any]:
    """Returns the index on the device and on torch's stream, and what must live as long as it."""
    if device.type == "cpu":
        return index, None
    number = device.index or 0
    stream = torch.cuda.current_stream(number).cuda_stream
    resources = _faiss_gpu.StandardGpuResources()
    resources.setTempMemory(FAISS_BYTES)
    resources.setDefaultStream(number, _faiss_gpu.cast_integer_to_cudastream_t(stream))
    return _faiss_gpu.index_cpu_to_gpu(resources, number, index), resources


def _floats(tensor: Tensor) -> Any:
    """Returns a pointer for Faiss to the tensor's numbers, which does not keep the tensor alive."""
    return faiss.cast_integer_to_float_ptr(tensor.data_ptr())
