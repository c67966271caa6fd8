"""The kinds of index a catalogue can have, and what each is told at a search.

flat    every item is scored by Faiss: exact
dense   the same index, of a catalogue that the service scores faster itself, on a CPU
ivf     items in lists by their nearest centroid (`index.ivf.layout`); those nearest to a query are
        scored by 8 bits a component, and the best of them again by their vectors

What else was measured and lost, a graph (HNSW) among it: docs/results/scale.md.
Shapes: V catalogue, D width.
"""

import math
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from index.ivf.layout import empty_index

Kind = Literal["flat", "dense", "ivf"]
Parameters = dict[str, int]

CHUNK = 100_000  # items added at once, so that a mapped table is never copied whole
LIST_SAMPLE = 50  # items a list is trained on; Faiss wants 39 at least


def build(kind: Kind, vectors_VD: NDArray[np.float32]) -> Any:
    """A Faiss index over all rows, by inner product."""
    items, width = vectors_VD.shape
    if kind != "ivf":
        index: Any = faiss.IndexFlatIP(width)
    else:
        lists = count_of_lists(items)
        index = empty_index(width, lists)
        sample = np.random.default_rng(0).permutation(items)[: max(LIST_SAMPLE * lists, 20_000)]
        index.train(vectors_VD[np.sort(sample)])
    for first in range(0, items, CHUNK):
        index.add(vectors_VD[first : first + CHUNK])
    return index


def widened(parameters: Parameters, times: float) -> Parameters:
    """For a search of so many times the hits: as many times the lists, up to all of them."""
    probed = min(parameters["lists"], math.ceil(parameters["nprobe"] * times))
    return parameters | {"nprobe": probed}


def count_of_lists(items: int) -> int:
    """How many lists suit so many items."""
    fitting = 1 << round(math.log2(4 * math.sqrt(items + 1)))
    return max(1, min(fitting, items // LIST_SAMPLE))
