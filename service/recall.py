"""The recall algorithm, on a batch: histories → rollout and search → merge.

The service answers with it and `recgpt evaluate` measures it: what is measured is what is served.

Shapes: B batch, L length, M interests, D width, F fetched hits, K candidates.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from index.search import ItemIndex
from model.artifact import Artifact, ArtifactError, find_bundle, load_artifact
from model.batches import IntArray
from model.evaluate import pad
from model.rollout import quotas, rollout
from model.run import choose_device
from service.merge import Merged, backfill, merge

StageSeconds = dict[str, float]
"""Seconds a batch spent in "model", "search" and "merge"."""


@dataclass(frozen=True, slots=True)
class Query:
    """What one user asks for; ids are the caller's own strings."""

    user_id: str
    history: Sequence[str]  # oldest first
    exclude: Sequence[str] = ()
    k: int = 100
    interests: int | None = None  # None: as the artifact says


@dataclass(frozen=True, slots=True)
class Candidates:
    """The answer to one query, best first."""

    item_ids: list[str]
    scores: list[float]
    interests: list[int]  # which interest recalled it; -1: popular back-fill
    rows: list[int]
    unknown: int  # items of the history that the catalogue does not hold
    cold: bool  # no known item in the history: popular items


@dataclass(frozen=True, slots=True)
class _Case:
    """A query in rows."""

    user: int
    history: IntArray
    closed: NDArray[np.int64]  # rows that must not be returned
    k: int
    interests: int
    unknown: int


class Recaller:
    """A loaded artifact that answers queries. `recall` is to be called from one thread."""

    def __init__(self, artifact: Artifact, index: ItemIndex, device: torch.device) -> None:
        self.manifest = artifact.manifest
        self.version = artifact.manifest.version
        self.catalogue_size = len(artifact.items)
        self.max_interests = artifact.manifest.model.max_interests
        self._model = artifact.model.to(device)
        self._device = device
        self._index = index
        self.item_ids: list[str] = artifact.items["item_id"].to_list()
        self._item_rows = {item: row for row, item in enumerate(self.item_ids)}
        self._user_rows = {user: row for row, user in enumerate(artifact.user_ids)}
        columns = artifact.items.drop("item_id", "count", strict=False)
        self._metadata = columns.to_dict(as_series=False)
        self._popular_V = np.argsort(-artifact.popularity, kind="stable")

    @classmethod
    def load(cls, artifacts: Path, device: str = "auto") -> Self:
        """Load the served version under `artifacts`, or the bundle that it is.

        Every checksum is verified. Raises ArtifactError that names the file at fault.
        """
        folder = find_bundle(artifacts)
        artifact = load_artifact(folder)
        chosen = choose_device(device)
        try:
            index = ItemIndex.load(folder, chosen.type)
        except ValueError as error:
            raise ArtifactError(str(error)) from error
        if index.vectors_sha256 != artifact.manifest.vectors_sha256:
            raise ArtifactError(f"{folder}: the index was built from other item vectors")
        return cls(artifact, index, chosen)

    def recall(self, queries: Sequence[Query]) -> tuple[list[Candidates], StageSeconds]:
        """Answer a batch of queries, in order; blocks."""
        started = time.perf_counter()
        cases = [self._case(query) for query in queries]
        warm = [case for case in cases if len(case.history)]
        hits = _Hits(self._index, warm)
        if warm:
            self._roll_out(warm, hits)
        rolled_out = time.perf_counter()
        merged = iter([self._merge(case, *hits.of(i)) for i, case in enumerate(warm)])
        answers = [
            self._answer(case, next(merged) if len(case.history) else self._popular(case))
            for case in cases
        ]
        finished = time.perf_counter()
        return answers, {
            "model": rolled_out - started - hits.seconds,
            "search": hits.seconds,
            "merge": finished - rolled_out,
        }

    def popular(self, query: Query) -> Candidates:
        """Popular items the user has not seen: the answer without a usable history. Cheap."""
        case = self._case(query)
        return self._answer(case, self._popular(case), cold=True)

    def metadata(self, row: int) -> dict[str, Any]:
        """Title and attributes of an item, as far as the artifact has them."""
        return {name: v for name, of in self._metadata.items() if (v := of[row]) is not None}

    @torch.inference_mode()
    def _roll_out(self, warm: Sequence[_Case], hits: "_Hits") -> None:
        history_BL, lengths_B = pad([c.history for c in warm], self._model.config.max_history)
        rollout(
            self._model,
            torch.from_numpy(history_BL).to(self._device),
            torch.from_numpy(lengths_B).to(self._device),
            torch.tensor([case.user for case in warm], device=self._device),
            max(case.interests for case in warm),
            hits.search,
        )

    def _case(self, query: Query) -> _Case:
        history = [self._item_rows.get(item, -1) for item in query.history]
        known = np.array([row for row in history if row >= 0], dtype=np.int64)
        excluded = [row for item in query.exclude if (row := self._item_rows.get(item)) is not None]
        return _Case(
            user=self._user_rows.get(query.user_id, -1),
            history=known,
            closed=np.unique(np.concatenate([known, np.array(excluded, dtype=np.int64)])),
            k=query.k,
            interests=min(query.interests or self.manifest.recall.interests, self.max_interests),
            unknown=len(history) - len(known),
        )

    def _merge(
        self, case: _Case, rows: list[NDArray[np.int64]], scores: list[NDArray[np.float32]]
    ) -> Merged:
        shares = quotas(case.k, case.interests, self.manifest.recall.first_share)
        merged = merge(rows, scores, case.closed, shares)
        return backfill(merged, self._popular_V, case.closed, case.k)

    def _popular(self, case: _Case) -> Merged:
        nothing = Merged(np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64))
        return backfill(nothing, self._popular_V, case.closed, case.k)

    def _answer(self, case: _Case, merged: Merged, cold: bool = False) -> Candidates:
        rows = merged.rows_K.tolist()
        return Candidates(
            item_ids=[self.item_ids[row] for row in rows],
            scores=merged.scores_K.tolist(),
            interests=merged.interests_K.tolist(),
            rows=rows,
            unknown=case.unknown,
            cold=cold or not len(case.history),
        )


