"""The recall algorithm, on a batch: histories → rollout and search → merge.

The service answers with it and `recgpt evaluate` measures it: what is measured is what is served.

Shapes: B batch, W those of it who have a history, L length, F popular items.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import torch

from index.search import ItemIndex
from model.artifact import Artifact, find_bundle, load_artifact
from model.evaluate import pad
from model.inference import Inference
from model.manifest import ArtifactError
from model.recorded import Recorded
from model.rollout import quotas, rollout
from model.run import choose_device
from service.dense import DenseHits
from service.hits import Case, Hits
from service.merge import POPULAR, Ints, Merge
from service.queries import Candidates, Query, StageSeconds
from service.scores import Scores

TOGETHER = 64
"""So many users' states and scores fit into the caches of a CPU: more of them run in turn."""

HitsOf = Callable[[Merge, Sequence[Case], Ints], Hits | DenseHits]
"""The searches of those users of a batch who are named."""


class Recaller:
    """A loaded artifact that answers queries. `recall` is to be called from one thread."""

    def __init__(self, artifact: Artifact, index: ItemIndex, device: torch.device) -> None:
        self.manifest = artifact.manifest
        self.bundle = artifact.folder
        self.version = artifact.manifest.version
        self.catalogue_size = len(artifact.items)
        self.max_interests = artifact.manifest.model.max_interests
        model = artifact.model.to(device)
        recorded = None
        if device.type == "cpu":
            recorded = Recorded(artifact.folder, torch.get_num_threads())
        self._network = Inference(model, recorded)
        self._hits = _hits_of(index, model.items.weight)
        self._device = device
        self._longest = artifact.manifest.model.max_history
        self.item_ids: list[str] = artifact.items["item_id"].to_list()
        self._item_rows = {item: row for row, item in enumerate(self.item_ids)}
        nobody: dict[str, int] = {}
        self._user_rows = artifact.user_rows or nobody
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
        longest = max((case.k for case in cases), default=0)
        closed = [case.closed for case in cases]
        merge = Merge(self.catalogue_size, closed, longest, self.max_interests)
        warm = np.array([user for user, case in enumerate(cases) if case.history], dtype=np.int64)
        size = TOGETHER if self._device.type == "cpu" else max(1, len(warm))
        parts = [warm[i : i + size] for i in range(0, len(warm), size)]
        found = [self._hits(merge, cases, users_W) for users_W in parts]
        rolling = time.perf_counter()
        for hits in found:
            self._roll_out([cases[user] for user in hits.users_W.tolist()], hits)
        rolled_out = time.perf_counter()
        for hits in found:
            hits.refill()
        self._backfill(merge, cases)
        answers = [
            Candidates(*merged, unknown=case.unknown, cold=not case.history)
            for case, merged in zip(cases, merge.finish(), strict=True)
        ]
        searching = sum(hits.search_seconds for hits in found)
        merging = sum(hits.merge_seconds for hits in found)
        return answers, {
            "model": rolled_out - rolling - searching - merging,
            "search": searching,
            "merge": time.perf_counter() - rolled_out + merging + rolling - started,
        }

    def names(self, found: Candidates) -> list[str]:
        """The candidates' own ids."""
        return [self.item_ids[row] for row in found.rows.tolist()]

    def warm_up(self) -> None:
        """Do the first, slow batches before a user waits for them."""
        history = self.item_ids[: self._longest]
        for size in (1, 8):
            self.recall([Query("", history)] * size)

    @torch.inference_mode()
    def _roll_out(self, warm: Sequence[Case], hits: Hits | DenseHits) -> None:
        history_BL, lengths_B = pad([c.history for c in warm], self._longest)
        rollout(
            self._network,
            torch.from_numpy(history_BL),
            torch.from_numpy(lengths_B),
            torch.tensor([case.user for case in warm]),
            max(len(case.quotas) for case in warm),
            hits.search,
        )

    def _case(self, query: Query) -> Case:
        rows = self._item_rows
        history = [row for item in query.history if (row := rows.get(item)) is not None]
        excluded = [row for item in query.exclude if (row := rows.get(item)) is not None]
        interests = min(query.interests or self.manifest.recall.interests, self.max_interests)
        return Case(
            user=self._user_rows.get(query.user_id, -1),
            history=history,
            closed=history + excluded,
            k=query.k,
            quotas=quotas(query.k, interests, self.manifest.recall.first_share),
            unknown=len(query.history) - len(history),
        )

    def _backfill(self, merge: Merge, cases: Sequence[Case]) -> None:
        """Lists that are still short get popular items."""
        missing_B = np.array([case.k for case in cases]) - merge.sizes_B
        short_S = np.flatnonzero(missing_B)
        if len(short_S):
            reach = max(cases[user].k + len(cases[user].closed) for user in short_S.tolist())
            first_SF = np.tile(self._popular_V[:reach], (len(short_S), 1))
            nothing_SF = np.zeros(first_SF.shape, dtype=np.float32)
            merge.take(short_S, first_SF, nothing_SF, missing_B[short_S], POPULAR)


def _hits_of(index: ItemIndex, vectors_VD: torch.Tensor) -> HitsOf:
    """The search that the export chose; whole scores need no index."""
    if index.kind == "dense" and vectors_VD.device.type == "cpu":
        return partial(DenseHits, Scores(vectors_VD))
    return partial(Hits, index)
