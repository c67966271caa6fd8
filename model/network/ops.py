"""Operations of the network that are written by hand, because torch's own are slower on a CPU.

`python -m loadtest.training.bench_train --ablate` measures by how much.

Shapes: B batch, L length, D width, C taps of the convolution, G groups, N vectors.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

MIN_LENGTH = 1e-12
"""Vectors are divided by their length, or by this if they are shorter."""


def causal_convolution(x_BLD: Tensor, weight_CD: Tensor) -> Tensor:
    """Returns out[t] = Σ_j x[t - j] · weight[C - 1 - j], with zeros before the first slot."""
    return _CausalConvolution.apply(x_BLD, weight_CD)  # type: ignore[no-any-return, no-untyped-call]


def unit(vectors: Tensor) -> Tensor:
    """Returns the vectors (… D) divided by their lengths."""
    return _Unit.apply(vectors)  # type: ignore[no-any-return, no-untyped-call]


def group_units(vectors: Tensor, groups: int) -> Tensor:
    """Returns the vectors (… D) with each of their groups divided by its length."""
    if groups == 1:
        return unit(vectors)
    return unit(_in_groups(vectors, groups)).flatten(-2)


def _in_groups(vectors: Tensor, groups: int) -> Tensor:
    """… G D/G."""
    return vectors.reshape(*vectors.shape[:-1], groups, -1)


class GroupNorm(nn.LayerNorm):
    """Layer normalisation of each group of a vector by itself."""

    def __init__(self, dim: int, groups: int) -> None:
        super().__init__(dim)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Returns the normalised vectors: … D."""
        if self.groups == 1:
            return super().forward(x)
        parts = _in_groups(x, self.groups)
        alone = F.layer_norm(parts, parts.shape[-1:], eps=self.eps).flatten(-2)
        return torch.addcmul(self.bias, alone, self.weight)


class GroupLinear(nn.Linear):
    """A linear map of each group of a vector to the same group of `parts` results.

    The weight has a row for each output, over the inputs of its group only: out in/G.
    """

    def __init__(self, inputs: int, outputs: int, groups: int, parts: int = 1) -> None:
        super().__init__(inputs // groups, outputs)
        self.groups, self.parts = groups, parts

    def forward(self, x: Tensor) -> Tensor:
        """Returns the mapped vectors, part after part: … out."""
        if self.groups == 1:
            return super().forward(x)
        weight_pGoi, bias_pGo = self._by_group(), self.bias.view(self.parts, self.groups, -1)
        outs = [
            F.linear(x_i, weight_pGoi[:, group].flatten(0, 1), bias_pGo[:, group].flatten())
            for group, x_i in enumerate(x.chunk(self.groups, dim=-1))
        ]
        return torch.stack([_in_groups(out, self.parts) for out in outs], dim=-2).flatten(-3)

    def dense(self) -> Tensor:
        """Returns the weight over all inputs, 0 where a group is not its output's: out in."""
        if self.groups == 1:
            return self.weight
        weight_pGoi = self._by_group()
        inputs = self.groups * self.in_features
        dense = self.weight.new_zeros(*weight_pGoi.shape[:3], inputs)
        for group, columns in enumerate(torch.arange(inputs).chunk(self.groups)):
            dense[:, group, :, columns] = weight_pGoi[:, group]
        return dense.reshape(-1, inputs)

    def _by_group(self) -> Tensor:
        """The weight as parts G out/G in/G."""
        return self.weight.view(self.parts, self.groups, -1, self.in_features)


class _CausalConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BLD: Tensor, weight_CD: Tensor) -> Tensor:
        ctx.save_for_backward(x_BLD, weight_CD)
        out_BLD = x_BLD * weight_CD[-1]
        for back in range(1, min(len(weight_CD), x_BLD.shape[1])):
            out_BLD[:, back:].addcmul_(x_BLD[:, :-back], weight_CD[-1 - back])
        return out_BLD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream_BLD: Tensor) -> tuple[Tensor, Tensor]:
        x_BLD, weight_CD = ctx.saved_tensors
        to_x, to_weight = upstream_BLD * weight_CD[-1], torch.zeros_like(weight_CD)
        to_weight[-1] = (upstream_BLD * x_BLD).sum(dim=(0, 1))
        for back in range(1, min(len(weight_CD), x_BLD.shape[1])):
            later_BLD = upstream_BLD[:, back:]
            to_x[:, :-back].addcmul_(later_BLD, weight_CD[-1 - back])
            to_weight[-1 - back] = (later_BLD * x_BLD[:, :-back]).sum(dim=(0, 1))
        return to_x, to_weight


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        lengths: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
        scale = lengths.clamp_min_(MIN_LENGTH).reciprocal_()
        unit_vectors: Tensor = vectors * scale
        ctx.save_for_backward(unit_vectors, scale)
        return unit_vectors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        unit_vectors, scale = ctx.saved_tensors
        along: Tensor = torch.linalg.vecdot(upstream, unit_vectors)[..., None]
        across: Tensor = upstream.addcmul(unit_vectors, along, value=-1)
        return across.mul_(scale)


class Dropout(nn.Module):
    """Dropout that draws the fate of eight elements from each random 64-bit word on a CPU.

    One byte decides over an element, so that the share is a multiple of 1/256 there. torch draws a
    number per element: 20 ms against 3 ms for 800,000 elements on one core.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Zeroes a share of the elements and scales up the others, in training only."""
        if not self.training or not self.share:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.share)
        count, dropped = x.numel(), min(255, round(256 * self.share))
        words = torch.empty(-(-count // 8), dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.uint8)[:count].view(x.shape) >= dropped
        return x * kept.to(x.dtype).mul_(256 / (256 - dropped))
