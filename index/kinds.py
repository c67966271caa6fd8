"""The kinds of Faiss index a catalogue can have, and what each is told at a search.

flat    every item is scored: exact
dense   the same index, of a catalogue that the service scores faster itself, on a CPU
ivf     items in lists by their nearest centroid; the lists nearest to a query are scored by 4 bits
        a component (FastScan), and the best of them again by fp16 vectors

A graph (HNSW) was measured and lost everywhere, see docs/results/scale.md.
Shapes: V catalogue, D width.
"""

import math
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

Kind = Literal["flat", "dense", "ivf"]
Parameters = dict[str, float]

CHUNK = 100_000  # items added at once, so that a mapped table is never copied whole
LIST_SAMPLE = 50  # items a list is trained on; Faiss wants 39 at least
LIST_ROUNDS = 12


def build(kind: Kind, vectors_VD: NDArray[np.float32]) -> Any:
    """An index over all rows, by inner product."""
    items, width = vectors_VD.shape
    if kind != "ivf":
        index: Any = faiss.IndexFlatIP(width)
    else:
        lists = lists_of(items)
        index = faiss.index_factory(
            width, f"IVF{lists},PQ{width}x4fsr,Refine(SQfp16)", faiss.METRIC_INNER_PRODUCT
        )
        faiss.extract_index_ivf(index).cp.niter = LIST_ROUNDS
        sample = np.random.default_rng(0).permutation(items)[: max(LIST_SAMPLE * lists, 20_000)]
        index.train(vectors_VD[np.sort(sample)])
    for first in range(0, items, CHUNK):
        index.add(vectors_VD[first : first + CHUNK])
    return index


def efforts(items: int) -> list[list[Parameters]]:
    """Ways to search lists, to measure: in each, the later the more thorough and the slower."""
    lists = lists_of(items)
    grid = sorted({min(lists, round(2 ** (step / 8))) for step in range(8 * 16)})
    return [
        [{"lists": lists, "nprobe": probed, "kept": kept} for probed in grid]
        for kept in (1.5, 2, 4, 8)
    ]


def widened(parameters: Parameters, times: float) -> Parameters:
    """For a search of so many times the hits: as many times the lists, up to all of them."""
    probed = min(parameters["lists"], float(np.ceil(parameters["nprobe"] * times)))
    return parameters | {"nprobe": probed}


def faiss_parameters(parameters: Parameters) -> Any:
    """The same in Faiss's own words; None for an exact search, which has no parameters."""
    if not parameters:
        return None
    refine: Any = faiss.IndexRefineSearchParameters  # the stubs know no arguments
    lists: Any = faiss.SearchParametersIVF
    return refine(
        k_factor=float(parameters["kept"]),
        base_index_params=lists(nprobe=int(parameters["nprobe"])),
    )


def lists_of(items: int) -> int:
    """How many lists suit so many items."""
    fitting = 1 << round(math.log2(4 * math.sqrt(items + 1)))
    return max(1, min(fitting, items // LIST_SAMPLE))
