"""The recall algorithm, on a batch: histories → interests → candidates.

The service answers with it and `recgpt evaluate` measures it: what is measured is what is served.

Shapes: B batch, W those of it who have a history, L length, F popular items.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from index.search import ItemIndex
from model.artifact.bundle import Artifact, find_bundle, load_artifact
from model.artifact.manifest import ArtifactError
from model.device import choose_device
from model.network.rollout import quotas
from service.recall.candidate_lists import POPULAR, CandidateLists
from service.recall.cpu.backend import CpuBackend
from service.recall.gpu.backend import GpuBackend
from service.recall.item_ids import ItemIds
from service.recall.json_encoder import JsonEncoder
from service.recall.query_batch import QueryBatch, quota_table
from service.recall.types import Candidates, EncodedCandidates, Ints, Query, StageSeconds


class Backend(Protocol):
    """Interests and their hits, on one kind of machine."""

    max_users_per_pass: int
    """The most users whose interests are generated in one pass."""
    preferred_batch: int
    """The largest batch that pays under load: others wait for their answers until it ends."""

    def generate(self, lists: CandidateLists, batch: QueryBatch, users_W: Ints) -> StageSeconds:
        """Fill the lists of all users of a batch who have a history.

        Returns the seconds of "model" and "search".
        """


class Recaller:
    """A loaded artifact that answers queries. `recall` is to be called from one thread."""

    def __init__(self, artifact: Artifact, backend: Backend) -> None:
        self.manifest = artifact.manifest
        self.bundle = artifact.folder
        self.version = artifact.manifest.version
        self.catalogue_size = len(artifact.items)
        self.max_interests = artifact.manifest.model.max_interests
        self._backend = backend
        self.preferred_batch = backend.preferred_batch
        self._max_history = artifact.manifest.model.max_history
        item_ids = artifact.items["item_id"].to_list()
        self._ids, self._encoder = ItemIds.of(item_ids), JsonEncoder(item_ids)
        nobody: dict[str, int] = {}
        self._user_rows = artifact.user_rows or nobody
        self._popular_V = np.argsort(-artifact.popularity, kind="stable")

    @classmethod
    def load(cls, artifacts: Path, device: str = "auto") -> Self:
        """Load the served version under `artifacts`, or the bundle that it is.

        `device`: auto, cpu, cuda, cuda:1, or several GPUs that share the catalogue: cuda:0,cuda:1.
        Every checksum is verified. Raises ArtifactError that names the file at fault.
        """
        folder = find_bundle(artifacts)
        artifact = load_artifact(folder)
        devices = [choose_device(name) for name in device.split(",")]
        if devices[0].type != "cpu":
            return cls(artifact, GpuBackend(artifact, devices))
        return cls(artifact, CpuBackend(artifact, _index_of(artifact)))

    def recall(self, queries: Sequence[Query]) -> tuple[list[Candidates], StageSeconds]:
        """Answer a batch of queries, in order; blocks."""
        answers, seconds = [], dict.fromkeys(("model", "search", "merge"), 0.0)
        for batch, lists in self._filled(queries, seconds):
            about = zip(batch.unknown_B.tolist(), batch.cold_B.tolist(), strict=True)
            for merged, (unknown, cold) in zip(lists.finish(), about, strict=True):
                answers.append(Candidates(*merged, unknown, cold))
        return answers, seconds

    def recall_json(self, queries: Sequence[Query]) -> tuple[list[EncodedCandidates], StageSeconds]:
        """`recall`, in JSON."""
        answers, seconds = [], dict.fromkeys(("model", "search", "merge", "encode"), 0.0)
        for batch, lists in self._filled(queries, seconds):
            started = time.perf_counter()
            about = zip(batch.unknown_B.tolist(), batch.cold_B.tolist(), strict=True)
            for merged, (unknown, cold) in zip(lists.finish(), about, strict=True):
                items = self._encoder.encode(merged)
                answers.append(EncodedCandidates(items, merged.rows, unknown, cold))
            seconds["encode"] += time.perf_counter() - started
        return answers, seconds

    def ids_of(self, found: Candidates) -> list[str]:
        """The candidates' own ids."""
        return self._ids.ids_of(found.rows.tolist())

    @property
    def item_ids(self) -> list[str]:
        """The whole catalogue's, row by row; put together anew each time."""
        return self._ids.ids_of(range(self.catalogue_size))

    def warm_up(self) -> None:
        """Do the first, slow batches, which compile, before a user waits for them."""
        history = self._ids.ids_of(range(min(self._max_history, self.catalogue_size)))
        for size in (1, 8):
            self.recall_json([Query("", history), Query("", [])] * size)

    def _filled(
        self, queries: Sequence[Query], seconds: StageSeconds
    ) -> Iterator[tuple[QueryBatch, CandidateLists]]:
        """Everyone's lists, pass by pass; adds the time it takes to `seconds`."""
        max_users_per_pass = self._backend.max_users_per_pass
        for first in range(0, len(queries), max_users_per_pass):
            started = time.perf_counter()
            batch = self._batch_of(queries[first : first + max_users_per_pass])
            max_k = int(batch.k_B.max())
            lists = CandidateLists(self.catalogue_size, *batch.excluded, max_k, self.max_interests)
            users_W = np.flatnonzero(~batch.cold_B)
            taken = {"model": 0.0, "search": 0.0}
            if len(users_W):
                taken = self._backend.generate(lists, batch, users_W)
            self._backfill(lists, batch)
            taken["merge"] = time.perf_counter() - started - sum(taken.values())
            for stage, part in taken.items():
                seconds[stage] += part
            yield batch, lists

    def _batch_of(self, queries: Sequence[Query]) -> QueryBatch:
        id_lists = [(query.history, query.exclude) for query in queries]
        newest, excluded, unknown_B = self._ids.read(id_lists, self._max_history)
        most, share = self.max_interests, self.manifest.recall.first_share
        usual = self.manifest.recall.interests
        shares = [quotas(q.k, min(q.interests or usual, most), share) for q in queries]
        return QueryBatch(
            users_B=np.array([self._user_rows.get(query.user_id, -1) for query in queries]),
            newest=newest,
            excluded=excluded,
            k_B=np.array([query.k for query in queries]),
            quotas_MB=quota_table(shares),
            unknown_B=unknown_B,
        )

    def _backfill(self, lists: CandidateLists, batch: QueryBatch) -> None:
        """Lists that are still short get popular items."""
        missing_B = batch.k_B - lists.sizes_B
        short_S = np.flatnonzero(missing_B)
        if len(short_S):
            reach = int((batch.k_B + batch.excluded.lengths_B)[short_S].max())
            first_SF = np.tile(self._popular_V[:reach], (len(short_S), 1))
            nothing_SF = np.zeros(first_SF.shape, dtype=np.float32)
            lists.take(short_S, first_SF, nothing_SF, missing_B[short_S], POPULAR)


def _index_of(artifact: Artifact) -> ItemIndex:
    """The bundle's own. Raises ArtifactError where it is not of these vectors."""
    try:
        index = ItemIndex.load(artifact.folder, artifact.model.items.weight.numpy())
    except ValueError as error:
        raise ArtifactError(str(error)) from error
    if index.vectors_sha256 != artifact.manifest.vectors_sha256:
        raise ArtifactError(f"{artifact.folder}: the index was built from other item vectors")
    return index
