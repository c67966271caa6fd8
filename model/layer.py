"""A decoder layer as it is served, on histories packed into a grid: see `model.graph`.

Shapes: B batch, R rows of the grid, T slots of a row, S = R T, Q queries a row, U = R Q, N tokens
appended, C width of the convolution, D width of the network, H heads, d = D / H.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.block import Block

Norm = tuple[list[int], Tensor, Tensor, float]
"""What `layer_norm` takes beside its input."""


class Layer(nn.Module):
    """A decoder layer on grids; see `Block` for what it computes."""

    def __init__(self, block: Block, reach: int) -> None:
        """`reach`: distances that occur."""
        super().__init__()
        self.heads, self.width = block.heads, block.query.weight.shape[0]
        scale = (self.width // block.heads) ** -0.5
        weight, bias = _held(block.query)
        self.query = weight * scale, bias * scale
        weight, bias = _held(block.key_value)
        self.key, self.value = zip(weight.chunk(2), bias.chunk(2), strict=True)
        self.out, self.up, self.down = _held(block.out), _held(block.up), _held(block.down)
        self.norms = [norm_of(block.attention_norm), norm_of(block.feed_forward_norm)]
        everywhere = torch.ones(reach, dtype=torch.bool, device=weight.device)
        distances = torch.arange(reach, device=weight.device)
        bias_HN = block.bias(distances, everywhere).detach()
        self.bias_HN = bias_HN.expand(self.heads, reach).contiguous()
        self.local_weight = None
        if hasattr(block, "local_weight"):
            self.local_weight = block.local_weight.detach()  # C D, oldest first

    def bias(self, distances: Tensor, mask: Tensor) -> Tensor:
        """Of attention's logits, R H … T: by distance (… T, or R … T as U T), and the mask."""
        _, queries, width = mask.shape
        bias = self.bias_HN.index_select(1, distances.flatten())
        return bias.view(self.heads, -1, queries, width).transpose(0, 1) + mask[:, None]

    def split(self, x: Tensor, rows: int) -> Tensor:
        """Heads apart: of R·n D, R n H d."""
        return x.view(rows, -1, self.heads, self.width // self.heads)

    def keys_values(self, x_SD: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """As a `State` has them."""
        keys = self.split(F.linear(x_SD, *self.key), rows).permute(0, 2, 3, 1)
        return keys, self.split(F.linear(x_SD, *self.value), rows).transpose(1, 2)

    def attend(self, query_ND: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Of as many queries in each row: N D; bias R H … T."""
        query = self.split(query_ND, keys.shape[0]).transpose(1, 2)
        weights = (query @ keys + bias).softmax(dim=-1)
        return (weights @ values).transpose(1, 2).reshape(query_ND.shape)

    def attend_appended(
        self,
        query_UD: Tensor,
        keys: Tensor,
        values: Tensor,
        bias_RHQT: Tensor,
        own_keys_UND: Tensor,
        own_values_UND: Tensor,
    ) -> Tensor:
        """Of queries whose histories go on with the own keys, the last of which is theirs: U D."""
        rows, _, queries, width = bias_RHQT.shape
        query_RQHd = self.split(query_UD, rows)
        own_shape = rows, queries, -1, self.heads, self.width // self.heads
        gone_N = torch.arange(own_keys_UND.shape[1], device=bias_RHQT.device).flip(0)
        own_RQNH = (query_RQHd[:, :, None] * own_keys_UND.view(own_shape)).sum(-1)
        own_RQNH = own_RQNH + self.bias_HN.index_select(1, gone_N).t()
        logits = query_RQHd.transpose(1, 2) @ keys + bias_RHQT
        weights = torch.cat([logits, own_RQNH.permute(0, 3, 1, 2)], dim=-1).softmax(dim=-1)
        attended_RQHd = (weights[..., :width] @ values).transpose(1, 2)
        own_weights_RQNH = weights[..., width:].permute(0, 2, 3, 1)
        own_RQHd = (own_weights_RQNH[..., None] * own_values_UND.view(own_shape)).sum(2)
        return (attended_RQHd + own_RQHd).reshape(query_UD.shape)

    def local(self, x_SD: Tensor, older_CS1: Tensor) -> Tensor | None:
        """The convolution at every slot; `older_CS1`: 1 where it has a token 1, 2, … before it."""
        if self.local_weight is None:
            return None
        *weights, own_D = self.local_weight
        local_SD: Tensor = x_SD * own_D
        padded = F.pad(x_SD, (0, 0, len(weights), 0))
        for slot, weight_D in enumerate(weights):
            back = len(weights) - slot
            local_SD = local_SD + padded[slot:-back] * older_CS1[back - 1] * weight_D
        return local_SD

    def local_of(self, near_BCD: Tensor) -> Tensor:
        """The convolution of the newest of these: B D."""
        assert self.local_weight is not None
        local_BD: Tensor = (near_BCD * self.local_weight).sum(dim=1)
        return local_BD

    def finish(self, x_ND: Tensor, attended_ND: Tensor, local_ND: Tensor | None) -> Tensor:
        """What a block does behind its attention."""
        mixed_ND = F.linear(attended_ND, *self.out) + x_ND
        if local_ND is not None:
            mixed_ND = mixed_ND + local_ND
        x_ND = F.layer_norm(mixed_ND, *self.norms[0])
        fed_ND = F.linear(F.gelu(F.linear(x_ND, *self.up)), *self.down)
        return F.layer_norm(fed_ND + x_ND, *self.norms[1])


def _held(part: nn.Linear) -> tuple[Tensor, Tensor]:
    return part.weight.detach(), part.bias.detach()


def norm_of(part: nn.LayerNorm) -> Norm:
    """A normalisation's weights, without gradients."""
    return list(part.normalized_shape), part.weight.detach(), part.bias.detach(), part.eps
