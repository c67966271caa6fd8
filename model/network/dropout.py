"""Dropout that is cheap on a CPU."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Dropout(nn.Module):
    """As `nn.Dropout`; on a CPU, eight masks come out of each random 64-bit word.

    The share is rounded to 1/256 there. torch draws a number an element, which took a fifth of a
    training step: 20 ms against 3 for 800,000 elements on one core.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Zero a share of the elements and scale up the others, in training only."""
        if not self.training or not self.share:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.share)
        count, dropped = x.numel(), min(255, round(256 * self.share))
        words = torch.empty(-(-count // 8), dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.uint8)[:count].view(x.shape) >= dropped
        return x * kept.to(x.dtype).mul_(256 / (256 - dropped))
