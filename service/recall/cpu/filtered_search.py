"""Search for the steps of a rollout in which queries have filters, on a CPU.

Queries that share gathered items are searched together, and so are all queries with masks: every
query has its own, so that no query is answered with items of another one's filter.

Shapes: W queries of a step, D width, F hits.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np

from index.exact import ExactIndex
from index.ivf.search import MISSING
from index.kernels.masks import Masks
from index.search import IvfIndex, selection_search
from index.selection import Selection
from service.recall.candidate_lists import CandidateLists
from service.recall.cpu.exact_search import ExactSearcher
from service.recall.query_batch import Step
from service.recall.types import Floats, Ints, StageTimes

MASKS, NO_SELECTION = 0, 1
"""Groups of queries beside those that share gathered items."""


class FilteredSearcher:
    """Searches selections of the catalogue.

    Masks over an exact index are a part of its own search; otherwise more hits than are needed are
    looked for (over-fetch).
    """

    def __init__(self, index: ExactIndex | IvfIndex, exact: ExactSearcher | None = None) -> None:
        """Uses the 8-bit codes of the index, and its search for steps if it is exact."""
        self.selections = selection_search(index)
        self._index = index
        self._exact = exact

    def search(
        self,
        interests_WD: Floats,
        step: Step,
        lists: CandidateLists,
        times: StageTimes,
        selections_W: Sequence[Selection | None],
    ) -> Ints:
        """Does what `service.recall.cpu.backend.Searcher` does, within each query's selection."""
        offers_W = np.empty(len(interests_WD), dtype=np.int64)
        scanned: list[int] = []
        fetched: list[int] = []
        for query, one in enumerate(selections_W):
            is_scanned = self._exact and not (one and one.gathered)
            (scanned if is_scanned else fetched).append(query)
        if self._exact and scanned:
            masks = Masks.of([one and one.words_N for one in _some(selections_W, scanned)])
            own = interests_WD[scanned], step.of(scanned)
            offers_W[scanned] = self._exact.search(*own, lists, times, masks)
        if fetched:
            own = interests_WD[fetched], step.of(fetched)
            offers_W[fetched] = self._fetch(*own, lists, times, _some(selections_W, fetched))
        return offers_W

    def _fetch(
        self,
        interests_WD: Floats,
        step: Step,
        lists: CandidateLists,
        times: StageTimes,
        selections_W: Sequence[Selection | None],
    ) -> Ints:
        """Does it by over-fetch."""
        scores_WF, rows_WF = self.best(interests_WD, step, lists, selections_W)
        times.lap("search")
        lists.append_best(step.queries_W, scores_WF, rows_WF, step.quotas_W, step.interest)
        offers_W = lists.offer_best(step.queries_W, rows_WF, step.interest)
        times.lap("merge")
        return offers_W

    def best(
        self,
        interests_WD: Floats,
        step: Step,
        lists: CandidateLists,
        selections_W: Sequence[Selection | None],
        more: int = 0,
    ) -> tuple[Floats, Ints]:
        """Returns scores and rows W F of as many hits as a step needs, and `more` of them."""
        # At worst all excluded, listed and offered items rank first.
        skipped_W = (lists.excluded.lengths_B + lists.sizes_B)[step.queries_W] + step.interest
        hits = int((skipped_W + step.quotas_W).max()) + 1 + more
        shape = len(interests_WD), min(hits, len(lists.marks_V))
        scores_WF, rows_WF = np.empty(shape, np.float32), np.empty(shape, np.int64)
        shares_scan = isinstance(self._index, ExactIndex)
        for queries, selections in _groups(selections_W, shares_scan):
            part_WD = interests_WD[queries]
            scores_WF[queries], rows_WF[queries] = self.hits(selections, part_WD, shape[1])
        return scores_WF, rows_WF

    def hits(
        self, selections_W: Sequence[Selection | None], interests_WD: Floats, hits: int
    ) -> tuple[Floats, Ints]:
        """Returns scores and rows of each query's best items; gathered items are shared by all."""
        first = selections_W[0]
        if first and first.gathered:
            return self.selections.search_gathered(first.gathered, interests_WD, hits)
        if not any(selections_W):
            return self._index.search(interests_WD, hits)
        if isinstance(self._index, ExactIndex):
            return self._scan(selections_W, interests_WD, hits)
        masks_W = cast(Sequence[Selection], selections_W)
        scores_WF, rows_WF = self._index.search_selected(interests_WD, hits, masks_W)
        if rest := np.flatnonzero((rows_WF == MISSING).any(axis=1)).tolist():
            masks = [masks_W[query] for query in rest]
            scores_WF[rest], rows_WF[rest] = self._scan(masks, interests_WD[rest], hits)
        return scores_WF, rows_WF

    def _scan(
        self, selections_W: Sequence[Selection | None], interests_WD: Floats, hits: int
    ) -> tuple[Floats, Ints]:
        """Returns the hits of masks by the scores of all items."""
        words_W = [one.words_N if one else None for one in selections_W]
        return self.selections.search_masked(words_W, interests_WD, hits)


def _groups(
    selections_W: Sequence[Selection | None], shares_scan: bool
) -> list[tuple[list[int], list[Selection | None]]]:
    """Divides queries into groups that are searched together; returns indices and selections.

    Queries without a selection join those with masks if both share a scan of all items.
    """
    groups: dict[int, list[int]] = {}
    for query, one in enumerate(selections_W):
        alone = NO_SELECTION if one is None and not shares_scan else MASKS
        groups.setdefault(id(one) if one and one.gathered else alone, []).append(query)
    return [(queries, _some(selections_W, queries)) for queries in groups.values()]


def _some(
    selections_W: Sequence[Selection | None], queries: Sequence[int]
) -> list[Selection | None]:
    return [selections_W[query] for query in queries]
