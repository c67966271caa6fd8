"""Which search answers faster on this catalogue: measured at export, as the service does it.

Shapes: B batch, V catalogue, D width.
"""

import time
from collections.abc import Callable

import numpy as np
import torch

from index.benchmark import BATCHES, Rates, Vectors, one_thread, rates
from index.search import ItemIndex
from model.network.config import RecallConfig
from model.network.rollout import quotas
from service.recall.candidate_lists import CandidateLists
from service.recall.cpu.backend import IndexSearcher, Searcher
from service.recall.cpu.exact_search import ExactSearcher
from service.recall.query_batch import QueryBatch, Ragged, offsets_of, quota_table
from service.recall.types import StageTimes

K, CLOSED = 100, 10  # candidates that are asked for, and items that somebody has seen
SECONDS = 0.03  # for a rate: the export of a small catalogue stays quick


def dense_and_index(
    recall: RecallConfig, vectors_VD: Vectors, index: ItemIndex, queries_BD: Vectors
) -> tuple[Rates, Rates]:
    """Recalls a CPU second, all but the network, by exact search and by the index.

    With one thread. A query counts as a user's first interest, its neighbours as the later ones.
    """
    with one_thread(), one_thread(torch.get_num_threads, torch.set_num_threads):
        searchers: list[Searcher] = [ExactSearcher(vectors_VD), IndexSearcher(index)]
        recalls = [_recalls(searcher, recall, index.items) for searcher in searchers]
        dense, by_index = rates(recalls, queries_BD, SECONDS, time.process_time)
    return dense, by_index


def _recalls(searcher: Searcher, recall: RecallConfig, items: int) -> Callable[[Vectors], None]:
    """The searches of a batch, and the lists that they make."""
    rng = np.random.default_rng(0)
    shares = quotas(K, recall.interests, recall.first_share)
    seen_BC = rng.integers(items, size=(BATCHES[-1], CLOSED))

    def run(interests_BD: Vectors) -> None:
        batch = len(interests_BD)
        seen = Ragged(seen_BC[:batch].ravel(), offsets_of([CLOSED] * batch))
        nobody_B, k_B = np.full(batch, -1), np.full(batch, K)
        queries = QueryBatch(nobody_B, seen, seen, k_B, quota_table([shares] * batch), 0 * k_B)
        lists = CandidateLists.empty(queries, items, recall.interests)
        for step in queries.steps():
            interest_BD = np.roll(interests_BD, step.interest, axis=0)
            searcher.search(interest_BD, step, lists, StageTimes("search", "merge"))

    return run
