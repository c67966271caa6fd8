"""Generation on a CPU: the compiled network, and a search of the catalogue for each interest.

Shapes: W queries with a history, D width, F hits.
"""

from collections.abc import Sequence
from typing import Protocol, cast

import numpy as np
import torch

from index.exact import ExactIndex
from index.search import IvfIndex
from index.selection import Selection
from model.artifact.bundle import Artifact
from model.network.gpt import WHOLE_HISTORY
from model.network.rollout import guided
from service.recall.candidate_lists import CandidateLists
from service.recall.cpu.exact_search import ExactSearcher
from service.recall.cpu.filtered_search import FilteredSearcher
from service.recall.cpu.transformer import Transformer
from service.recall.cpu.varied_search import VariedSearcher
from service.recall.probability_merge import ProbabilityMerge
from service.recall.query_batch import QueryBatch, Ragged, Step
from service.recall.types import Floats, Ints, StageTimes
from service.recall.variety.chooser import Chooser

PREFERRED_BATCH = 16  # in larger ones a query is hardly cheaper, and others wait longer
PREFERRED_BATCH_IVF = 32  # queries share inverted lists: a third cheaper than with 16


class Searcher(Protocol):
    """Searches the catalogue on a CPU."""

    def search(
        self, interests_WD: Floats, step: Step, lists: CandidateLists, times: StageTimes
    ) -> Ints:
        """Appends each query's quota of hits to its list; returns the items W to offer.

        The last step has no offers: what it returns is not used.
        """


