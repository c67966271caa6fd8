"""The losses: next-item prediction against the whole catalogue, or against sampled negatives.

Shapes: N slots that have a target, C candidates, V catalogue, D width, S negatives.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from model.network.gpt import GPT
from model.training.batches import TrainingBatch
from model.training.config import LossConfig

Vectors = Callable[[Tensor | None], Tensor]
"""(item rows R) → their vectors R D; (None) → the vectors of the whole catalogue, V D."""

Objective = Callable[[Tensor, Vectors, Tensor, torch.Generator], Tensor]
"""(interests N D, item vectors, target rows N, random numbers for negatives) → the mean loss."""

CHUNK_BYTES = {"cpu": 16 << 20, "cuda": 64 << 20}
"""Size of a chunk of logits: one chunk for a usual batch against a small catalogue."""

MIN_ROWS = 16
"""Lower bound of a chunk's rows, for any number of candidates: each chunk reads the whole table."""


def objective(config: LossConfig, counts_V: NDArray[np.int64], device: torch.device) -> Objective:
    """Returns the loss that the configuration names; `counts_V`: popularity of each item."""
    dtype = products(config, device)
    if config.loss == "softmax":
        return lambda hidden_ND, vectors, targets_N, _: softmax(
            hidden_ND, vectors(None), targets_N, dtype
        )
    if config.loss == "bce":
        return lambda hidden_ND, vectors, targets_N, _: bce(
            hidden_ND, vectors(None), targets_N, config.negatives or 1
        )
    share_V = (torch.from_numpy(counts_V).double() + 1) ** config.popularity_power
    share_V = (share_V / share_V.sum()).to(device)
    cumulative_V = share_V.cumsum(0)

    def sampled(
        hidden_ND: Tensor, vectors: Vectors, targets_N: Tensor, draws: torch.Generator
    ) -> Tensor:
        draws_S = torch.rand(
            config.negatives or 8192, dtype=torch.double, device=device, generator=draws
        )
        rows_S = torch.searchsorted(cumulative_V, draws_S).clamp(max=len(cumulative_V) - 1)
        vectors_CD = vectors(torch.cat([targets_N, rows_S]))
        return sampled_softmax(hidden_ND, vectors_CD, targets_N, rows_S, share_V[rows_S], dtype)

    return sampled


