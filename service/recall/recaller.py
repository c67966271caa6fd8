"""Recall: histories → interests → candidates. START HERE.

The service answers with this code and `recgpt evaluate` measures it: what is measured is what is
served. For a batch of queries (`Recaller._recall`),

1. `ItemIds` turns the ids of all histories into catalogue rows, a `QueryBatch`;
2. a `Backend` generates one interest after another. It searches the catalogue with each and appends
   the hits to the `CandidateLists`, up to the interest's quota. The best hit that is neither
   excluded nor offered before is offered: it continues the history, and the network generates the
   next interest. So one search gives both the candidates and the next step. Items that the user
   was shown since and did not take, if they are told, are offered in its place;
3. popular items fill the lists that are still short. `JsonEncoder` then writes the answers.

Shapes: B queries, S queries with a short list, V catalogue, F popular items, H hidden items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from pydantic_core import to_json

from index.exact import ExactIndex
from index.search import IvfIndex, load_index
from model.artifact.bundle import Artifact, load_artifact
from model.artifact.manifest import ArtifactError
from model.artifact.versions import find_bundle
from model.device import choose_device
from model.network.config import MAX_OFFERS
from model.network.rollout import quotas
from service.recall.candidate_lists import POPULAR, CandidateLists
from service.recall.cpu.backend import CpuBackend
from service.recall.explainer import Explainer
from service.recall.feedback import FeedbackReader
from service.recall.filters.columns import AttributeColumns
from service.recall.filters.item_filters import EVERYTHING, NOTHING, ItemFilters, Selector
from service.recall.gpu.backend import GpuBackend
from service.recall.index_trials import IndexTrials
from service.recall.item_ids import ItemIds
from service.recall.json_encoder import JsonEncoder
from service.recall.query_batch import QueryBatch, quota_table
from service.recall.trials import Trial, TrialResult
from service.recall.types import (
    Candidates,
    EncodedCandidates,
    Explanation,
    Ints,
    Query,
    StageSeconds,
    StageTimes,
)
from service.recall.variety.form import Variety, packed
from service.recall.variety.query_variety import QueryVariety
from service.settings import GpuSearch


class Backend(Protocol):
    """Generates interests and their candidates on one kind of processor."""

    max_users_per_pass: int
    """The most queries in one call of `generate`."""
    preferred_batch: int
    """The batch size from which on a query gets hardly cheaper, while other queries wait longer."""

    @property
    def selector(self) -> Selector:
        """Makes the selections of filters that `generate` searches."""

    def generate(self, batch: QueryBatch, times: StageTimes) -> CandidateLists:
        """Returns the candidates of all queries with a history; the other lists are empty.

        Counts its time towards the stages "model", "search" and "merge".
        """


class Recaller:
    """A loaded bundle that answers queries, from one thread at a time."""

    def __init__(
        self, artifact: Artifact, backend: Backend, max_history: int | None = None
    ) -> None:
        """Takes the bundle and what computes; `max_history` is that of `load`."""
        self.manifest = artifact.manifest
        self.bundle = artifact.folder
        self.version = artifact.manifest.version
        self.kinds = artifact.kinds
        self.catalogue_size = len(artifact.items)
        self.max_interests = artifact.manifest.model.max_interests
        self.preferred_batch = backend.preferred_batch
        self.trials: IndexTrials | None = None
        """Trials of the index; None on a GPU."""
        self._backend = backend
        self._max_history = max_history or artifact.manifest.model.max_history
        item_ids = artifact.items["item_id"].to_list()
        self._ids, self._encoder = ItemIds.of(item_ids), JsonEncoder(item_ids)
        self._explainer = Explainer(artifact.model, self._ids)
        self._feedback = FeedbackReader.of(artifact.manifest)
        self._needs_whole = artifact.manifest.model.user_mean
        no_users: dict[str, int] = {}
        self._user_rows = artifact.user_rows or no_users
        popular_V = np.argsort(-artifact.popularity, kind="stable")
        columns = AttributeColumns.of(artifact.items, self.kinds)
        self._filters = ItemFilters(columns, backend.selector, popular_V)
        self._variety = QueryVariety(self._filters, artifact.model.items.weight)

    @classmethod
    def load(
        cls,
        artifacts: Path,
        device: str = "auto",
        gpu_search: GpuSearch = "product",
        max_history: int | None = None,
    ) -> Self:
        """Loads the served version under `artifacts`, or the bundle that `artifacts` is.

        `device` is auto, cpu, cuda or cuda:1; `gpu_search` is how a GPU searches; the network reads
        the newest `max_history` items of a history (None: as many as in training).
        Every checksum is verified. Raises ArtifactError that names the file at fault, and
        ValueError if the network was trained with shorter histories.
        """
        artifact = load_artifact(find_bundle(artifacts))
        longest = artifact.manifest.model.max_history
        if max_history and max_history > longest:
            raise ValueError(
                f"a history of {max_history} items is too long: the network of "
                f"{artifact.manifest.version} was trained with {longest}"
            )
        chosen = choose_device(device)
        if chosen.type != "cpu":
            return cls(artifact, GpuBackend(artifact, chosen, gpu_search), max_history)
        index, vectors_VD = _load_index(artifact), artifact.model.items.weight.numpy()
        recaller = cls(artifact, CpuBackend(artifact, index), max_history)
        recaller.trials = IndexTrials(index, vectors_VD, artifact.folder)
        return recaller

    def recall(self, queries: Sequence[Query]) -> tuple[list[Candidates], StageSeconds]:
        """Answers queries in order; returns the seconds of each stage, too."""
        times, size = StageTimes("model", "search", "merge"), self._backend.max_users_per_pass
        if any(query.variety for query in queries):
            return self._recall_varied(queries, times), times.seconds
        passes = [queries[first : first + size] for first in range(0, len(queries), size)]
        return [found for part in passes for found in self._recall(part, times)], times.seconds

    def _recall_varied(self, queries: Sequence[Query], times: StageTimes) -> list[Candidates]:
        """Answers queries of which some have rules of variety; these have passes of their own."""
        answers: dict[int, Candidates] = {}
        for varied in (False, True):
            own = [at for at, query in enumerate(queries) if bool(query.variety) is varied]
            for first in range(0, len(own), self._backend.max_users_per_pass):
                part = own[first : first + self._backend.max_users_per_pass]
                answers |= zip(part, self._recall([queries[at] for at in part], times), strict=True)
        return [answers[at] for at in range(len(queries))]

    def _recall(self, queries: Sequence[Query], times: StageTimes) -> list[Candidates]:
        """Histories → interests → candidates, for as many queries as one pass takes."""
        batch = self._look_up(queries)
        times.lap("merge")
        lists = self._backend.generate(batch, times)
        if batch.choosers:
            self._variety.add_popular(lists, batch.choosers)
        else:
            self._add_popular(lists, batch)
        found = lists.candidates(batch)
        times.lap("merge")
        return found

    def _look_up(self, queries: Sequence[Query]) -> QueryBatch:
        """Returns the queries with rows in place of ids and a quota for each interest."""
        known = self._ids.look_up(
            [(query.history, query.exclude) for query in queries],
            self._max_history,
            [query.repeat_after_days is not None for query in queries],
            places=self._feedback is not None,
            whole=self._needs_whole,
        )
        feedback = None
        if self._feedback is not None:
            feedback = self._feedback.read(queries, known.newest, known.places_N)
        shares = [self._quotas(query) for query in queries]
        allowed = self._filters.of([query.filter for query in queries])
        return QueryBatch(
            users_B=np.array([self._user_rows.get(query.user_id, -1) for query in queries]),
            newest=known.newest,
            excluded=known.excluded,
            k_B=np.array([query.k for query in queries]),
            quotas_MB=quota_table(shares),
            unknown_B=known.unknown_B,
            feedback=feedback,
            whole=known.whole if self._needs_whole else None,
            allowed=allowed,
            choosers=self._variety.choosers(queries, known.excluded, allowed)
            if queries[0].variety
            else None,
            real_BO=self._real_offers(queries),
        )

    def _real_offers(self, queries: Sequence[Query]) -> Ints | None:
        """Returns the known items among the real offers of each query, None if no query has one."""
        if not any(query.offers for query in queries):
            return None
        known = self._ids.look_up([(query.offers, ()) for query in queries], MAX_OFFERS)
        return known.newest.padded(np.arange(len(queries)), MAX_OFFERS, -1)

    def interests_of(self, asked: int | None) -> int:
        """Returns the number of interests of a recall that asks for this number, or for none."""
        return min(asked or self.manifest.recall.interests, self.max_interests)

    def _quotas(self, query: Query) -> tuple[int, ...]:
        """Returns how many items each interest lists; rules of variety go by quotas always."""
        recall, interests = self.manifest.recall, self.interests_of(query.interests)
        if recall.merge == "probability" and not query.variety:
            return (query.k,) * interests
        return quotas(query.k, interests, recall.first_share)

    def update_items(
        self,
        hidden: Sequence[str] | None,
        changes: Mapping[str, Mapping[str, object]],
        popular: Sequence[str] | None = None,
    ) -> None:
        """Hides these items and no others (None: as before); changes attributes that filters read.

        Times are seconds since 1970. `popular` are the items that are popular now, the most popular
        first (None: as before). Ids that the bundle does not have are passed over.
        """
        if popular is not None:
            first_F = self._ids.look_up([((), popular)], 1).excluded.trimmed().rows_N
            self._filters.rank(first_F)
        if hidden is not None:
            rows_H = self._ids.look_up([((), hidden)], 1).excluded.trimmed().rows_N
            self._filters.set_hidden(rows_H)
        found = self._ids.look_up([((), [item]) for item in changes], 1).excluded
        starts, lengths = found.offsets_B.tolist(), found.lengths_B.tolist()
        known = zip(starts, lengths, changes.values(), strict=False)
        self._filters.change({int(found.rows_N[at]): own for at, length, own in known if length})

    def _add_popular(self, lists: CandidateLists, batch: QueryBatch) -> None:
        """Back-fills lists of fewer than k candidates with popular items."""
        missing_B = lists.k_B - lists.sizes_B
        short_S = np.flatnonzero(missing_B)
        if len(short_S):
            reach = int((lists.k_B + lists.excluded.lengths_B)[short_S].max())
            allowed_S = [
                batch.allowed[query] if batch.allowed else None for query in short_S.tolist()
            ]
            rows_SF = np.stack([self._filters.popular(one, reach) for one in allowed_S])
            scores_SF = np.zeros(rows_SF.shape, dtype=np.float32)
            lists.append_best(short_S, scores_SF, rows_SF, missing_B[short_S], POPULAR)

    def recall_json(self, queries: Sequence[Query]) -> tuple[list[EncodedCandidates], StageSeconds]:
        """Answers as `recall` does, in JSON; the stages have "encode" besides."""
        answers, seconds = self.recall(queries)
        times = StageTimes("encode")
        encoded = [
            EncodedCandidates(
                self._encoder.encode(one),
                one.rows,
                one.unknown_items,
                one.cold,
                filter=one.filter,
                variety=one.variety,
            )
            for one in answers
        ]
        times.lap("encode")
        for at, query in enumerate(queries):
            if query.explain:
                told = to_json(self._explain(query, answers[at].rows)._asdict())
                encoded[at] = replace(encoded[at], explanation=told)
        return encoded, seconds | times.seconds

    def _explain(self, query: Query, rows_K: Ints) -> Explanation:
        """Returns the steps that led to these candidates."""
        batch = self._look_up([query])
        interests = self.interests_of(query.interests)
        allowed = batch.allowed[0] if batch.allowed else None
        excluded_N = np.concatenate([batch.excluded.rows_N, self._filters.rejected(allowed)])
        return self._explainer.explain(
            int(batch.users_B[0]),
            batch.newest.rows_N,
            batch.whole.rows_N if batch.whole else batch.newest.rows_N,
            excluded_N,
            rows_K,
            interests,
            batch.feedback,
            self.manifest.recall.guidance,
            batch.real_BO,
        )

    def try_index(self, trial: Trial) -> TrialResult:
        """Searches the index once, to measure it."""
        if self.trials is None:
            return TrialResult(b"", b"", 0.0, "gpu", self.catalogue_size, 0, 0, 0)
        return self.trials.make(trial)

    def ids_of(self, answer: Candidates) -> list[str]:
        """Returns the ids of the candidates."""
        return self._ids.ids_of(answer.rows.tolist())

    @property
    def item_ids(self) -> list[str]:
        """The ids of the whole catalogue, row by row; a new list each time."""
        return self._ids.ids_of(range(self.catalogue_size))

    @property
    def outcomes(self) -> list[str]:
        """The actions that a query can ask for; none if the network reads no outcomes."""
        return self.manifest.actions if self.manifest.model.feedback == "outcome" else []

    def warm_up(self) -> None:
        """Answers a few batches, so that everything is compiled before a user waits for it."""
        history = self._ids.ids_of(range(min(self._max_history, self.catalogue_size)))
        for form in (None, EVERYTHING, NOTHING):  # a mask, and gathered items
            for rules in (None, packed(Variety(diversity=0.5))):
                for size in (1, 8):
                    warm = Query("", history, filter=form, variety=rules)
                    self.recall_json([warm, Query("", [])] * size)


def _load_index(artifact: Artifact) -> ExactIndex | IvfIndex:
    """Loads the index of a bundle. Raises ArtifactError if it is damaged or of other vectors."""
    vectors_VD = artifact.model.items.weight.numpy()
    try:
        return load_index(artifact.folder, vectors_VD, artifact.manifest.vectors_sha256)
    except ValueError as error:
        raise ArtifactError(str(error)) from error
