"""Generation on a GPU. The whole rollout of a batch runs there; only its hits come back.

EXPERIMENTAL: the code is tested on CPU tensors and has not run on a GPU yet.

A rollout is a few hundred small kernels, and to launch each from Python takes longer than to run
it. So rollouts are recorded as CUDA graphs, which replay all kernels by one launch. A graph has
fixed shapes and addresses: batches are padded to a few sizes. The usual sizes are recorded at
start, others when they have come often.

Shapes: B batch (padded), L longest history, D width, C excluded rows (-1: none), O real offers,
M steps, F hits, W queries with a history.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from model.artifact.bundle import Artifact
from model.network.config import MAX_OFFERS
from model.network.gpt import GPT
from model.network.rollout import real_first
from service.recall.candidate_lists import CandidateLists
from service.recall.filters.columns import Bools
from service.recall.gpu.search import DeviceMasks, Searcher, searcher
from service.recall.gpu.selection import DeviceSelection, DeviceSelector, device_masks
from service.recall.query_batch import QueryBatch, Step
from service.recall.types import Floats, Ints, StageTimes
from service.recall.variety.chooser import Chooser, Hits
from service.settings import GpuSearch

log = logging.getLogger(__name__)

MAX_BATCH = 256
USUAL_EXCLUDED, USUAL_HITS = 64, 128  # of the sizes that are recorded at start; others are larger
RECORD_AFTER = 50  # batches of one size, because a recording takes a moment
MAX_GRAPHS = 64


class Size(NamedTuple):
    """The shape that a batch is padded to."""

    batch: int
    excluded: int
    hits: int
    steps: int


class DeviceBatch(NamedTuple):
    """The tensors of a batch, on the way to the device or there."""

    history_BL: Tensor  # newest items, padded on the right
    lengths_B: Tensor
    users_B: Tensor  # rows of the user table, -1: unknown
    excluded_BC: Tensor
    real_BO: Tensor  # real offers, the newest first; -1: none


class StepHits(NamedTuple):
    """The outcome of a rollout."""

    scores_MBF: Tensor
    rows_MBF: Tensor
    interests_MBD: Tensor


class GpuBackend:
    """See `service.recall.recaller.Backend`."""

    max_users_per_pass = preferred_batch = MAX_BATCH

    def __init__(
        self, artifact: Artifact, device: torch.device, search: GpuSearch = "product"
    ) -> None:
        """Raises ValueError if that search is not available on the device.

        Nor can a GPU serve feedback, means of whole histories or a merge by probability yet.
        """
        config, merge = artifact.manifest.model, artifact.manifest.recall.merge
        for name, value, served in (
            ("model.feedback", config.feedback, "none"),
            ("model.user_mean", config.user_mean, False),
            ("recall.merge", merge, "quotas"),
        ):
            if value != served:
                raise ValueError(f"{name} = {value} is not served on a GPU yet: say --device cpu")
        if device.type == "cuda":
            log.warning("experimental: not run on a GPU yet; compare with --device cpu")
        self._device = device
        self.selector = DeviceSelector(device)
        model = artifact.model.to(device)
        vectors_VD = model.items.weight.detach()
        self._vectors_VD = vectors_VD
        self._rollout = Rollout(model, searcher(search, vectors_VD, artifact.folder))
        self._longest = artifact.manifest.model.max_history
        self._usual_steps = artifact.manifest.recall.interests
        self._catalogue = len(artifact.items)
        self._max_interests = artifact.manifest.model.max_interests
        self._graphs: dict[Size, RolloutGraph] = {}
        self._seen = Counter[Size]()
        self._recording = self._rollout.recordable and device.type == "cuda"
        if self._recording:
            self._pool = torch.cuda.graph_pool_handle()
            batch = MAX_BATCH  # the largest first: the smaller ones fit into its memory
            while batch:
                self._record(Size(batch, USUAL_EXCLUDED, USUAL_HITS, self._usual_steps))
                batch //= 2

    @torch.inference_mode()
    def generate(self, batch: QueryBatch, times: StageTimes) -> CandidateLists:
        """See `service.recall.recaller.Backend`. Searches count as part of the model."""
        lists = CandidateLists.empty(batch, self._catalogue, self._max_interests)
        steps = list(batch.steps())
        if not steps:
            return lists
        size = size_of(batch, max(len(steps), self._usual_steps))
        masks = self._masks(batch, size) if batch.allowed else None
        hits = self._run(device_batch(batch, size, self._longest), size, masks)
        masked = masks is not None or batch.choosers is not None
        scores_MBF, rows_MBF = self._on_host(hits, masked)
        times.lap("model")
        if batch.choosers:
            plain = CandidateLists.empty(batch, self._catalogue, self._max_interests)
        else:
            plain = lists
        warm = slice(len(batch.warm_W))
        for step in steps:
            scores_WF, rows_WF = scores_MBF[step.interest, warm], rows_MBF[step.interest, warm]
            plain.append_best(step.queries_W, scores_WF, rows_WF, step.quotas_W, step.interest)
            if batch.choosers:
                interests_WD = hits.interests_MBD[step.interest, warm]
                self._choose(batch.choosers, step, lists, scores_WF, rows_WF, interests_WD)
        if batch.choosers:
            plain.note_scores(batch.choosers)
        times.lap("merge")
        return lists

    def _choose(
        self,
        choosers: Sequence[Chooser],
        step: Step,
        lists: CandidateLists,
        scores_WF: Floats,
        rows_WF: Ints,
        interests_WD: Tensor,
    ) -> None:
        """Appends the quotas of queries with rules of variety."""
        for at, query in enumerate(step.queries_W.tolist()):
            first = Hits(*lists.unlisted(query, scores_WF[at], rows_WF[at]))
            search = partial(self._best_of, interests_WD[at])
            found = choosers[query].choose(int(step.quotas_W[at]), first, search)
            lists.extend(query, found.scores_F, found.rows_F, step.interest)

    def _best_of(self, interest_D: Tensor, open_V: Bools, hits: int) -> Hits:
        """Returns the best of these rows, up to a number of hits."""
        open_N = torch.from_numpy(np.flatnonzero(open_V)).to(self._device)
        scores_N = self._vectors_VD[open_N] @ interest_D
        scores_F, best_F = scores_N.topk(min(hits, len(open_N)))
        return Hits(scores_F.float().cpu().numpy(), open_N[best_F].cpu().numpy())

    def _masks(self, batch: QueryBatch, size: Size) -> DeviceMasks:
        assert batch.allowed
        allowed_W = [batch.allowed[query] for query in batch.warm_W.tolist()]
        selections_W = [one and cast(DeviceSelection, one.visible) for one in allowed_W]
        return device_masks(selections_W, size.batch, self._catalogue, self._device)

    def _on_host(self, hits: StepHits, masked: bool) -> tuple[Floats, Ints]:
        """Returns the scores and rows of the hits of every step, M B F each, on the host.

        With masks or rules of variety, a row of -1 ends the hits of a query.
        """
        rows = hits.rows_MBF
        if masked:
            rows = rows.masked_fill(hits.scores_MBF == -torch.inf, -1)
        return hits.scores_MBF.cpu().numpy(), rows.cpu().numpy()

    def _run(self, batch: DeviceBatch, size: Size, masks: DeviceMasks | None) -> StepHits:
        """Runs a rollout, by its graph if there is one; graphs are without masks."""
        with torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext():
            return self._run_there(batch, size, masks)

    def _run_there(self, batch: DeviceBatch, size: Size, masks: DeviceMasks | None) -> StepHits:
        if masks:
            return self._rollout(self._on_device(batch), size, masks)
        self._seen[size] += 1
        often = self._seen[size] == RECORD_AFTER and len(self._graphs) < MAX_GRAPHS
        if self._recording and often and size not in self._graphs:
            self._record(size)
        if graph := self._graphs.get(size):
            return graph(batch)
        return self._rollout(self._on_device(batch), size)

    def _on_device(self, batch: DeviceBatch) -> DeviceBatch:
        return DeviceBatch(*(part.to(self._device) for part in batch))

    def _record(self, size: Size) -> None:
        self._graphs[size] = RolloutGraph(
            self._rollout, size, self._longest, self._device, self._pool
        )
        log.info("recorded as a CUDA graph: %s", size)


class Rollout:
    """Turns histories into the hits of every step, on the device and without reading a value."""

    def __init__(self, model: GPT, searcher: Searcher) -> None:
        self._model = model
        self._searcher = searcher
        self.recordable = searcher.recordable

    def __call__(
        self, batch: DeviceBatch, size: Size, masks: DeviceMasks | None = None
    ) -> StepHits:
        """Takes tensors on the device. No hit is an excluded item, or one that no mask allows."""
        further = size.steps - 1
        interest_BD, cache = self._model.prefill(batch.history_BL, batch.lengths_B, batch.users_B)
        offered_BM = torch.full((size.batch, size.steps), -1, device=interest_BD.device)
        interests = [interest_BD]
        hits = [self._searcher.search(interest_BD, batch.excluded_BC, size.hits, masks)]
        for step in range(further):
            _, rows_BF = hits[-1]
            generated_B1 = _first_not_offered(rows_BF[:, : size.steps], offered_BM)
            offer_B1 = real_first(batch.real_BO[:, step : step + 1], generated_B1)
            offered_BM[:, step : step + 1] = offer_B1
            interest_BD = self._model.step(offer_B1[:, 0], cache)
            interests.append(interest_BD)
            hits.append(self._searcher.search(interest_BD, batch.excluded_BC, size.hits, masks))
        scores, rows = zip(*hits, strict=True)
        return StepHits(torch.stack(scores), torch.stack(rows), torch.stack(interests))


def _first_not_offered(rows_BM: Tensor, offered_BM: Tensor) -> Tensor:
    """Returns the first row that was not offered before, B 1.

    There is one, because there are as many rows as steps, and a step offers one item. If a filter
    allows fewer items than that, a row without a meaning is offered once all of them have been.
    """
    old_BM = (rows_BM[..., None] == offered_BM[:, None]).any(dim=2)
    return rows_BM.gather(1, old_BM.to(torch.uint8).argmin(dim=1, keepdim=True))


class RolloutGraph:
    """A rollout of one size as a CUDA graph."""

    def __init__(
        self, rollout: Rollout, size: Size, longest: int, device: torch.device, pool: Any
    ) -> None:
        """Runs it a few times before it is recorded, as CUDA graphs require.

        Graphs of one `pool` share memory: the hits of one are lost when another one runs.
        """
        self._input = DeviceBatch(*(part.to(device) for part in padding(size, longest)))
        self._graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.device(device):
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    rollout(self._input, size)
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(self._graph, pool=pool):
                self._hits = rollout(self._input, size)

    def __call__(self, batch: DeviceBatch) -> StepHits:
        """Returns hits that stay valid until the next call."""
        for target, part in zip(self._input, batch, strict=True):
            target.copy_(part, non_blocking=True)
        self._graph.replay()
        return self._hits


def size_of(queries: QueryBatch, steps: int) -> Size:
    """Returns a size recorded at start if one is large enough, else the next powers of two."""
    warm_W = queries.warm_W
    return Size(
        batch=_power_of_two(len(warm_W)),
        excluded=max(USUAL_EXCLUDED, _power_of_two(int(queries.excluded.lengths_B[warm_W].max()))),
        hits=max(USUAL_HITS, _power_of_two(int(queries.k_B[warm_W].max()))),
        steps=steps,
    )


def device_batch(queries: QueryBatch, size: Size, longest: int) -> DeviceBatch:
    """Returns tensors on the CPU: the queries with a history, and padding."""
    batch, warm_W = padding(size, longest), queries.warm_W
    parts = [
        queries.newest.padded(warm_W, longest, 0),
        queries.newest.lengths_B[warm_W],
        queries.users_B[warm_W],
        queries.excluded.padded(warm_W, size.excluded, -1),
    ]
    if queries.real_BO is not None:
        parts.append(queries.real_BO[warm_W])
    for whole, part in zip(batch[: len(parts)], parts, strict=True):
        whole[: len(warm_W)] = torch.from_numpy(part)
    return batch


def padding(size: Size, longest: int) -> DeviceBatch:
    """Returns a batch of unknown users whose history is item 0, on the CPU."""
    history_BL = torch.zeros(size.batch, longest, dtype=torch.int64)
    excluded_BC = torch.full((size.batch, size.excluded), -1)
    real_BO = torch.full((size.batch, MAX_OFFERS), -1)
    return DeviceBatch(history_BL, history_BL[:, 0] + 1, history_BL[:, 0] - 1, excluded_BC, real_BO)


def _power_of_two(count: int) -> int:
    """Returns the least power of two that is not less than the count."""
    return 1 << max(0, count - 1).bit_length()
