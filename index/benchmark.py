"""Measurements of a search: its share of the exact hits, and its rate.

Shapes: V catalogue, D width, B queries, K hits.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.ivf.search import IvfSearch

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]
Search = Callable[[Vectors], Rows]
"""B D → B K."""
Clock = Callable[[], float]
Rates = dict[str, float]
"""Queries per second, by the size of a batch."""

BATCHES = (1, 8, 64)
ROUNDS = 3
MAX_SECONDS = 2.0  # for one measurement of a rate
PRODUCT_FROM = 4  # queries; smaller batches are faster in Faiss's own loops


def faiss_exact_search(vectors_VD: Vectors, hits: int) -> Search:
    """Returns Faiss's exact search, a reference for ours. The table may be mapped.

    By its default Faiss multiplies matrices only for large batches. From 4 queries on that is two
    to four times faster at 64 queries; the setting is for the whole process.
    """
    faiss.cvar.distance_compute_blas_threshold = PRODUCT_FROM * vectors_VD.shape[1]

    def search(queries_BD: Vectors) -> Rows:
        found: Any = faiss.knn(queries_BD, vectors_VD, hits, metric=faiss.METRIC_INNER_PRODUCT)
        rows_BK: Rows = found[1]
        return rows_BK

    return search


@contextmanager
def one_thread(
    threads: Callable[[], int] = faiss.omp_get_max_threads,
    set_threads: Callable[[int], object] = faiss.omp_set_num_threads,
) -> Iterator[None]:
    """Runs Faiss, or another library, with one thread, as the service does by default."""
    before = threads()
    set_threads(1)
    try:
        yield
    finally:
        set_threads(before)


def in_batches(search: Search, queries_BD: Vectors) -> Rows:
    """Returns the hits of many queries, which are searched in batches of the largest size."""
    largest = BATCHES[-1]
    starts = range(0, len(queries_BD), largest)
    return np.concatenate([search(queries_BD[s : s + largest]) for s in starts])


def rates(
    searches: Sequence[Callable[[Vectors], object]],
    queries_BD: Vectors,
    seconds: float = MAX_SECONDS,
    clock: Clock = time.perf_counter,
) -> list[Rates]:
    """Returns the rates of each search. One measurement takes up to `seconds`.

    Searches take turns, and the best of several rounds counts: other work on the machine slows all
    of them, but not all the time. With one thread, `time.process_time` is the better clock.
    """
    best: list[Rates] = [{} for _ in searches]
    for batch in BATCHES:
        for _ in range(ROUNDS):
            for search, found in zip(searches, best, strict=True):
                rate = _rate(search, queries_BD, min(batch, len(queries_BD)), seconds, clock)
                found[str(batch)] = round(max(found.get(str(batch), 0.0), rate), 1)
    return best


def recall_of(rows_BK: Rows, exact_BK: Rows) -> tuple[float, float]:
    """Returns the share of the exact hits that were found, and the lower end of its interval.

    The interval is of two standard errors to either side.
    """
    shares_B = np.array(
        [len(np.intersect1d(r, e)) / len(e) for r, e in zip(rows_BK, exact_BK, strict=True)]
    )
    mean = float(shares_B.mean())
    return mean, mean - 2 * float(shares_B.std()) / len(shares_B) ** 0.5


def smallest_nprobe(
    search: IvfSearch, queries_BD: Vectors, exact_BK: Rows, target: float
) -> tuple[int, float]:
    """Returns the fewest lists whose recall reaches the target with confidence, and their recall.

    If no number of lists does, that is all of them.
    """

    def recall(nprobe: int) -> tuple[float, float]:
        def rows(queries_BD: Vectors) -> Rows:
            return search.search(queries_BD, exact_BK.shape[1], nprobe)[1]

        return recall_of(in_batches(rows, queries_BD), exact_BK)

    def reaches(nprobe: int) -> bool:
        return recall(nprobe)[1] >= target

    # The recall grows with the number of lists, so it can be found by bisection.
    nprobe = 1 + bisect_left(range(1, search.lists), True, key=reaches)
    return nprobe, recall(nprobe)[0]


def _rate(
    search: Callable[[Vectors], object],
    queries_BD: Vectors,
    batch: int,
    seconds: float,
    clock: Clock,
) -> float:
    """Returns queries per second over all queries, or as many as the time allows."""
    done, started = 0, clock()
    while done + batch <= len(queries_BD) and clock() - started < seconds:
        search(queries_BD[done : done + batch])
        done += batch
    return done / (clock() - started)
