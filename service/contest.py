"""Which search answers faster on this catalogue: measured at export, as the service does it.

Shapes: B batch, V catalogue, D width.
"""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from index.benchmark import BATCHES, Rates, Vectors, one_thread, rates
from index.search import ItemIndex
from model.network.config import RecallConfig
from model.network.rollout import quotas
from service.recall.candidate_lists import CandidateLists
from service.recall.cpu.backend import HitsOf
from service.recall.cpu.exact_search import ExactCatalogue, ExactSearcher
from service.recall.cpu.index_searcher import IndexSearcher
from service.recall.query_batch import QueryBatch, Ragged, offsets_of, quota_table

K, CLOSED = 100, 10  # candidates that are asked for, and items that somebody has seen
SECONDS = 0.03  # for a rate: the export of a small catalogue stays quick


def dense_and_index(
    recall: RecallConfig, vectors_VD: Vectors, index: ItemIndex, queries_BD: Vectors
) -> tuple[Rates, Rates]:
    """Recalls a CPU second, all but the network, by exact search and by the index.

    With one thread. A query counts as a user's first interest, its neighbours as the later ones.
    """
    with one_thread(), one_thread(torch.get_num_threads, torch.set_num_threads):
        dense_catalogue = ExactCatalogue(vectors_VD)
        ways: list[HitsOf] = [
            partial(ExactSearcher, dense_catalogue),
            partial(IndexSearcher, index),
        ]
        recalls = [_recalls(hits_of, recall, index.items) for hits_of in ways]
        dense, by_index = rates(recalls, queries_BD, SECONDS, time.process_time)
    return dense, by_index


def _recalls(hits_of: HitsOf, recall: RecallConfig, items: int) -> Callable[[Vectors], None]:
    """The searches of a batch, and the lists that they make."""
    rng = np.random.default_rng(0)
    shares = quotas(K, recall.interests, recall.first_share)
    seen_BC = rng.integers(items, size=(BATCHES[-1], CLOSED))

    def run(interests_BD: Vectors) -> None:
        batch = len(interests_BD)
        seen = Ragged(seen_BC[:batch].ravel(), offsets_of([CLOSED] * batch))
        nobody_B, k_B = np.full(batch, -1), np.full(batch, K)
        queries = QueryBatch(nobody_B, seen, seen, k_B, quota_table([shares] * batch), 0 * k_B)
        lists = CandidateLists(items, *seen, K, recall.interests)
        hits = hits_of(lists, queries, np.arange(batch))
        for step in range(hits.steps):
            hits.search(np.roll(interests_BD, step, axis=0))
        hits.refill()
        lists.finish()

    return run
