"""The recall algorithm, on a batch: histories → rollout and search → merge.

The service answers with it and `recgpt evaluate` measures it: what is measured is what is served.

Shapes: B batch, W those of it who have a history, L length, F popular items.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from index.search import ItemIndex
from model.artifact import Artifact, find_bundle, load_artifact
from model.manifest import ArtifactError
from model.rollout import quotas
from model.run import choose_device
from service.cpu import OnCpu
from service.encoding import Encoder
from service.gpu import OnGpu
from service.hits import Case
from service.merge import POPULAR, Ints, Merge
from service.queries import Candidates, Encoded, Query, StageSeconds


class Generator(Protocol):
    """Interests and their hits, on one kind of machine."""

    together: int
    """So many users at the most run together."""
    batch: int
    """The largest batch that pays under load: others wait for their answers until it ends."""

    def generate(self, merge: Merge, cases: Sequence[Case], users_W: Ints) -> StageSeconds:
        """Fill the lists of these users of a batch, each of whom has a history.

        Returns the seconds of "model" and "search".
        """


class Recaller:
    """A loaded artifact that answers queries. `recall` is to be called from one thread."""

    def __init__(self, artifact: Artifact, generator: Generator) -> None:
        self.manifest = artifact.manifest
        self.bundle = artifact.folder
        self.version = artifact.manifest.version
        self.catalogue_size = len(artifact.items)
        self.max_interests = artifact.manifest.model.max_interests
        self._generator = generator
        self.batch = generator.batch
        self._longest = artifact.manifest.model.max_history
        self.item_ids: list[str] = artifact.items["item_id"].to_list()
        self._encoder = Encoder(self.item_ids)
        self._item_rows = {item: row for row, item in enumerate(self.item_ids)}
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
            return cls(artifact, OnGpu(artifact, devices))
        return cls(artifact, OnCpu(artifact, _index_of(artifact)))

    def recall(self, queries: Sequence[Query]) -> tuple[list[Candidates], StageSeconds]:
        """Answer a batch of queries, in order; blocks."""
        started = time.perf_counter()
        cases = [self._case(query) for query in queries]
        longest = max((case.k for case in cases), default=0)
        closed = [case.closed for case in cases]
        merge = Merge(self.catalogue_size, closed, longest, self.max_interests)
        warm = np.array([user for user, case in enumerate(cases) if case.history], dtype=np.int64)
        together = self._generator.together
        seconds = {"model": 0.0, "search": 0.0}
        for first in range(0, len(warm), together):
            taken = self._generator.generate(merge, cases, warm[first : first + together])
            seconds = {stage: seconds[stage] + taken[stage] for stage in seconds}
        self._backfill(merge, cases)
        answers = [
            Candidates(*merged, unknown=case.unknown, cold=not case.history)
            for case, merged in zip(cases, merge.finish(), strict=True)
        ]
        merging = time.perf_counter() - started - sum(seconds.values())
        return answers, seconds | {"merge": merging}

    def answer(self, queries: Sequence[Query]) -> tuple[list[Encoded], StageSeconds]:
        """`recall`, in JSON."""
        found, seconds = self.recall(queries)
        started = time.perf_counter()
        encoded = [
            Encoded(self._encoder.encode(one), one.rows, one.unknown, one.cold) for one in found
        ]
        return encoded, seconds | {"encode": time.perf_counter() - started}

    def names(self, found: Candidates) -> list[str]:
        """The candidates' own ids."""
        return [self.item_ids[row] for row in found.rows.tolist()]

    def warm_up(self) -> None:
        """Do the first, slow batches, which compile, before a user waits for them."""
        history = self.item_ids[: self._longest]
        for size in (1, 8):
            self.answer([Query("", history), Query("", [])] * size)

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


def _index_of(artifact: Artifact) -> ItemIndex:
    """The bundle's own. Raises ArtifactError where it is not of these vectors."""
    try:
        index = ItemIndex.load(artifact.folder, artifact.model.items.weight.numpy())
    except ValueError as error:
        raise ArtifactError(str(error)) from error
    if index.vectors_sha256 != artifact.manifest.vectors_sha256:
        raise ArtifactError(f"{artifact.folder}: the index was built from other item vectors")
    return index
