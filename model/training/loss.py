"""The losses: prediction of items against the whole catalogue, or against sampled negatives.

A slot has one target, or a set of them, each as likely as the others: the loss is the cross-entropy
with the uniform distribution over the set.

Shapes: N slots that have a target, T targets of all slots, C candidates, V catalogue, D width,
S negatives.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from model.network.gpt import GPT
from model.training.batches import TrainingBatch
from model.training.config import LossConfig


class Targets(NamedTuple):
    """The targets of all slots, slot after slot; those of a slot differ from each other."""

    rows_T: Tensor
    slots_T: Tensor
    """The slot of each target, ascending from 0; every slot has one at least."""
    weights_T: Tensor
    """One over the number of the slot's targets."""

    @classmethod
    def of(cls, rows_NS: Tensor) -> "Targets":
        """Returns the targets of each slot, given with -1 for none."""
        real_NS = rows_NS >= 0
        slots_T, _ = real_NS.nonzero(as_tuple=True)
        weights_N = 1 / real_NS.sum(dim=1)
        return cls(rows_NS[real_NS], slots_T, weights_N[slots_T])


Vectors = Callable[[Tensor | None], Tensor]
"""(item rows R) → their vectors R D; (None) → the vectors of the whole catalogue, V D."""

Objective = Callable[[Tensor, Vectors, Targets, torch.Generator], Tensor]
"""(interests N D, item vectors, targets, random numbers for negatives) → the mean loss."""

CHUNK_BYTES = {"cpu": 16 << 20, "cuda": 64 << 20}
"""Size of a chunk of logits: one chunk for a usual batch against a small catalogue."""

MIN_ROWS = 16
"""Lower bound of a chunk's rows, for any number of candidates: each chunk reads the whole table."""


def objective(config: LossConfig, counts_V: NDArray[np.int64], device: torch.device) -> Objective:
    """Returns the loss that the configuration names; `counts_V`: popularity of each item."""
    dtype = products(config, device)
    if config.loss == "softmax":
        return lambda hidden_ND, vectors, targets, _: softmax(
            hidden_ND, vectors(None), targets, dtype
        )
    if config.loss == "bce":
        return lambda hidden_ND, vectors, targets, _: bce(
            hidden_ND, vectors(None), targets, config.negatives or 1
        )
    share_V = (torch.from_numpy(counts_V).double() + 1) ** config.popularity_power
    share_V = (share_V / share_V.sum()).to(device)
    cumulative_V = share_V.cumsum(0)

    def sampled(
        hidden_ND: Tensor, vectors: Vectors, targets: Targets, draws: torch.Generator
    ) -> Tensor:
        draws_S = torch.rand(
            config.negatives or 8192, dtype=torch.double, device=device, generator=draws
        )
        rows_S = torch.searchsorted(cumulative_V, draws_S).clamp(max=len(cumulative_V) - 1)
        vectors_CD = vectors(torch.cat([targets.rows_T, rows_S]))
        return sampled_softmax(hidden_ND, vectors_CD, targets, rows_S, share_V[rows_S], dtype)

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
    with torch.autocast(batch.targets_BQS.device.type, dtype, enabled=dtype != torch.float32):
        hidden_BQD: Tensor = model(batch.tokens, batch.users_B, batch.at_BQ)
    wanted_BQ = batch.wanted_BQ
    hidden_ND = hidden_BQD.float()[wanted_BQ]
    if not len(hidden_ND):
        return hidden_ND.sum()
    targets, groups = Targets.of(batch.targets_BQS[wanted_BQ]), model.config.groups
    if groups == 1:
        return objective(hidden_ND, model.item_vectors, targets, draws)
    parts = zip(hidden_ND.chunk(groups, dim=1), _by_group(model), strict=True)
    losses = [objective(groups * part_Nd, vectors, targets, draws) for part_Nd, vectors in parts]
    return torch.stack(losses).mean()


def _by_group(model: GPT) -> list[Vectors]:
    """Returns the item vectors as each group of the network has them."""
    groups = model.config.groups
    whole = cache(lambda: model.item_vectors().chunk(groups, dim=1))  # once for all groups

    def of_group(rows: Tensor | None, group: int) -> Tensor:
        return whole()[group] if rows is None else model.item_vectors(rows).chunk(groups, 1)[group]

    return [partial(of_group, group=group) for group in range(groups)]


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
    hidden_ND: Tensor, table_VD: Tensor, targets: Targets, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Returns the cross-entropy over the whole catalogue; needs bounded memory."""
    positives_TD = F.embedding(targets.rows_T, table_VD)
    return _CandidateSoftmax.apply(  # type: ignore[no-any-return, no-untyped-call]
        hidden_ND.float(), positives_TD, table_VD, targets, None, None, dtype
    )


def sampled_softmax(
    hidden_ND: Tensor,
    vectors_CD: Tensor,
    targets: Targets,
    rows_S: Tensor,
    share_S: Tensor,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Returns the cross-entropy over the targets and negatives drawn with replacement by `share_S`.

    `vectors_CD` holds the vectors of the targets, then those of the negatives.

    A negative's logit is corrected by log(S · share), its expected count among the draws. A
    negative that is one of a slot's own targets is ignored. The targets' own logits need no
    correction: the sum over the others is then estimated without bias, and the loss tends to
    `softmax` with S → ∞.
    """
    return _CandidateSoftmax.apply(  # type: ignore[no-any-return, no-untyped-call]
        hidden_ND.float(),
        vectors_CD[: len(targets.rows_T)],
        vectors_CD[len(targets.rows_T) :],
        targets,
        rows_S,
        -(len(rows_S) * share_S).log().float(),
        dtype,
    )


