"""Generation on GPUs: the whole rollout of a batch runs there, and comes back once.

Batches are padded to few sizes. The usual ones are recorded as CUDA graphs at start, others when
they have come often: then a batch is a copy there, one launch and a copy back.

Shapes: B batch (padded), L longest history, D width, C closed rows (-1: none), M steps, F hits,
W users of a batch who run together.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.artifact.bundle import Artifact
from model.network.gpt import GPT
from service.recall.candidate_lists import CandidateLists
from service.recall.gpu.choice import Approximate, fastest_search
from service.recall.gpu.search import CLOSED, HITS
from service.recall.query_batch import QueryBatch
from service.recall.types import Floats, Ints, StageTimes

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


class DeviceBatch(NamedTuple):
    """What goes to the device."""

    history_BL: Tensor  # newest items, padded on the right
    lengths_B: Tensor
    users_B: Tensor  # rows of the user table, -1: unknown
    closed_BC: Tensor


Found = tuple[Tensor, Tensor]
"""Rows and scores, M B F each."""


class GpuBackend:
    """See `service.recall.recaller.Backend`."""

    max_users_per_pass = preferred_batch = LARGEST

    def __init__(self, artifact: Artifact, devices: Sequence[torch.device]) -> None:
        """The network runs on the first of the devices; all share the catalogue."""
        self._device = devices[0]
        approximate = Approximate.of(artifact.folder)
        self._rollout = Rollout(artifact.model.to(self._device), devices, approximate)
        self._longest = artifact.manifest.model.max_history
        self._usual = artifact.manifest.recall.interests
        self._catalogue = len(artifact.items)
        self._max_interests = artifact.manifest.model.max_interests
        self._graphs: dict[Size, Graph] = {}
        self._seen = Counter[Size]()
        self._recording = self._rollout.recordable and self._device.type == "cuda"
        if self._recording:
            self._pool = torch.cuda.graph_pool_handle()
            size = LARGEST  # first: the smaller ones fit into its memory
            while size:
                self._record(Size(size, CLOSED, HITS, self._usual))
                size //= 2

    @torch.inference_mode()
    def generate(self, batch: QueryBatch, times: StageTimes) -> CandidateLists:
        """See `service.recall.recaller.Backend`. Searches count as part of the model."""
        lists = CandidateLists.empty(batch, self._catalogue, self._max_interests)
        steps = list(batch.steps())
        if not steps:
            return lists
        with times.measure("model"):
            size = size_of(batch, max(len(steps), self._usual))
            scores_MBF, rows_MBF = self._hits(device_batch(batch, size, self._longest), size)
        with times.measure("merge"):
            warm = slice(len(batch.warm_W))
            for step in steps:
                scores_WF, rows_WF = scores_MBF[step.interest, warm], rows_MBF[step.interest, warm]
                lists.append_best(step.queries_W, scores_WF, rows_WF, step.quotas_W, step.interest)
        return lists

    def _hits(self, batch: DeviceBatch, size: Size) -> tuple[Floats, Ints]:
        """Scores and rows of the hits of every step, M B F each, back from the device."""
        with torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext():
            rows, scores = self._run(batch, size)
        return scores.cpu().numpy(), rows.cpu().numpy()

    def _run(self, batch: DeviceBatch, size: Size) -> Found:
        self._seen[size] += 1
        often = self._seen[size] == OFTEN and len(self._graphs) < MOST_GRAPHS
        if self._recording and often and size not in self._graphs:
            self._record(size)
        if graph := self._graphs.get(size):
            return graph(batch)
        return self._rollout(DeviceBatch(*(part.to(self._device) for part in batch)), size)

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

    def __call__(self, batch: DeviceBatch, size: Size) -> Found:
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
        self._given = DeviceBatch(*(part.to(device) for part in padding(size, longest)))
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

    def __call__(self, batch: DeviceBatch) -> Found:
        """What it finds stays until the next call."""
        for given, part in zip(self._given, batch, strict=True):
            given.copy_(part, non_blocking=True)
        self._graph.replay()
        return self._found


def size_of(queries: QueryBatch, steps: int) -> Size:
    """The recorded size where one is large enough, else the next powers of two."""
    warm_W = queries.warm_W
    return Size(
        batch=_power(len(warm_W)),
        closed=max(CLOSED, _power(int(queries.excluded.lengths_B[warm_W].max()))),
        most=max(HITS, _power(int(queries.k_B[warm_W].max()))),
        steps=steps,
    )


def device_batch(queries: QueryBatch, size: Size, longest: int) -> DeviceBatch:
    """Tensors on the CPU: the queries with a history, and padding."""
    batch, warm_W = padding(size, longest), queries.warm_W
    parts = [
        queries.newest.padded(warm_W, longest, 0),
        queries.newest.lengths_B[warm_W],
        queries.users_B[warm_W],
        queries.excluded.padded(warm_W, size.closed, -1),
    ]
    for whole, part in zip(batch, parts, strict=True):
        whole[: len(warm_W)] = torch.from_numpy(part)
    return batch


def padding(size: Size, longest: int) -> DeviceBatch:
    """A batch of users who are unknown and have the history of item 0, on the CPU."""
    history_BL = torch.zeros(size.batch, longest, dtype=torch.int64)
    closed_BC = torch.full((size.batch, size.closed), -1)
    return DeviceBatch(history_BL, history_BL[:, 0] + 1, history_BL[:, 0] - 1, closed_BC)


def _power(count: int) -> int:
    """The least power of two that is not less."""
    return 1 << max(0, count - 1).bit_length()
