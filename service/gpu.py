"""Generation on GPUs: the whole rollout of a batch runs there, and comes back once.

Batches are padded to few sizes. The usual ones are recorded as CUDA graphs at start, others when
they have come often: then a batch is a copy there, one launch and a copy back.

Shapes: B batch (padded), L longest history, D width, C closed rows (-1: none), M steps, F hits,
W users of a batch who run together.
"""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.artifact import Artifact
from model.gpt import GPT
from service.gpu_choice import Approximate, fastest_search
from service.gpu_search import CLOSED, HITS
from service.hits import Case, quota_table
from service.merge import Ints, Merge
from service.queries import StageSeconds

log = logging.getLogger(__name__)

LARGEST = 256  # users of a batch
OFTEN = 50  # batches of one size, until it is recorded too: that takes a moment
MOST_GRAPHS = 64


class Size(NamedTuple):
    """What a batch is padded to."""

    batch: int
    closed: int
    most: int
    steps: int


class Batch(NamedTuple):
    """What goes to the device."""

    history_BL: Tensor  # newest items, padded on the right
    lengths_B: Tensor
    users_B: Tensor  # rows of the user table, -1: unknown
    closed_BC: Tensor


Found = tuple[Tensor, Tensor]
"""Rows and scores, M B F each."""


class OnGpu:
    """See `service.recall.Generator`."""

    together = batch = LARGEST

    def __init__(self, artifact: Artifact, devices: Sequence[torch.device]) -> None:
        """The network runs on the first of the devices; all share the catalogue."""
        self._device = devices[0]
        approximate = Approximate.of(artifact.folder)
        self._rollout = Rollout(artifact.model.to(self._device), devices, approximate)
        self._longest = artifact.manifest.model.max_history
        self._graphs: dict[Size, Graph] = {}
        self._seen = Counter[Size]()
        self._recording = self._rollout.recordable and self._device.type == "cuda"
        if self._recording:
            self._pool = torch.cuda.graph_pool_handle()
            size = LARGEST  # first: the smaller ones fit into its memory
            while size:
                self._record(Size(size, CLOSED, HITS, artifact.manifest.recall.interests))
                size //= 2

    @torch.inference_mode()
    def generate(self, merge: Merge, cases: Sequence[Case], users_W: Ints) -> StageSeconds:
        """See `service.recall.Generator`. Searches count as part of the model."""
        started = time.perf_counter()
        warm = [cases[user] for user in users_W.tolist()]
        size = size_of(warm)
        batch = batch_of(warm, size, self._longest)
        with torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext():
            rows, scores = self._run(batch, size)
        rows_MBF, scores_MBF = rows.cpu().numpy(), scores.cpu().numpy()
        back = time.perf_counter()
        for step, quotas_W in enumerate(quota_table(warm)):
            users = slice(len(warm))
            merge.take(users_W, rows_MBF[step, users], scores_MBF[step, users], quotas_W, step)
        return {"model": back - started, "search": 0.0}

    def _run(self, batch: Batch, size: Size) -> Found:
        self._seen[size] += 1
        often = self._seen[size] == OFTEN and len(self._graphs) < MOST_GRAPHS
        if self._recording and often and size not in self._graphs:
            self._record(size)
        if graph := self._graphs.get(size):
            return graph(batch)
        return self._rollout(Batch(*(part.to(self._device) for part in batch)), size)

    def _record(self, size: Size) -> None:
        self._graphs[size] = Graph(self._rollout, size, self._longest, self._device, self._pool)
        log.info("recorded as a CUDA graph: %s", size)


class Rollout:
    """From histories to the hits of every step, on the device: no value is looked at here."""

    def __init__(
        self,
        model: GPT,
        devices: Sequence[torch.device],
        approximate: Approximate | None = None,
    ) -> None:
        self._model = model
        self._search = fastest_search(model.items.weight.detach(), devices, approximate)
        self.recordable = self._search.recordable

    def __call__(self, batch: Batch, size: Size) -> Found:
        """Of tensors on the device. No hit is closed."""
        further = size.steps - 1
        interest_BD, cache = self._model.prefill(
            batch.history_BL, batch.lengths_B, batch.users_B, further
        )
        offered_BM = torch.full((size.batch, size.steps), -1, device=interest_BD.device)
        found = [self._search.hits(interest_BD, batch.closed_BC, size.most)]
        for step in range(further):
            token_B1 = _first_new(found[-1][0][:, : size.steps], offered_BM)
            offered_BM[:, step : step + 1] = token_B1
            interest_BD = self._model.step(token_B1[:, 0], cache)
            found.append(self._search.hits(interest_BD, batch.closed_BC, size.most))
        rows, scores = zip(*found, strict=True)
        return torch.stack(rows), torch.stack(scores)


def _first_new(rows_BM: Tensor, offered_BM: Tensor) -> Tensor:
    """The first that was not offered before, B 1; there are as many as steps, so there is one."""
    old_BM = (rows_BM[..., None] == offered_BM[:, None]).any(dim=2)
    return rows_BM.gather(1, old_BM.to(torch.uint8).argmin(dim=1, keepdim=True))


class Graph:
    """A rollout of one size as a CUDA graph."""

    def __init__(
        self, rollout: Rollout, size: Size, longest: int, device: torch.device, pool: Any
    ) -> None:
        """Runs it a few times first, as CUDA graphs want it.

        Graphs of one `pool` share memory: what one has found is lost when another one runs.
        """
        nobody = Case(-1, [0], [], k=1, quotas=(1,), unknown=0)
        self._given = Batch(*(part.to(device) for part in batch_of([nobody], size, longest)))
        self._graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.device(device):
            aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(3):
                    rollout(self._given, size)
            torch.cuda.current_stream().wait_stream(aside)
            with torch.cuda.graph(self._graph, pool=pool):
                self._found = rollout(self._given, size)

    def __call__(self, batch: Batch) -> Found:
        """What it finds stays until the next call."""
        for given, part in zip(self._given, batch, strict=True):
            given.copy_(part, non_blocking=True)
        self._graph.replay()
        return self._found


def size_of(cases: Sequence[Case]) -> Size:
    """The recorded size where one is large enough, else the next powers of two."""
    steps = max(len(case.quotas) for case in cases)
    return Size(
        batch=_power(len(cases)),
        closed=max(CLOSED, _power(max(len(case.closed) for case in cases))),
        most=max(HITS, _power(max(case.k for case in cases))),
        steps=steps,
    )


def batch_of(cases: Sequence[Case], size: Size, longest: int) -> Batch:
    """Tensors on the CPU; those who are only padding have the history of item 0."""
    history_BL = np.zeros((size.batch, longest), dtype=np.int64)
    lengths_B = np.ones(size.batch, dtype=np.int64)
    users_B = np.full(size.batch, -1, dtype=np.int64)
    closed_BC = np.full((size.batch, size.closed), -1, dtype=np.int64)
    for user, case in enumerate(cases):
        newest = case.history[-longest:]
        history_BL[user, : len(newest)] = newest
        lengths_B[user] = len(newest)
        users_B[user] = case.user
        closed_BC[user, : len(case.closed)] = case.closed
    return Batch(*map(torch.from_numpy, (history_BL, lengths_B, users_B, closed_BC)))


def _power(count: int) -> int:
    """The least power of two that is not less."""
    return 1 << max(0, count - 1).bit_length()
