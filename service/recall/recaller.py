"""The recall algorithm, on a batch: histories → rollout and search → merge.

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
from service.recall.candidate_lists import POPULAR, Merge
from service.recall.cpu.backend import OnCpu
from service.recall.gpu.backend import OnGpu
from service.recall.item_ids import Vocabulary
from service.recall.json_encoder import Encoder
from service.recall.query_batch import Cases, quota_table
from service.recall.types import Candidates, Encoded, Ints, Query, StageSeconds


class Generator(Protocol):
    """Interests and their hits, on one kind of machine."""

    together: int
    """So many queries at the most run together."""
    batch: int
    """The largest batch that pays under load: others wait for their answers until it ends."""

    def generate(self, merge: Merge, cases: Cases, users_W: Ints) -> StageSeconds:
        """Fill the lists of all users of a batch who have a history.

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
        item_ids = artifact.items["item_id"].to_list()
        self._vocabulary, self._encoder = Vocabulary.of(item_ids), Encoder(item_ids)
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
        answers, seconds = [], dict.fromkeys(("model", "search", "merge"), 0.0)
        for cases, merge in self._filled(queries, seconds):
            about = zip(cases.unknown_B.tolist(), cases.cold_B.tolist(), strict=True)
            for merged, (unknown, cold) in zip(merge.finish(), about, strict=True):
                answers.append(Candidates(*merged, unknown, cold))
        return answers, seconds

    def answer(self, queries: Sequence[Query]) -> tuple[list[Encoded], StageSeconds]:
        """`recall`, in JSON."""
        answers, seconds = [], dict.fromkeys(("model", "search", "merge", "encode"), 0.0)
        for cases, merge in self._filled(queries, seconds):
            started = time.perf_counter()
            about = zip(cases.unknown_B.tolist(), cases.cold_B.tolist(), strict=True)
            for merged, (unknown, cold) in zip(merge.finish(), about, strict=True):
                items = self._encoder.encode(merged)
                answers.append(Encoded(items, merged.rows, unknown, cold))
            seconds["encode"] += time.perf_counter() - started
        return answers, seconds

    def names(self, found: Candidates) -> list[str]:
        """The candidates' own ids."""
        return self._vocabulary.names(found.rows.tolist())

    @property
    def item_ids(self) -> list[str]:
        """The whole catalogue's, row by row; put together anew each time."""
        return self._vocabulary.names(range(self.catalogue_size))

    def warm_up(self) -> None:
        """Do the first, slow batches, which compile, before a user waits for them."""
        history = self._vocabulary.names(range(min(self._longest, self.catalogue_size)))
        for size in (1, 8):
            self.answer([Query("", history), Query("", [])] * size)

    def _filled(
        self, queries: Sequence[Query], seconds: StageSeconds
    ) -> Iterator[tuple[Cases, Merge]]:
        """Everyone's lists, for so many queries at once as run together; adds the time it takes."""
        together = self._generator.together
        for first in range(0, len(queries), together):
            started = time.perf_counter()
            cases = self._cases(queries[first : first + together])
            longest = int(cases.k_B.max())
            merge = Merge(self.catalogue_size, *cases.closed, longest, self.max_interests)
            users_W = np.flatnonzero(~cases.cold_B)
            taken = {"model": 0.0, "search": 0.0}
            if len(users_W):
                taken = self._generator.generate(merge, cases, users_W)
            self._backfill(merge, cases)
            taken["merge"] = time.perf_counter() - started - sum(taken.values())
            for stage, part in taken.items():
                seconds[stage] += part
            yield cases, merge

    def _cases(self, queries: Sequence[Query]) -> Cases:
        asked = [(query.history, query.exclude) for query in queries]
        newest, closed, unknown_B = self._vocabulary.read(asked, self._longest)
        most, share = self.max_interests, self.manifest.recall.first_share
        usual = self.manifest.recall.interests
        shares = [quotas(q.k, min(q.interests or usual, most), share) for q in queries]
        return Cases(
            users_B=np.array([self._user_rows.get(query.user_id, -1) for query in queries]),
            newest=newest,
            closed=closed,
            k_B=np.array([query.k for query in queries]),
            quotas_MB=quota_table(shares),
            unknown_B=unknown_B,
        )

    def _backfill(self, merge: Merge, cases: Cases) -> None:
        """Lists that are still short get popular items."""
        missing_B = cases.k_B - merge.sizes_B
        short_S = np.flatnonzero(missing_B)
        if len(short_S):
            reach = int((cases.k_B + cases.closed.lengths_B)[short_S].max())
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