def batch_loss(
    model: GPT,
    batch: TrainingBatch,
    objective: Objective,
    draws: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Returns the mean loss at the slots that have a target, 0 if none has.

    The network multiplies matrices in `dtype`.
    """
    with torch.autocast(batch.targets_BQ.device.type, dtype, enabled=dtype != torch.float32):
        hidden_BQD: Tensor = model(batch.tokens, batch.users_B, batch.at_BQ)
    hidden_BQD, wanted_BQ = hidden_BQD.float(), batch.wanted_BQ
    hidden_ND, targets_N = hidden_BQD[wanted_BQ], batch.targets_BQ[wanted_BQ]
    if not len(targets_N):
        return hidden_ND.sum()
    return objective(hidden_ND, model.item_vectors, targets_N, draws)


def products(config: LossConfig, device: torch.device) -> torch.dtype:
    """Returns the number format of matrix products on this device."""
    if config.products != "auto":
        return torch.float32 if config.products == "float32" else torch.bfloat16
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        fast = torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def softmax(
    hidden_ND: Tensor,
    table_VD: Tensor,
    targets_N: Tensor,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Returns the cross-entropy over the whole catalogue; needs bounded memory."""
    positives_ND = F.embedding(targets_N, table_VD)
    return _CandidateSoftmax.apply(  # type: ignore[no-any-return, no-untyped-call]
        hidden_ND.float(), positives_ND, table_VD, targets_N, None, None, dtype
    )


def sampled_softmax(
    hidden_ND: Tensor,
    vectors_CD: Tensor,
    targets_N: Tensor,
    rows_S: Tensor,
    share_S: Tensor,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Returns the cross-entropy over the target and negatives drawn with replacement by `share_S`.

    `vectors_CD` holds the vectors of the targets, then those of the negatives.

    A negative's logit is corrected by log(S · share), its expected count among the draws. A
    negative that is a sample's own target is ignored. The target's own logit needs no correction:
    the sum over the others is then estimated without bias, and the loss tends to `softmax` with
    S → ∞.
    """
    return _CandidateSoftmax.apply(  # type: ignore[no-any-return, no-untyped-call]
        hidden_ND.float(),
        vectors_CD[: len(targets_N)],
        vectors_CD[len(targets_N) :],
        targets_N,
        rows_S,
        -(len(rows_S) * share_S).log().float(),
        dtype,
    )


def bce(hidden_ND: Tensor, table_VD: Tensor, targets_N: Tensor, negatives: int) -> Tensor:
    """Returns the binary cross-entropy of the target against uniform negatives, as in SASRec.

    A negative is any item but the target. It may be another item of the user's history, which
    SASRec's own code excludes; that is rare, as histories are short beside the catalogue.
    """
    shape = (len(targets_N), negatives)
    rows_NS = torch.randint(len(table_VD) - 1, shape, device=targets_N.device)
    rows_NS += rows_NS >= targets_N[:, None]
    right_N = (hidden_ND * F.embedding(targets_N, table_VD)).sum(-1)
    wrong_NS = (hidden_ND[:, None] * F.embedding(rows_NS, table_VD)).sum(-1)
    return (F.softplus(-right_N) + F.softplus(wrong_NS).sum(-1)).mean()


class _CandidateSoftmax(torch.autograd.Function):
    """Mean of -log(e^p / (e^p + Σ_c e^(h·t_c + b_c))), p = h · positive, c ≠ the target.

    Rows go through one buffer in chunks, and the same pass computes the gradients: there is never
    a second matrix of the size of the logits, and a chunk stays in the processor's cache.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        positives_ND: Tensor,
        table_CD: Tensor,
        targets_N: Tensor,
        rows_C: Tensor | None,  # the candidates' item rows; None: all items in order
        bias_C: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:
        count, candidates = len(hidden_ND), len(table_CD)
        size = max(MIN_ROWS, CHUNK_BYTES[hidden_ND.device.type] // (4 * candidates))
        buffer = hidden_ND.new_empty(min(size, count), candidates)
        to_hidden, to_positives = torch.empty_like(hidden_ND), torch.empty_like(hidden_ND)
        to_table = torch.zeros_like(table_CD)
        total = hidden_ND.new_zeros(())
        fast_CD = table_CD.to(dtype)
        for start in range(0, count, size):
            part = slice(start, start + size)
            hidden, positives, targets = hidden_ND[part], positives_ND[part], targets_N[part, None]
            logits = buffer[: len(hidden)]
            if dtype == torch.float32:
                torch.mm(hidden, table_CD.T, out=logits)
            else:
                logits.copy_(hidden.to(dtype) @ fast_CD.T)
            if bias_C is not None:
                logits += bias_C
            if rows_C is None:
                logits.scatter_(1, targets, -torch.inf)
            else:
                logits.masked_fill_(rows_C == targets, -torch.inf)
            right = (hidden * positives).sum(1, keepdim=True)
            top = torch.maximum(logits.amax(1, keepdim=True), right)
            odds = logits.sub_(top).exp_()  # not yet divided by their sum
            right_odds = (right - top).exp()
            sums = odds.sum(1, keepdim=True) + right_odds
            total += (sums.log() + top - right).sum()
            scale = 1 / (count * sums)
            miss = right_odds * scale - 1 / count
            odds = odds.to(dtype)
            to_hidden[part] = (odds @ fast_CD).float().mul_(scale).addcmul_(miss, positives)
            torch.mul(hidden, miss, out=to_positives[part])
            to_table += odds.T @ (hidden * scale).to(dtype)
        ctx.save_for_backward(to_hidden, to_positives, to_table)
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return *(gradient.mul_(upstream) for gradient in ctx.saved_tensors), *[None] * 4
