"""The index of a bundle: exact search, or an approximate one whose recall was measured.

Shapes: V catalogue, D width, B queries, K hits.
"""

import hashlib
import logging
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from index.benchmark import Rows, Vectors, in_batches, one_thread, rates, smallest_nprobe
from index.crossover import measure_gathered_share
from index.exact import ExactIndex
from index.formats import LISTS_FILE, QUERIES_FILE, Kind, read_index_json, write_index_json
from index.ivf.layout import read_layout, train_lists
from index.ivf.search import IvfSearch
from index.search import IvfIndex

log = logging.getLogger(__name__)

Requested = Literal["auto", Kind]

LARGE = 100_000  # items from which on `auto` tries inverted lists; at 50,000 they were slower
HITS = 150  # what a recall of 100 candidates with its over-fetch asks for
QUERIES = 512
DECIDING_BATCH = "8"  # the size of a batch whose rate decides: usual on a busy CPU


class Choice(NamedTuple):
    """A way to search a catalogue."""

    description: dict[str, Any]  # "kind", "parameters" and "measured" for index.json
    lists: Any = None  # the Faiss index of inverted lists, for the kind `ivf`


def build_index(
    vectors_VD: Vectors,
    folder: Path,
    requested: Requested = "auto",
    target: float = 0.98,
    queries_BD: Vectors | None = None,
) -> None:
    """Writes the index of a bundle into its folder: see `index.formats`.

    Searches are measured with `queries_BD`, which are kept, or else with perturbed item vectors.
    index.json repeats the hash of the vectors, so that an index is never served with other ones.
    Raises ValueError if `ivf` is requested and does not reach the target.
    """
    if vectors_VD.dtype != np.float32 or not vectors_VD.flags.c_contiguous:
        vectors_VD = np.ascontiguousarray(vectors_VD, dtype=np.float32)
    source = "perturbed items" if queries_BD is None else "given"
    if queries_BD is None:
        queries_BD = _perturbed(vectors_VD)
    else:
        queries_BD = np.ascontiguousarray(queries_BD, dtype=np.float32)
        np.save(folder / QUERIES_FILE, queries_BD)
    choice = choose_search(vectors_VD, requested, target, queries_BD)
    if choice.lists:
        faiss.write_index(choice.lists, str(folder / LISTS_FILE))
    about = {
        "requested": requested,
        "target": target,
        "queries": source,
        "metric": "inner_product",
        "items": vectors_VD.shape[0],
        "dim": vectors_VD.shape[1],
        "vectors_sha256": vectors_sha256(vectors_VD),
    }
    write_index_json(folder, choice.description | about | _filters(choice, vectors_VD, queries_BD))


def _filters(choice: Choice, vectors_VD: Vectors, queries_BD: Vectors) -> dict[str, Any]:
    """Returns what was measured about the search of filters, for index.json."""
    index: ExactIndex | IvfIndex
    if choice.lists:
        index = IvfIndex(choice.lists, choice.description, vectors_VD)
    else:
        index = ExactIndex(vectors_VD)
    share = measure_gathered_share(index, queries_BD, min(HITS, len(vectors_VD)))
    return {} if share is None else {"filters": {"gathered_share": share}}


def build_index_like(vectors_VD: Vectors, folder: Path, other: Path) -> None:
    """Writes the index that was requested for the bundle `other`, with its queries."""
    content, file = read_index_json(other), other / QUERIES_FILE
    queries_BD = np.load(file, allow_pickle=False) if file.exists() else None
    build_index(vectors_VD, folder, content["requested"], content["target"], queries_BD)


def choose_search(
    vectors_VD: Vectors, requested: Requested, target: float, queries_BD: Vectors
) -> Choice:
    """Returns the requested kind; for `auto` inverted lists if they pay, else exact search.

    They pay if they find `target` of the exact hits, and are faster than the exact search.
    """
    exact = Choice({"kind": "exact", "parameters": {}})
    if requested == "exact" or (requested == "auto" and len(vectors_VD) < LARGE):
        return exact
    lists, parameters, measured = _measure_lists(vectors_VD, target, queries_BD)
    log.info("inverted lists: %s, %s", parameters, measured)
    reached = measured["recall"] >= target
    if requested == "ivf" and not reached:
        raise ValueError(
            f"inverted lists find {measured['recall']:.3f} of the exact hits, not {target}: "
            "lower --index-recall, or choose --index exact"
        )
    rates_ivf, rates_exact = measured["ivf_per_second"], measured["exact_per_second"]
    if requested == "ivf" or (reached and rates_ivf[DECIDING_BATCH] > rates_exact[DECIDING_BATCH]):
        return Choice({"kind": "ivf", "parameters": parameters, "measured": measured}, lists)
    return Choice(exact.description | {"measured": measured})


def vectors_sha256(vectors_VD: NDArray[Any]) -> str:
    """Returns the hash of the vectors' bytes as float32, row after row."""
    data = np.ascontiguousarray(vectors_VD, dtype=np.float32)
    return hashlib.sha256(data.data).hexdigest()


def _measure_lists(
    vectors_VD: Vectors, target: float, queries_BD: Vectors
) -> tuple[Any, dict[str, int], dict[str, Any]]:
    """Returns inverted lists, the parameters that reach the target, and what was measured."""
    hits = min(HITS, len(vectors_VD))
    exact = ExactIndex(vectors_VD)
    started = time.perf_counter()
    lists = train_lists(vectors_VD)
    seconds = time.perf_counter() - started
    inverted = IvfSearch(read_layout(lists, vectors_VD))

    def by_exact(queries_BD: Vectors) -> Rows:
        return exact.search(queries_BD, hits)[1]

    def by_lists(queries_BD: Vectors) -> Rows:
        return inverted.search(queries_BD, hits, nprobe)[1]

    exact_BK = in_batches(by_exact, queries_BD)
    nprobe, recall = smallest_nprobe(inverted, queries_BD, exact_BK, target)
    with one_thread():
        ivf_rates, exact_rates = rates([by_lists, by_exact], queries_BD, clock=time.process_time)
    return (
        lists,
        {"lists": inverted.lists, "nprobe": nprobe},
        {
            "hits": hits,
            "threads": 1,
            "recall": recall,
            "ivf_per_second": ivf_rates,
            "exact_per_second": exact_rates,
            "build_seconds": round(seconds, 1),
        },
    )


def _perturbed(vectors_VD: Vectors) -> Vectors:
    """Returns made-up queries: items with noise."""
    rng = np.random.default_rng(0)
    items_BD: Vectors = vectors_VD[rng.integers(len(vectors_VD), size=QUERIES)]
    noise_BD = rng.standard_normal(items_BD.shape, dtype=np.float32)
    return items_BD + noise_BD * np.float32(0.5 * items_BD.std())
