"""Search for the steps of a rollout in which queries have rules of variety, on a CPU.

Shapes: W queries of a step, V catalogue, D width, F hits.
"""

from collections.abc import Sequence

import numpy as np

from index.selection import Selection
from service.recall.candidate_lists import CandidateLists
from service.recall.cpu.filtered_search import FilteredSearcher
from service.recall.filters.columns import Bools
from service.recall.query_batch import Step
from service.recall.types import Floats, Ints, StageTimes
from service.recall.variety.chooser import Chooser, Hits


class VariedSearcher:
    """Searches for lists that choosers fill; the offers are those of plain lists."""

    def __init__(self, filtered: FilteredSearcher) -> None:
        """Uses the search within selections, for queries without a filter, too."""
        self._filtered = filtered

    def search(
        self,
        interests_WD: Floats,
        step: Step,
        lists: CandidateLists,
        plain: CandidateLists,
        times: StageTimes,
        selections_W: Sequence[Selection | None],
        choosers_W: Sequence[Chooser],
    ) -> Ints:
        """Appends each query's quota to its list; returns the items W to offer.

        `plain` become the lists that the queries would have without rules.
        """
        quotas = step.quotas_W.tolist()
        pools = [one.pool_size(quota) for one, quota in zip(choosers_W, quotas, strict=True)]
        scores_WF, rows_WF = self._filtered.best(
            interests_WD, step, plain, selections_W, max(pools)
        )
        times.lap("search")
        plain.append_best(step.queries_W, scores_WF, rows_WF, step.quotas_W, step.interest)
        for at, query in enumerate(step.queries_W.tolist()):
            interest_1D = interests_WD[at : at + 1]

            def search(open_V: Bools, hits: int, interest_1D: Floats = interest_1D) -> Hits:
                return self._best_of(open_V, interest_1D, hits)

            first = Hits(*lists.unlisted(query, scores_WF[at], rows_WF[at]))
            found = choosers_W[at].choose(quotas[at], first, search)
            lists.extend(query, found.scores_F, found.rows_F, step.interest)
        offers_W = lists.offer_best(step.queries_W, rows_WF, step.interest)
        times.lap("merge")
        return offers_W

    def _best_of(self, open_V: Bools, interest_1D: Floats, hits: int) -> Hits:
        """Returns the exact best of these rows, up to a number of hits."""
        hits = min(hits, int(np.count_nonzero(open_V)))
        words_N = self._filtered.selections.mask(open_V)
        scores_1F, rows_1F = self._filtered.selections.search_masked([words_N], interest_1D, hits)
        return Hits(scores_1F[0], rows_1F[0])