def bce(hidden_ND: Tensor, table_VD: Tensor, targets: Targets, negatives: int) -> Tensor:
    """Returns the binary cross-entropy of targets against uniform negatives, as in SASRec.

    A negative is any item but the target. It may be another item of the user's history, which
    SASRec's own code excludes; that is rare, as histories are short beside the catalogue.
    """
    rows_T, slots_T, weights_T = targets
    rows_TS = torch.randint(len(table_VD) - 1, (len(rows_T), negatives), device=hidden_ND.device)
    rows_TS += rows_TS >= rows_T[:, None]
    hidden_TD = hidden_ND[slots_T]
    right_T = (hidden_TD * F.embedding(rows_T, table_VD)).sum(-1)
    wrong_TS = (hidden_TD[:, None] * F.embedding(rows_TS, table_VD)).sum(-1)
    loss_T = F.softplus(-right_T) + F.softplus(wrong_TS).sum(-1)
    return (weights_T * loss_T).sum() / len(hidden_ND)


class _CandidateSoftmax(torch.autograd.Function):
    """Mean over the slots of log Z - Σ_t w_t p_t, with p_t = h · positive_t the targets' logits.

    Z = Σ_t e^p_t + Σ_c e^(h·v_c + b_c) over the candidates c that are no targets of the slot.

    Slots go through one buffer in chunks, and the same pass computes the gradients: there is never
    a second matrix of the size of the logits, and a chunk stays in the processor's cache.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        positives_TD: Tensor,
        table_CD: Tensor,
        targets: Targets,
        rows_C: Tensor | None,  # the candidates' item rows; None: all items in order
        bias_C: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:
        count, candidates = len(hidden_ND), len(table_CD)
        size = max(MIN_ROWS, CHUNK_BYTES[hidden_ND.device.type] // (4 * candidates))
        buffer = hidden_ND.new_empty(min(size, count), candidates)
        to_hidden, to_positives = torch.empty_like(hidden_ND), torch.empty_like(positives_TD)
        to_table = torch.zeros_like(table_CD) if ctx.needs_input_grad[2] else None
        total = hidden_ND.new_zeros(())
        fast_CD = table_CD.to(dtype)
        starts = torch.arange(0, count + size, size, device=hidden_ND.device)
        bounds = torch.searchsorted(targets.slots_T, starts).tolist()
        for start, first, last in zip(range(0, count, size), bounds[:-1], bounds[1:], strict=True):
            part, of_part = slice(start, start + size), slice(first, last)
            hidden, positives = hidden_ND[part], positives_TD[of_part]
            rows, slots, weights = (values[of_part] for values in targets)
            slots = slots - start
            logits = buffer[: len(hidden)]
            if dtype == torch.float32:
                torch.mm(hidden, table_CD.T, out=logits)
            else:
                logits.copy_(hidden.to(dtype) @ fast_CD.T)
            if bias_C is not None:
                logits += bias_C
            if rows_C is None:
                logits[slots, rows] = -torch.inf
            else:
                target, candidate = (rows_C == rows[:, None]).nonzero(as_tuple=True)
                logits[slots[target], candidate] = -torch.inf
            right = (hidden[slots] * positives).sum(1)
            top = logits.amax(1).scatter_reduce(0, slots, right, "amax")
            odds = logits.sub_(top[:, None]).exp_()  # not yet divided by their sum
            right_odds = (right - top[slots]).exp()
            sums = odds.sum(1).index_add(0, slots, right_odds)
            total += (sums.log() + top).sum() - (weights * right).sum()
            scale = 1 / (count * sums)
            miss = (right_odds * scale[slots] - weights / count)[:, None]
            odds = odds.to(dtype)
            away = (odds @ fast_CD).float().mul_(scale[:, None])
            to_hidden[part] = away.index_add_(0, slots, miss * positives)
            torch.mul(hidden[slots], miss, out=to_positives[of_part])
            if to_table is not None:
                to_table += odds.T @ (hidden * scale[:, None]).to(dtype)
        ctx.save_for_backward(to_hidden, to_positives, to_table)
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradients = (g if g is None else g.mul_(upstream) for g in ctx.saved_tensors)
        return *gradients, *[None] * 4
