"""A decoder layer.

Shapes: B batch, L length, Q query positions, D width, H heads, d = D / H.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.network.config import GPTConfig
from model.network.ops import Dropout, causal_convolution


def history_positions(lengths_B: Tensor, length: int, max_history: int) -> Tensor:
    """Positions B L of right-padded histories; padding gets further ones."""
    slots_L = torch.arange(length, device=lengths_B.device)
    return max_history - lengths_B[:, None] + slots_L


class Block(nn.Module):
    """One post-norm decoder layer whose keys and values can come from a cache."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.dim, config.dim)
        self.key_value = nn.Linear(config.dim, 2 * config.dim)
        self.out = nn.Linear(config.dim, config.dim)
        self.attention_norm = nn.LayerNorm(config.dim)
        self.up = nn.Linear(config.dim, config.feed_forward)
        self.down = nn.Linear(config.feed_forward, config.dim)
        self.feed_forward_norm = nn.LayerNorm(config.dim)
        self.dropout = Dropout(config.dropout)
        self.attention_dropout = Dropout(config.attention_dropout)
        if config.positions == "relative":
            reach = config.max_history + config.max_interests
            self.distance_bias = nn.Parameter(torch.zeros(config.heads, reach))
        if config.local:
            self.local_weight = nn.Parameter(0.02 * torch.randn(config.local, config.dim))

    def keys_values(self, x_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the tokens, each B H L d."""
        keys_BLD, values_BLD = self.key_value(x_BLD).chunk(2, dim=-1)
        return self._split(keys_BLD), self._split(values_BLD)

    def local(self, x_BLD: Tensor) -> Tensor:
        """Each token beside those just before it, weighted a dimension each: B L D."""
        if not hasattr(self, "local_weight"):
            return torch.zeros_like(x_BLD)
        return causal_convolution(x_BLD, self.local_weight)

    def local_at(self, x_BLD: Tensor, at_BQ: Tensor) -> Tensor:
        """`local` at some slots only: B Q D."""
        if not hasattr(self, "local_weight"):
            return x_BLD.new_zeros(*at_BQ.shape, x_BLD.shape[-1])
        back_C = torch.arange(len(self.local_weight), device=at_BQ.device).flip(0)
        slots_BN = (at_BQ[..., None] - back_C).flatten(1)
        index_BND = slots_BN.clamp(min=0)[..., None].expand(-1, -1, x_BLD.shape[-1])
        near_BND = x_BLD.gather(1, index_BND) * (slots_BN >= 0)[..., None]
        near_BQCD = near_BND.view(*at_BQ.shape, len(back_C), -1)
        local_BQD: Tensor = (near_BQCD * self.local_weight).sum(dim=2)
        return local_BQD

    def bias(self, distances: Tensor, visible: Tensor) -> Tensor:
        """What is added to attention's logits, H … Q L, of distances … Q L; -inf: not visible."""
        bias = torch.zeros((), device=visible.device)
        if hasattr(self, "distance_bias"):
            bias = self.distance_bias[:, distances.clamp(0, self.distance_bias.shape[1] - 1)]
        return torch.where(visible, bias, -torch.inf)

    def forward(
        self, x_BQD: Tensor, local_BQD: Tensor, keys: Tensor, values: Tensor, bias: Tensor
    ) -> Tensor:
        """Update the queries; `bias` broadcasts to B H Q L."""
        queries = self._split(self.query(x_BQD)) * keys.shape[-1] ** -0.5
        weights = (queries @ keys.transpose(2, 3) + bias).softmax(dim=-1)
        attended_BQD = (self.attention_dropout(weights) @ values).transpose(1, 2).flatten(2)
        mixed_BQD = self.dropout(self.out(attended_BQD) + local_BQD)
        x_BQD = self.attention_norm(x_BQD + mixed_BQD)
        fed_BQD = self.down(F.gelu(self.up(x_BQD)))
        return self.feed_forward_norm(x_BQD + self.dropout(fed_BQD))  # type: ignore[no-any-return]

    def _split(self, x_BLD: Tensor) -> Tensor:
        return x_BLD.view(*x_BLD.shape[:2], self.heads, -1).transpose(1, 2)


def batch_first(bias_HBQL: Tensor) -> Tensor:
    """B H Q L, also where there are no heads yet (B Q L)."""
    return bias_HBQL.transpose(0, 1) if bias_HBQL.dim() == 4 else bias_HBQL[:, None]
