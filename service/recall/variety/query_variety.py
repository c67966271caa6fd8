"""The rules of variety of a batch of queries.

Shapes: V catalogue, D width, N rows of all lists.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
from torch import Tensor

from service.recall.candidate_lists import POPULAR, CandidateLists
from service.recall.filters.columns import Bools
from service.recall.filters.item_filters import Allowed, ItemFilters
from service.recall.query_batch import Ragged
from service.recall.types import Floats, Ints, Query
from service.recall.variety.chooser import Chooser, Hits
from service.recall.variety.form import unpacked
from service.recall.variety.rules import Rules


class QueryVariety:
    """Makes the choosers of queries, and completes their lists."""

    def __init__(self, filters: ItemFilters, vectors: Tensor) -> None:
        """Takes the attributes of the items, and their vectors V D on any device."""
        self._filters = filters
        self._vectors = vectors
        self._vectors_VD: Floats | None = None

    def choosers(
        self, queries: Sequence[Query], excluded: Ragged, allowed: Sequence[Allowed | None] | None
    ) -> list[Chooser]:
        """Returns the chooser of each query, all of which have rules."""
        if self._vectors_VD is None:  # of a GPU, a copy
            self._vectors_VD = self._vectors.detach().cpu().numpy()
        found = []
        for at, query in enumerate(queries):
            assert query.variety
            variety = unpacked(query.variety)
            first, end = excluded.offsets_B[at : at + 2]
            excluded_N = excluded.rows_N[first:end]
            possible = partial(self._possible, allowed[at] if allowed else None, excluded_N)
            fresh_V = self._filters.rows(variety.fresh) if variety.fresh else None
            rules = Rules(variety, self._filters.columns, fresh_V)
            found.append(Chooser(rules, variety.diversity, self._vectors_VD, possible))
        return found

    def add_popular(self, lists: CandidateLists, choosers: Sequence[Chooser]) -> None:
        """Back-fills lists of fewer than k candidates with popular items that the rules admit."""
        for query in np.flatnonzero(lists.k_B - lists.sizes_B).tolist():
            missing = int(lists.k_B[query] - lists.sizes_B[query])
            found = choosers[query].fill(missing, self._most_popular)
            lists.extend(query, found.scores_F, found.rows_F, POPULAR)

    def _possible(self, allowed: Allowed | None, excluded_N: Ints) -> Bools:
        possible_V = self._filters.visible(allowed)
        possible_V[excluded_N] = False
        return possible_V

    def _most_popular(self, open_V: Bools, wanted: int) -> Hits:
        rows_F = self._filters.by_popularity(open_V, wanted)
        return Hits(np.zeros(len(rows_F), dtype=np.float32), rows_F)
