"""Operations of the network that are written by hand, because torch's own are slower on a CPU.

`python -m loadtest.training.bench_train --ablate` measures by how much.

Shapes: B batch, L length, D width, C taps of the convolution.
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
