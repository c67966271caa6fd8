"""The network: a decoder-only Transformer over item rows, personalised by a user embedding.

Shapes: B batch, L length, Q query positions, T slots of the cache, D width, H heads, d = D / H,
V catalogue, U users, R rank of the user table. Histories are padded on the right: behind a causal
mask padding is never seen by a real position, so no padding item exists. Positions count towards
the end of the history: its last item stands at `max_history - 1`, however long it is, and what the
model itself appends stands at `max_history`, `max_history + 1`, …

Source: METHOD section 1 (arXiv 2404.08675). The low-rank user table, its dropout to a shared
unknown user, and the positions counted from the end are our own choices.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Self, cast

import torch
from pydantic import BaseModel, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

HISTORY, OFFER = 0, 1  # segments: what the user did, what the model generated


class GPTConfig(BaseModel, frozen=True):
    """Size and regularisation of the network."""

    network: Literal["gpt", "gru"] = Field(
        "gpt", description="gpt, or the recurrent network of the peer GRU4Rec (not served)"
    )
    dim: int = Field(64, ge=1, description="width of an interest vector")
    layers: int = Field(2, ge=1, description="decoder layers")
    heads: int = Field(2, ge=1, description="attention heads; a divisor of dim")
    feed_forward: int = Field(256, ge=1, description="width of the feed-forward layers")
    max_history: int = Field(50, ge=1, description="newest items of a history that are read")
    max_interests: int = Field(4, ge=1, le=8, description="interests that can be generated")
    dropout: float = Field(0.5, ge=0, lt=1, description="on embeddings and residual branches")
    attention_dropout: float = Field(0.5, ge=0, lt=1, description="on attention weights")
    user_rank: int = Field(8, ge=0, description="rank of the user table; 0 = no user module")
    user_dropout: float = Field(
        0.9, ge=0, lt=1, description="share of samples trained as the unknown user"
    )

    @model_validator(mode="after")
    def _heads_divide_dim(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"heads = {self.heads} does not divide dim = {self.dim}")
        return self

    def history_positions(self, lengths_B: Tensor, length: int) -> Tensor:
        """Positions B L of right-padded histories; padding gets some valid position."""
        slots_L = torch.arange(length, device=lengths_B.device)
        last = self.max_history - 1
        return (last + 1 - lengths_B[:, None] + slots_L).clamp(max=last)


@dataclass
class Cache:
    """Keys and values of the tokens seen so far, and what every further token needs."""

    keys: list[Tensor]  # a layer each, B H T d
    values: list[Tensor]
    visible_BT: Tensor  # slots that hold a real token
    user_BD: Tensor
    used: int  # slots filled, padding included
    steps: int = 0  # tokens appended since the prefill


class Block(nn.Module):
    """One post-norm decoder layer whose keys and values can come from a cache."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.attention_dropout = config.attention_dropout
        self.query = nn.Linear(config.dim, config.dim)
        self.key_value = nn.Linear(config.dim, 2 * config.dim)
        self.out = nn.Linear(config.dim, config.dim)
        self.attention_norm = nn.LayerNorm(config.dim)
        self.up = nn.Linear(config.dim, config.feed_forward)
        self.down = nn.Linear(config.feed_forward, config.dim)
        self.feed_forward_norm = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def keys_values(self, x_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the tokens, each B H L d."""
        keys_BLD, values_BLD = self.key_value(x_BLD).chunk(2, dim=-1)
        return self._split(keys_BLD), self._split(values_BLD)

    def forward(
        self, x_BQD: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Update the queries; without a mask, they are the keys' own tokens and attend causally."""
        attended = F.scaled_dot_product_attention(
            self._split(self.query(x_BQD)),
            keys,
            values,
            attn_mask=mask,
            dropout_p=self.attention_dropout if self.training else 0.0,
            is_causal=mask is None,
        )
        attended_BQD = attended.transpose(1, 2).flatten(2)
        x_BQD = self.attention_norm(x_BQD + self.dropout(self.out(attended_BQD)))
        fed_BQD = self.down(F.gelu(self.up(x_BQD)))
        return self.feed_forward_norm(x_BQD + self.dropout(fed_BQD))  # type: ignore[no-any-return]

    def _split(self, x_BLD: Tensor) -> Tensor:
        return x_BLD.view(*x_BLD.shape[:2], self.heads, -1).transpose(1, 2)


class GPT(nn.Module):
    """Personalised GPT over `catalogue` items, with a row for each of `users` users."""

    def __init__(self, config: GPTConfig, catalogue: int, users: int) -> None:
        super().__init__()
        self.config = config
        self.items = nn.Embedding(catalogue, config.dim)
        self.positions = nn.Embedding(config.max_history + config.max_interests, config.dim)
        self.segments = nn.Embedding(2, config.dim)
        if config.user_rank:
            self.users = nn.Embedding(users + 1, config.user_rank)  # row 0: the unknown user
            self.user_up = nn.Linear(config.user_rank, config.dim, bias=False)
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.apply(_initialise)
        if config.user_rank:  # starts as no user module at all, and has to earn its weight
            nn.init.normal_(self.users.weight, std=config.user_rank**-0.5)
            nn.init.zeros_(self.user_up.weight)

    @property
    def layers(self) -> list[Block]:
        """The decoder layers, first to last."""
        return cast("list[Block]", list(self.blocks))

    def embed(
        self, items_BL: Tensor, segments_BL: Tensor, positions_BL: Tensor, user_BD: Tensor
    ) -> Tensor:
        """Sum of the four embeddings, normalised: B L D."""
        x_BLD = self.items(items_BL) + self.positions(positions_BL) + self.segments(segments_BL)
        return self.dropout(self.norm(x_BLD + user_BD[:, None]))  # type: ignore[no-any-return]

    def user(self, users_B: Tensor) -> Tensor:
        """User vectors B D; row -1, or a dropped user in training, is the learned default."""
        if not self.config.user_rank:
            return torch.zeros(len(users_B), self.config.dim, device=users_B.device)
        if self.training and self.config.user_dropout:
            dropped_B = torch.rand(len(users_B), device=users_B.device) < self.config.user_dropout
            users_B = users_B.masked_fill(dropped_B, -1)
        return self.user_up(self.users(users_B + 1))  # type: ignore[no-any-return]

    def forward(
        self,
        items_BL: Tensor,
        segments_BL: Tensor,
        positions_BL: Tensor,
        users_B: Tensor,
        at_BQ: Tensor | None = None,
    ) -> Tensor:
        """Interest vectors at the slots `at_BQ` (B Q D), or at every slot (B L D).

        The last layer's queries and feed-forward run only for the slots that are asked for.
        """
        x_BLD = self.embed(items_BL, segments_BL, positions_BL, self.user(users_B))
        *lower, last = self.layers
        for block in lower:
            x_BLD = block(x_BLD, *block.keys_values(x_BLD))
        keys, values = last.keys_values(x_BLD)
        if at_BQ is None:
            return last(x_BLD, keys, values)  # type: ignore[no-any-return]
        queries_BQD = x_BLD.gather(1, at_BQ[..., None].expand(-1, -1, x_BLD.shape[-1]))
        slots_L = torch.arange(x_BLD.shape[1], device=x_BLD.device)
        mask = (slots_L <= at_BQ[..., None])[:, None]  # B 1 Q L
        return last(queries_BQD, keys, values, mask)  # type: ignore[no-any-return]

    def prefill(
        self, history_BL: Tensor, lengths_B: Tensor, users_B: Tensor, steps: int
    ) -> tuple[Tensor, Cache]:
        """Run histories (right-padded, 1 ≤ length ≤ L ≤ max_history).

        Returns the first interest B D, and a cache with room for `steps` further tokens.
        """
        batch, length = history_BL.shape
        user_BD = self.user(users_B)
        positions_BL = self.config.history_positions(lengths_B, length)
        segments_BL = torch.full_like(history_BL, HISTORY)
        x_BLD = self.embed(history_BL, segments_BL, positions_BL, user_BD)
        slots_T = torch.arange(length + steps, device=history_BL.device)
        visible_BT = (slots_T < lengths_B[:, None]) | (slots_T >= length)
        cache = Cache([], [], visible_BT, user_BD, used=length)
        for depth, block in enumerate(self.layers):
            keys, values = block.keys_values(x_BLD)
            cache.keys.append(F.pad(keys, (0, 0, 0, steps)))
            cache.values.append(F.pad(values, (0, 0, 0, steps)))
            if depth < self.config.layers - 1:
                x_BLD = block(x_BLD, keys, values)
        rows_B = torch.arange(batch, device=history_BL.device)
        last_B1D = x_BLD[rows_B, lengths_B - 1][:, None]
        mask = visible_BT[:, None, None, :length]
        return self.layers[-1](last_B1D, keys, values, mask)[:, 0], cache

    def step(self, items_B: Tensor, cache: Cache) -> Tensor:
        """Append one generated item to every sequence; returns the next interest B D."""
        slot = cache.used
        position = self.config.max_history + cache.steps
        x_B1D = self.embed(
            items_B[:, None],
            torch.full_like(items_B, OFFER)[:, None],
            torch.full_like(items_B, position)[:, None],
            cache.user_BD,
        )
        mask = cache.visible_BT[:, None, None, : slot + 1]
        for block, keys, values in zip(self.layers, cache.keys, cache.values, strict=True):
            key, value = block.keys_values(x_B1D)
            keys[:, :, slot], values[:, :, slot] = key[:, :, 0], value[:, :, 0]
            x_B1D = block(x_B1D, keys[:, :, : slot + 1], values[:, :, : slot + 1], mask)
        cache.used += 1
        cache.steps += 1
        return x_B1D[:, 0]


@contextmanager
def evaluating(model: GPT) -> Iterator[None]:
    """Switch dropout off for a while."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _initialise(module: nn.Module) -> None:
    """Small normal weights, zero biases."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
