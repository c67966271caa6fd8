"""The kinds of Faiss index a catalogue can have, and what each is told at a search.

flat    every item is scored: exact
ivf     items in lists by their nearest centroid; the lists nearest to a query are scored by 4 bits
        a component (FastScan), and the best of them again by fp16 vectors
hnsw    a graph of near items, walked greedily; fp16 vectors

Shapes: V catalogue, D width.
"""

from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

Kind = Literal["flat", "ivf", "hnsw"]
Parameters = dict[str, float]

CHUNK = 100_000  # items added at once, so that a mapped table is never copied whole
LIST_SAMPLE = 40  # items a list is trained on; Faiss wants 39 at least
LIST_ROUNDS = 8
LINKS = 24  # of an item in the graph; twice as many in its lowest layer
BREADTH = 100  # candidates held while the graph is built


def build(kind: Kind, vectors_VD: NDArray[np.float32]) -> Any:
    """An index over all rows, by inner product."""
    if kind == "ivf":
        return _inverted_lists(vectors_VD)
    width = vectors_VD.shape[1]
    if kind == "flat":
        index: Any = faiss.IndexFlatIP(width)
    else:
        index = faiss.index_factory(width, f"HNSW{LINKS}_SQfp16", faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = BREADTH
        index.train(vectors_VD[:1])  # fp16 has nothing to learn
    for first in range(0, len(vectors_VD), CHUNK):
        index.add(vectors_VD[first : first + CHUNK])
    return index


def efforts(kind: Kind, items: int, hits: int) -> list[list[Parameters]]:
    """Ways to search, to measure: in each, the later the more thorough and the slower."""
    if kind == "hnsw":
        breadths = [hits * 2 ** (step / 4) for step in range(17)]
        return [[{"breadth": min(round(breadth), max(items, 1))} for breadth in breadths]]
    lists = _lists(items)
    grid = sorted({min(lists, round(2 ** (step / 3))) for step in range(64)})
    return [
        [{"lists": lists, "nprobe": probed, "kept": kept} for probed in grid]
        for kept in (1.5, 2, 4, 8)
    ]


def widened(kind: Kind, parameters: Parameters, times: float) -> Parameters:
    """For a search of so many times the hits: as many times the effort, up to everything."""
    if kind == "hnsw":
        return parameters | {"breadth": parameters["breadth"] * times}
    probed = min(parameters["lists"], np.ceil(parameters["nprobe"] * times))
    return parameters | {"nprobe": probed}


def faiss_parameters(kind: Kind, parameters: Parameters) -> Any:
    """The same in Faiss's own words; None for an exact search."""
    if kind == "flat":
        return None
    if kind == "hnsw":
        graph: Any = faiss.SearchParametersHNSW  # the stubs know no arguments
        return graph(efSearch=int(parameters["breadth"]))
    refine: Any = faiss.IndexRefineSearchParameters
    lists: Any = faiss.SearchParametersIVF
    return refine(
        k_factor=float(parameters["kept"]),
        base_index_params=lists(nprobe=int(parameters["nprobe"])),
    )


def _lists(items: int) -> int:
    lists = 2 ** round(np.log2(4 * np.sqrt(items)))
    return max(1, min(lists, items // LIST_SAMPLE))


def _inverted_lists(vectors_VD: NDArray[np.float32]) -> Any:
    """Rows are stored list after list: what is scored twice then lies close together."""
    items, width = vectors_VD.shape
    lists = _lists(items)
    index = faiss.index_factory(
        width, f"IVF{lists},PQ{width}x4fsr,Refine(SQfp16)", faiss.METRIC_INNER_PRODUCT
    )
    ivf = faiss.extract_index_ivf(index)
    ivf.cp.niter = LIST_ROUNDS
    sample = np.random.default_rng(0).permutation(items)[: max(LIST_SAMPLE * lists, 20_000)]
    index.train(vectors_VD[np.sort(sample)])
    starts = range(0, items, CHUNK)
    nearest = [ivf.quantizer.search(vectors_VD[s : s + CHUNK], 1)[1][:, 0] for s in starts]
    rows_V = np.argsort(np.concatenate(nearest), kind="stable")
    numbered: Any = faiss.IndexIDMap(index)
    for start in starts:
        rows = rows_V[start : start + CHUNK]
        numbered.add_with_ids(vectors_VD[rows], rows)
    return numbered
