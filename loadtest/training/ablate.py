"""Each hand-written part of a training step against torch's own, in one run.

    python -m loadtest.training.bench_train --ablate --out docs/results

A part stays hand-written only if torch's own takes at least 3 % longer per step on some workload,
or needs more memory. All variants of a step see the same batches in turn, in random order, on one
thread; the CPU seconds of all batches are compared.

Shapes: N slots, B batch, L length, D width, V catalogue, C taps of the convolution, S negatives.
"""

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from loadtest.training.bench_train_scale import write_log
from model.data.dataset import Dataset, popularity
from model.evaluation.protocols import splits
from model.network import block, gpt, ops
from model.network.config import GPTConfig
from model.network.gpt import GPT
from model.training import loss, optimizer
from model.training.batches import SampleBatch, by_length, read_samples
from model.training.config import PretrainConfig
from model.training.loss import batch_loss, objective, products
from model.training.optimizer import Optimizer
from model.training.stages import pretraining

MARK = "training-ablation"
CPU = torch.device("cpu")
WARM_UP = 3  # steps that are not counted

Patch = tuple[Any, str, Any]
"""A module or class, the name of what is replaced there, and the replacement."""

Variants = dict[str, list[Patch]]
"""Replacements by what the table calls them."""


def convolution(x_BLD: Tensor, weight_CD: Tensor) -> Tensor:
    """Depth-wise convolution of torch."""
    padded_BDL = F.pad(x_BLD.transpose(1, 2), (len(weight_CD) - 1, 0))
    kernel = weight_CD.T[:, None]
    out_BDL: Tensor = F.conv1d(padded_BDL, kernel, groups=len(kernel))
    return out_BDL.mT


def shifted_sum(x_BLD: Tensor, weight_CD: Tensor) -> Tensor:
    """The same as a sum of shifted copies, which torch differentiates."""
    padded = F.pad(x_BLD, (0, 0, len(weight_CD) - 1, 0))
    length = x_BLD.shape[1]
    out_BLD = padded[:, :length] * weight_CD[0]
    for back in range(1, len(weight_CD)):
        out_BLD = torch.addcmul(out_BLD, padded[:, back : back + length], weight_CD[back])
    return out_BLD


def normalize(vectors: Tensor) -> Tensor:
    """Unit vectors of torch."""
    return F.normalize(vectors, dim=-1)


def by_root(vectors: Tensor) -> Tensor:
    """The same by the reciprocal of a root, which torch differentiates."""
    squared: Tensor = torch.linalg.vecdot(vectors, vectors)
    return vectors * (squared + 1e-24).rsqrt()[..., None]


def dropout(module: ops.Dropout, x: Tensor) -> Tensor:
    """Dropout of torch."""
    return F.dropout(x, module.share, module.training)


