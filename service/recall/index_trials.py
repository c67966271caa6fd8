"""Trials of a CPU's index: see `service.recall.trials`.

Shapes: B interests of the sample, V catalogue, D width, N items of a part, F hits.
"""

import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from index.exact import ExactIndex
from index.formats import QUERIES_FILE
from index.search import IvfIndex
from service.recall.trials import PART_ITEMS, Trial, TrialResult
from service.recall.types import Floats

NO_BYTES = b""


class IndexTrials:
    """Searches an index that recalls use as well, from the same thread."""

    def __init__(self, index: ExactIndex | IvfIndex, vectors_VD: Floats, folder: Path) -> None:
        """Takes the index, its vectors, and the folder of the bundle with the sample."""
        self._index = index
        self._vectors_VD = vectors_VD
        file = folder / QUERIES_FILE
        if file.exists():
            self._sample_BD: Floats = np.load(file, allow_pickle=False)
        else:
            self._sample_BD = np.empty((0, vectors_VD.shape[1]), np.float32)

    def make(self, trial: Trial) -> TrialResult:
        """Returns the hits; none if there is no sample."""
        hits = min(trial.hits, len(self._vectors_VD))
        if not len(self._sample_BD):
            return self._result(hits)
        interest_1D = self._sample_BD[[trial.interest % len(self._sample_BD)]]
        if trial.lists is None:
            scores_F, rows_F = self._exact(interest_1D[0], hits, trial.begin)
            return self._result(hits, scores_F.tobytes(), rows_F.tobytes())
        for _ in range(2):  # the first one brings what it reads into the caches
            started = time.perf_counter()
            scores_F, rows_F = self._search(interest_1D, hits, trial.lists)
            seconds = time.perf_counter() - started
        return self._result(hits, scores_F.tobytes(), rows_F.tobytes(), seconds)

    def warm_up(self) -> None:
        """Searches once, so that everything is compiled before an engine answers."""
        self.make(Trial(0, 1, 0))

    def _exact(self, interest_D: Floats, hits: int, begin: int) -> tuple[Floats, NDArray[np.int32]]:
        """Returns the best hits in floats of one part of the items."""
        part_ND = torch.from_numpy(self._vectors_VD[begin : begin + PART_ITEMS])
        scores_N = part_ND @ torch.from_numpy(interest_D)
        best = scores_N.topk(min(hits, len(scores_N)))
        return best.values.numpy(), (best.indices + begin).to(torch.int32).numpy()

    def _search(
        self, interest_1D: Floats, hits: int, lists: int
    ) -> tuple[Floats, NDArray[np.int32]]:
        """Returns the best hits in this many lists, or as a recall finds them."""
        if lists and isinstance(self._index, IvfIndex):
            scores_1F, rows_1F = self._index.search_lists(interest_1D, hits, lists)
        else:
            scores_1F, rows_1F = self._index.search(interest_1D, hits)
        found_F = rows_1F[0] >= 0
        return scores_1F[0][found_F], rows_1F[0][found_F].astype(np.int32)

    def _result(
        self, hits: int, scores: bytes = NO_BYTES, rows: bytes = NO_BYTES, seconds: float = 0.0
    ) -> TrialResult:
        lists = self._index.lists if isinstance(self._index, IvfIndex) else 0
        return TrialResult(
            scores,
            rows,
            seconds,
            kind=self._index.kind,
            items=len(self._vectors_VD),
            lists=lists,
            served_lists=self._index.effort(hits) if isinstance(self._index, IvfIndex) else 0,
            sample=len(self._sample_BD),
        )