class CpuBackend:
    """See `service.recall.recaller.Backend`."""

    max_users_per_pass = 64  # their states and scores fit into a CPU's caches

    def __init__(self, artifact: Artifact, index: ExactIndex | IvfIndex) -> None:
        """The network computes with as many threads as torch uses now."""
        self.preferred_batch = PREFERRED_BATCH_IVF if index.kind == "ivf" else PREFERRED_BATCH
        self._catalogue = len(artifact.items)
        self._max_interests = artifact.manifest.model.max_interests
        self._network = Transformer(artifact.model)
        self._vectors_VD = artifact.model.items.weight.numpy()
        exact = ExactSearcher(index) if isinstance(index, ExactIndex) else None
        if artifact.manifest.model.user_mean:
            with torch.no_grad():
                self._weights_VP = artifact.model.mean_weights(artifact.model.items.weight).numpy()
        self._searcher: Searcher = exact or IvfSearcher(cast(IvfIndex, index))
        self._recall = artifact.manifest.recall
        self._filtered = FilteredSearcher(index, exact)
        self._varied = VariedSearcher(self._filtered)
        self.selector = self._filtered.selections

    def generate(self, batch: QueryBatch, times: StageTimes) -> CandidateLists:
        """See `service.recall.recaller.Backend`."""
        if batch.choosers:
            return self._generate_varied(batch, batch.choosers, times)
        lists = CandidateLists.empty(batch, self._catalogue, self._max_interests)
        merge = None
        if self._recall.merge == "probability":
            merge = ProbabilityMerge(self._vectors_VD, self._recall)
        offers_W: Ints | None = None
        selections_W = _selections(batch)
        for step in batch.steps():
            interests_WD = self._interests(batch, step, offers_W)
            times.lap("model")
            into = merge.list_of(step, interests_WD, lists) if merge else lists
            if selections_W:
                offers_W = self._filtered.search(interests_WD, step, into, times, selections_W)
            else:
                offers_W = self._searcher.search(interests_WD, step, into, times)
            if batch.real_BO is not None and not step.last:
                offers_W = lists.offer_real(batch.real_BO, step, offers_W)
        if merge:
            merge.finish(lists)
            times.lap("merge")
        return lists

    def _generate_varied(
        self, batch: QueryBatch, choosers: Sequence[Chooser], times: StageTimes
    ) -> CandidateLists:
        """Does the same for queries with rules of variety."""
        lists = CandidateLists.empty(batch, self._catalogue, self._max_interests)
        plain = CandidateLists.empty(batch, self._catalogue, self._max_interests)
        selections_W = _selections(batch) or [None] * len(batch.warm_W)
        choosers_W = [choosers[query] for query in batch.warm_W.tolist()]
        offers_W: Ints | None = None
        for step in batch.steps():
            interests_WD = self._interests(batch, step, offers_W)
            times.lap("model")
            offers_W = self._varied.search(
                interests_WD, step, lists, plain, times, selections_W, choosers_W
            )
            if batch.real_BO is not None and not step.last:
                offers_W = lists.offer_real(batch.real_BO, step, offers_W)
        plain.note_scores(choosers)
        return lists

    def _interests(self, batch: QueryBatch, step: Step, offers_W: Ints | None) -> Floats:
        """Returns the interests of a step, guided if the bundle says so.

        The network then reads every history twice, with the wanted outcome and with the avoided.
        """
        guidance = self._recall.guidance
        if offers_W is None:
            found_ND = self._prefill(batch, step.queries_W)
        else:
            found_ND = self._network.step(np.tile(offers_W, 2) if guidance else offers_W)
        return guided(found_ND, guidance) if guidance else found_ND

    def _prefill(self, batch: QueryBatch, queries_W: Ints) -> Floats:
        """Returns the first interests of the queries with a history."""
        items_S, offsets_B = batch.newest
        # Cold queries have no items, so the histories of the others follow each other.
        offsets_W = np.concatenate([offsets_B[:1], offsets_B[queries_W + 1]])
        users_W = batch.users_B[queries_W]
        means_WD = None if batch.whole is None else self._means(batch.whole, queries_W)
        feedback = batch.feedback
        if self._recall.guidance:
            assert feedback is not None  # a bundle with guidance has a network that reads outcomes
            items_S, feedback = np.tile(items_S, 2), feedback.and_avoided()
            offsets_W = np.concatenate([offsets_W, offsets_W[1:] + offsets_W[-1]])
            users_W = np.tile(users_W, 2)
            means_WD = None if means_WD is None else np.tile(means_WD, (2, 1))
        return self._network.prefill(items_S, offsets_W, users_W, feedback, means_WD)

    def _means(self, whole: Ragged, queries_W: Ints) -> Floats:
        """Returns the mean vectors of the items of each history, W P·D."""
        shape = len(queries_W), self._weights_VP.shape[1], self._vectors_VD.shape[1]
        means_WPD = np.empty(shape, dtype=np.float32)
        for mean_PD, query in zip(means_WPD, queries_W.tolist(), strict=True):
            rows_N = whole.rows_N[whole.offsets_B[query] : whole.offsets_B[query + 1]]
            rows_N = rows_N[-WHOLE_HISTORY:]
            weights_NP = self._weights_VP[rows_N]
            np.matmul(
                (weights_NP / weights_NP.sum(axis=0)).T, self._vectors_VD[rows_N], out=mean_PD
            )
        return means_WPD.reshape(len(queries_W), -1)


def _selections(batch: QueryBatch) -> list[Selection | None]:
    """Returns the selections of queries with a history; an empty list if no query has one."""
    if not batch.allowed:
        return []
    allowed_W = [batch.allowed[query] for query in batch.warm_W.tolist()]
    return [one and cast(Selection, one.visible) for one in allowed_W]


class IvfSearcher:
    """Searches inverted lists, for more hits than are needed (over-fetch).

    The index does not know what a query excludes; excluded and listed hits are skipped afterwards.
    """

    def __init__(self, index: IvfIndex) -> None:
        """Uses this index, which must be searched from one thread."""
        self._index = index

    def search(
        self, interests_WD: Floats, step: Step, lists: CandidateLists, times: StageTimes
    ) -> Ints:
        """See `Searcher`."""
        # At worst all excluded, listed and offered items rank first.
        skipped_B = lists.excluded.lengths_B + step.interest
        hits = int((lists.k_B + skipped_B)[step.queries_W].max()) + 1
        scores_WF, rows_WF = self._index.search(interests_WD, hits)
        times.lap("search")
        lists.append_best(step.queries_W, scores_WF, rows_WF, step.quotas_W, step.interest)
        offers_W = lists.offer_best(step.queries_W, rows_WF, step.interest)
        times.lap("merge")
        return offers_W