def softmax(
    hidden_ND: Tensor, table_VD: Tensor, targets: loss.Targets, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Cross-entropy of torch over a whole matrix of logits, of one target per slot."""
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        logits_NV = F.linear(hidden_ND, table_VD)
    return F.cross_entropy(logits_NV.float(), targets.rows_T)


def sampled_softmax(
    hidden_ND: Tensor,
    vectors_CD: Tensor,
    targets: loss.Targets,
    rows_S: Tensor,
    share_S: Tensor,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The same against sampled negatives."""
    targets_N = targets.rows_T
    positives_ND, negatives_SD = torch.split(vectors_CD, [len(targets_N), len(rows_S)])
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        logits_NS = F.linear(hidden_ND, negatives_SD)
    logits_NS = logits_NS.float() - (len(rows_S) * share_S).log().float()
    logits_NS = logits_NS.masked_fill(rows_S == targets_N[:, None], -torch.inf)
    right_N1 = (hidden_ND * positives_ND).sum(1, keepdim=True)
    logits = torch.cat([right_N1, logits_NS], dim=1)
    return F.cross_entropy(logits, torch.zeros_like(targets_N))


class SparseAdam(torch.optim.SparseAdam):
    """Adam by row of torch."""

    def __init__(self, tables: list[nn.Parameter], lr: float) -> None:
        super().__init__(tables, lr=lr)


@dataclass(frozen=True)
class Workload:
    """A training whose steps are timed."""

    name: str
    network: GPTConfig
    stage: PretrainConfig
    variants: Variants


CONVOLUTION: Variants = {
    "convolution: conv1d": [(block, "causal_convolution", convolution)],
    "convolution: shifted sum": [(block, "causal_convolution", shifted_sum)],
}
UNIT: Variants = {
    "unit vectors: normalize": [(gpt, "unit", normalize)],
    "unit vectors: rsqrt": [(gpt, "unit", by_root)],
}
DROPOUT: Variants = {"dropout: F.dropout": [(ops.Dropout, "forward", dropout)]}
WHOLE: Variants = {"softmax: cross_entropy": [(loss, "softmax", softmax)]}
SAMPLED: Variants = {
    "sampled softmax: cross_entropy": [(loss, "sampled_softmax", sampled_softmax)],
    "Adam by row: SparseAdam": [(optimizer, "RowAdam", SparseAdam)],
}
WORKLOADS = (
    Workload(
        "prefixes, width 128, batches of 256",
        GPTConfig.single(128),
        PretrainConfig(),
        CONVOLUTION | UNIT | DROPOUT | WHOLE,
    ),
    Workload(
        "demo: windows, width 64, batches of 16",
        GPTConfig.single(64),
        PretrainConfig(sampling="windows", batch_size=16),
        CONVOLUTION | UNIT | DROPOUT | WHOLE,
    ),
    Workload(
        "large: sampled, 1,000,000 items, width 64, batches of 256",
        GPTConfig.single(64),
        PretrainConfig(loss="sampled"),
        CONVOLUTION | UNIT | DROPOUT | SAMPLED,
    ),
)


@contextmanager
def patched(patches: Sequence[Patch]) -> Iterator[None]:
    """Puts the replacements in place for a while."""
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    for owner, name, replacement in patches:
        setattr(owner, name, replacement)
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


class Variant:
    """A network with its optimiser, whose steps have some parts replaced."""

    def __init__(self, dataset: Dataset, workload: Workload, patches: Sequence[Patch]) -> None:
        torch.manual_seed(0)
        self._patches, self._config = patches, workload.stage
        self._model = GPT(workload.network, dataset.catalogue, dataset.users).train()
        self._counts_V = popularity(dataset)
        self._stage = pretraining(workload.stage, dataset, lambda _: {})
        self._draws = torch.Generator()
        with patched(patches):
            by_row = workload.stage.loss == "sampled"
            self._optimizer = Optimizer(self._model, 1e-3, by_row=by_row)
        self._loss_of = objective(workload.stage, self._counts_V, CPU)

    def step(self, samples: SampleBatch) -> float:
        """One step; returns its CPU seconds."""
        started = time.process_time()
        with patched(self._patches):
            batch = self._stage.batch(self._model, samples)
            dtype = products(self._config, CPU)
            found = batch_loss(self._model, batch, self._loss_of, self._draws, dtype)
            found.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
        return time.process_time() - started


def time_steps(dataset: Dataset, workload: Workload, steps: int) -> dict[str, Any]:
    """CPU milliseconds per step of every variant, and relative to the hand-written one."""
    rng = np.random.default_rng(0)
    patches = {"hand-written": list[Patch](), **workload.variants}
    variants = {name: Variant(dataset, workload, given) for name, given in patches.items()}
    model = GPT(workload.network, dataset.catalogue, 1)
    samples = pretraining(workload.stage, dataset, lambda _: {}).draw(model, rng)
    batches = by_length(samples, workload.stage.batch_size, rng)[: WARM_UP + steps]
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for read in read_samples(dataset, samples, batches):
        for name in rng.permutation(list(variants)):
            seconds[name].append(variants[name].step(read))
    ours = np.array(seconds["hand-written"][WARM_UP:])
    return {name: _against(np.array(found[WARM_UP:]), ours) for name, found in seconds.items()}


def _against(seconds: NDArray[np.float64], ours: NDArray[np.float64]) -> dict[str, float]:
    """`more`: relative difference of the sums over all batches."""
    return {"cpu_ms": float(1000 * seconds.mean()), "more": float(seconds.sum() / ours.sum() - 1)}


def peak_megabytes(data: Path, torchs_own: bool) -> float:
    """Peak memory that ten steps add: windows in batches of 256, in a process of their own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak_megabytes, (data, torchs_own))


def _peak_megabytes(data: Path, torchs_own: bool) -> float:
    torch.set_num_threads(1)
    dataset = splits(Dataset.load(data)).training()
    workload = Workload("", GPTConfig.single(128), PretrainConfig(sampling="windows"), {})
    variant = Variant(dataset, workload, WHOLE["softmax: cross_entropy"] if torchs_own else [])
    rng = np.random.default_rng(0)
    model = GPT(workload.network, dataset.catalogue, 1)
    samples = pretraining(workload.stage, dataset, lambda _: {}).draw(model, rng)
    before = _high_water_megabytes()
    for read in read_samples(dataset, samples, by_length(samples, 256, rng)[:10]):
        variant.step(read)
    return _high_water_megabytes() - before


def _high_water_megabytes() -> float:
    """Peak resident memory of this process; getrusage would count the parent's before exec."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def measure(data: Path, scratch: Path, steps: int) -> dict[str, Any]:
    """All workloads; `scratch` takes the large data set."""
    torch.set_num_threads(1)
    large = scratch / "large"
    large.mkdir()
    write_log(large, 1_000_000, 1_000_000)
    paths = (data, data, large)
    return {
        "workloads": {
            workload.name: time_steps(splits(Dataset.load(path)).training(), workload, steps)
            for workload, path in zip(WORKLOADS, paths, strict=True)
        },
        "peak_mb": {
            "hand-written": peak_megabytes(data, torchs_own=False),
            "softmax: cross_entropy": peak_megabytes(data, torchs_own=True),
        },
    }


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    names = list(dict.fromkeys(n for found in result["workloads"].values() for n in found))
    lines = [
        f"`{result['command']}`; {result['machine']}, one thread; {result['date']}; "
        f"commit {result['commit']}. CPU time per step, relative to the hand-written step.",
        "",
        f"| torch's own in place of ours | {' | '.join(result['workloads'])} |",
        "|---" * (1 + len(result["workloads"])) + "|",
    ]
    for name in names:
        cells = []
        for found in result["workloads"].values():
            if name not in found:
                cells.append("")
            elif name == "hand-written":
                cells.append(f"{found[name]['cpu_ms']:.1f} ms")
            else:
                cells.append(f"{found[name]['more']:+.1%}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    ours, theirs = result["peak_mb"].values()
    return "\n".join(
        [
            *lines,
            "",
            f"Peak memory that ten steps add (windows, width 128, batches of 256): {ours:.0f} MB, "
            f"with torch's cross-entropy {theirs:.0f} MB.",
        ]
    )
