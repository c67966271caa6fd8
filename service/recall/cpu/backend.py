"""Generation on a CPU: the compiled network, and whole scores or an index.

Shapes: V catalogue, D width, W users of a batch who run together.
"""

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from index.search import ItemIndex
from model.artifact.bundle import Artifact
from service.recall.candidate_lists import CandidateLists
from service.recall.cpu.exact_search import ExactCatalogue, ExactSearcher
from service.recall.cpu.index_searcher import IndexSearcher
from service.recall.cpu.transformer import Transformer
from service.recall.query_batch import QueryBatch
from service.recall.types import Floats, Ints, StageSeconds

BATCH = 16  # larger ones are hardly cheaper a user, and keep others waiting
BATCH_OF_LISTS = 32  # where users share lists: a third cheaper than 16
HitsOf = Callable[[CandidateLists, QueryBatch, Ints], IndexSearcher | ExactSearcher]
"""The searches of those users of a batch who are named."""


class CpuBackend:
    """See `service.recall.recaller.Backend`."""

    max_users_per_pass = 64  # so many users' states and scores fit into the caches

    def __init__(self, artifact: Artifact, index: ItemIndex) -> None:
        """With as many threads as torch uses now."""
        self.preferred_batch = BATCH_OF_LISTS if index.kind == "ivf" else BATCH
        self._network = Transformer(artifact.model)
        self._hits = _hits_of(index, artifact.model.items.weight.numpy())

    def generate(self, lists: CandidateLists, batch: QueryBatch, users_W: Ints) -> StageSeconds:
        """See `service.recall.recaller.Backend`."""
        started = time.perf_counter()
        hits = self._hits(lists, batch, users_W)
        items_S, offsets_B = batch.newest
        offsets_W = np.concatenate(
            [offsets_B[:1], offsets_B[users_W + 1]]
        )  # all others have no items
        interest_WD = self._network.prefill(items_S, offsets_W, batch.users_B[users_W])
        for _ in range(hits.steps - 1):
            interest_WD = self._network.step(hits.search(interest_WD))
        hits.search(interest_WD)
        hits.refill()
        seconds = time.perf_counter() - started
        return {
            "model": seconds - hits.search_seconds - hits.merge_seconds,
            "search": hits.search_seconds,
        }


def _hits_of(index: ItemIndex, vectors_VD: Floats) -> HitsOf:
    """The search that the export chose; whole scores need no index."""
    if index.kind == "dense":
        return partial(ExactSearcher, ExactCatalogue(vectors_VD))
    return partial(IndexSearcher, index)
