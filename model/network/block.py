"""A decoder layer that can remember the tokens it has read.

Shapes: B batch, L new tokens, T all tokens so far, Q query slots, D width, H heads, d = D / H,
C taps of the convolution. A leading 1 in place of B means that all sequences of the batch agree.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.network.config import GPTConfig
from model.network.ops import Dropout, GroupLinear, GroupNorm, causal_convolution


class Sight(NamedTuple):
    """The tokens that each new token attends to, and how far back they stand."""

    distances_BLT: Tensor
    visible_BLT: Tensor


@dataclass
class LayerCache:
    """The past of one layer: keys and values of all tokens, and its newest inputs."""

    keys_BHTd: Tensor
    values_BHTd: Tensor
    recent_BCD: Tensor
    """The last C - 1 real inputs, oldest first, zeros before the first: the convolution's past."""

    @classmethod
    def empty(cls, config: GPTConfig, batch: int, device: torch.device) -> "LayerCache":
        """Returns the cache of a layer that has read nothing."""
        heads = torch.zeros(batch, config.heads, 0, config.dim // config.heads, device=device)
        recent = torch.zeros(batch, max(config.local - 1, 0), config.dim, device=device)
        return cls(heads, heads, recent)

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Adds the keys and values of new tokens; returns those of all tokens."""
        self.keys_BHTd = torch.cat([self.keys_BHTd, keys], dim=2)
        self.values_BHTd = torch.cat([self.values_BHTd, values], dim=2)
        return self.keys_BHTd, self.values_BHTd

    def preceded(self, x_BLD: Tensor, lengths_B: Tensor) -> Tensor:
        """Returns the recent inputs followed by the new ones, of which `lengths_B` are real."""
        x_BND = torch.cat([self.recent_BCD, x_BLD], dim=1)
        newest_C = torch.arange(self.recent_BCD.shape[1], device=x_BLD.device)
        self.recent_BCD = at_slots(x_BND, lengths_B[:, None] + newest_C)
        return x_BND


class Block(nn.Module):
    """One post-norm decoder layer: attention beside a convolution, then a feed-forward network."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        dim, groups = config.dim, config.groups
        self.query = GroupLinear(dim, dim, groups)
        self.key_value = GroupLinear(dim, 2 * dim, groups, parts=2)
        self.out = GroupLinear(dim, dim, groups)
        self.attention_norm = GroupNorm(dim, groups)
        self.up = GroupLinear(dim, config.feed_forward, groups)
        self.down = GroupLinear(config.feed_forward, dim, groups)
        self.feed_forward_norm = GroupNorm(dim, groups)
        self.dropout = Dropout(config.dropout)
        self.attention_dropout = Dropout(config.attention_dropout)
        self.reach = config.max_history + config.max_interests
        if config.positions == "relative":
            self.distance_bias = nn.Parameter(torch.zeros(config.heads, self.reach))
        if config.local:
            self.local_weight = nn.Parameter(torch.empty(config.local, config.dim))
            nn.init.normal_(self.local_weight, std=0.02)

    def forward(
        self,
        x_BLD: Tensor,
        lengths_B: Tensor,
        sight: Sight,
        at_BQ: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """Returns the layer's output at the slots `at_BQ` (B Q D), or at every slot (B L D).

        With a cache, the tokens follow those that it holds, and are added to it.
        """
        keys_BLD, values_BLD = self.key_value(x_BLD).chunk(2, dim=-1)
        keys, values = self._split(keys_BLD), self._split(values_BLD)
        if cache is not None:
            keys, values = cache.append(keys, values)
        local_BLD = self._local(x_BLD, lengths_B, cache)
        if at_BQ is not None:
            x_BLD, local_BLD = at_slots(x_BLD, at_BQ), at_slots(local_BLD, at_BQ)
            sight = Sight(*(at_slots(part.expand(len(at_BQ), -1, -1), at_BQ) for part in sight))
        queries = self._split(self.query(x_BLD)) * keys.shape[-1] ** -0.5
        weights = (queries @ keys.transpose(2, 3) + self._bias(sight)).softmax(dim=-1)
        attended_BQD = (self.attention_dropout(weights) @ values).transpose(1, 2).flatten(2)
        mixed_BQD = self.dropout(self.out(attended_BQD) + local_BLD)
        x_BQD = self.attention_norm(x_BLD + mixed_BQD)
        fed_BQD = self.down(F.gelu(self.up(x_BQD)))
        return self.feed_forward_norm(x_BQD + self.dropout(fed_BQD))  # type: ignore[no-any-return]

    def distance_table(self) -> Tensor:
        """The summand of attention's logits for every distance: H reach, zeros if not learned."""
        if hasattr(self, "distance_bias"):
            return self.distance_bias
        return torch.zeros(self.heads, self.reach)

    def _split(self, x_BLD: Tensor) -> Tensor:
        """B H L d."""
        return x_BLD.view(*x_BLD.shape[:2], self.heads, -1).transpose(1, 2)

    def _local(self, x_BLD: Tensor, lengths_B: Tensor, cache: LayerCache | None) -> Tensor:
        """Each token beside those just before it, weighted a dimension each: B L D."""
        if not hasattr(self, "local_weight"):
            return torch.zeros_like(x_BLD)
        if cache is None:
            return causal_convolution(x_BLD, self.local_weight)
        x_BND = cache.preceded(x_BLD, lengths_B)
        return causal_convolution(x_BND, self.local_weight)[:, -x_BLD.shape[1] :]

    def _bias(self, sight: Sight) -> Tensor:
        """The summand of attention's logits, B H L T: -inf where a token is not visible."""
        distances_BLT, visible_BLT = sight
        bias = torch.zeros((), device=visible_BLT.device)
        if hasattr(self, "distance_bias"):
            bias = self.distance_bias[:, distances_BLT.clamp(0, self.reach - 1)].transpose(0, 1)
        return torch.where(visible_BLT[:, None], bias, -torch.inf)


class Adapter(nn.Module):
    """A correction of low rank to vectors of the network; zero until it is trained."""

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(dim, rank)
        self.up = nn.Linear(rank, dim)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Returns the correction: B L D."""
        return self.up(F.gelu(self.down(x_BLD)))  # type: ignore[no-any-return]


def at_slots(x_BLD: Tensor, at_BQ: Tensor) -> Tensor:
    """Returns the rows of each sequence at its slots: B Q D."""
    return x_BLD.gather(1, at_BQ[..., None].expand(-1, -1, x_BLD.shape[-1]))
