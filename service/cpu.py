"""Generation on a CPU: the recorded network, and whole scores or Faiss.

Shapes: V catalogue, D width, W users of a batch who run together.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from index.search import ItemIndex
from model.artifact import Artifact
from model.evaluate import pad
from model.inference import Inference
from model.recorded import Recorded
from model.rollout import rollout
from service.dense import DenseHits
from service.hits import Case, Hits
from service.merge import Ints, Merge
from service.queries import StageSeconds
from service.scores import Scores

HitsOf = Callable[[Merge, Sequence[Case], Ints], Hits | DenseHits]
"""The searches of those users of a batch who are named."""


class OnCpu:
    """See `service.recall.Generator`."""

    together = 64  # so many users' states and scores fit into the caches

    def __init__(self, artifact: Artifact, index: ItemIndex) -> None:
        """With as many threads as torch uses now."""
        recorded = Recorded(artifact.folder, torch.get_num_threads())
        self._network = Inference(artifact.model, recorded)
        self._longest = artifact.manifest.model.max_history
        self._hits = _hits_of(index, artifact.model.items.weight)

    @torch.inference_mode()
    def generate(self, merge: Merge, cases: Sequence[Case], users_W: Ints) -> StageSeconds:
        """See `service.recall.Generator`."""
        started = time.perf_counter()
        hits = self._hits(merge, cases, users_W)
        warm = [cases[user] for user in users_W.tolist()]
        history_WL, lengths_W = pad([case.history for case in warm], self._longest)
        rollout(
            self._network,
            torch.from_numpy(history_WL),
            torch.from_numpy(lengths_W),
            torch.tensor([case.user for case in warm]),
            max(len(case.quotas) for case in warm),
            hits.search,
        )
        hits.refill()
        seconds = time.perf_counter() - started
        return {
            "model": seconds - hits.search_seconds - hits.merge_seconds,
            "search": hits.search_seconds,
            "merge": hits.merge_seconds,
        }


def _hits_of(index: ItemIndex, vectors_VD: Tensor) -> HitsOf:
    """The search that the export chose; whole scores need no index."""
    if index.kind == "dense":
        return partial(DenseHits, Scores(vectors_VD))
    return partial(Hits, index)