class _Hits:
    """The hits of every step of a rollout: candidates of that interest, and the next token."""

    def __init__(self, index: ItemIndex, cases: Sequence[_Case]) -> None:
        self._index = index
        self._cases = cases
        # Whatever is closed or given by another interest may stand before the wanted hits.
        self._fetch = max((case.k + len(case.closed) for case in cases), default=0)
        self._rows: list[NDArray[np.int64]] = []  # a step each, B F
        self._scores: list[NDArray[np.float32]] = []
        self._offered: list[NDArray[np.int64]] = []  # a step each, B
        self.seconds = 0.0

    def search(self, interest_BD: Tensor) -> Tensor:
        """See `model.rollout.Search`."""
        queries_BD = interest_BD.cpu().numpy()
        started = time.perf_counter()
        fetch = self._fetch + len(self._offered)
        rows_BF, scores_BF = self._index.search(queries_BD, fetch)
        self._rows.append(rows_BF)
        self._scores.append(scores_BF)
        best_B = np.array([self._best(i, rows_F) for i, rows_F in enumerate(rows_BF)])
        self._offered.append(best_B)
        self.seconds += time.perf_counter() - started
        return torch.from_numpy(best_B).to(interest_BD.device)

    def of(self, i: int) -> tuple[list[NDArray[np.int64]], list[NDArray[np.float32]]]:
        """The hits of case i, for as many interests as it asked for."""
        steps = slice(self._cases[i].interests)
        return [rows[i] for rows in self._rows[steps]], [s[i] for s in self._scores[steps]]

    def _best(self, i: int, rows_F: NDArray[np.int64]) -> int:
        """The best hit that is open and was not offered; the best of all when none is left."""
        open_F = rows_F[~np.isin(rows_F, self._cases[i].closed)]
        offered = [best_B[i] for best_B in self._offered]
        return int(next((row for row in open_F if row not in offered), rows_F[0]))
