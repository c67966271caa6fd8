"""The network: a decoder-only Transformer over item rows, personalised by a user embedding.

Shapes: B batch, L length, Q query positions, T slots of the cache, D width, H heads, d = D / H,
V catalogue, U users, R rank of the user table. Histories are padded on the right: behind a causal
mask padding is never seen by a real position, so no padding item exists. Positions count towards
the end of the history: its last item stands at `max_history - 1`, however long it is, and what the
model itself appends stands at `max_history`, `max_history + 1`, …

By default there is no vector a position. Attention has a learned bias for every distance, and a
causal depth-wise convolution beside it sees the newest items in their order: a sample may then be
cut anywhere, and one pass over a whole history sees every prefix as if it stood alone.
Items and interests are unit vectors, so that an inner product is a cosine.

Source: METHOD section 1 (arXiv 2404.08675). The low-rank user table, its dropout to a shared
unknown user, relative positions (as in T5), the convolution and the cosine are our own choices.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.network.block import Block, batch_first, history_positions
from model.network.config import GPTConfig
from model.network.ops import Dropout, unit

HISTORY, OFFER = 0, 1  # segments: what the user did, what the model generated
FIRST_SCALE = 14.0  # of cosines, before training has found a better one


@dataclass
class Cache:
    """Keys and values of the tokens seen so far, and what every further token needs."""

    keys: list[Tensor]  # a layer each, B H T d
    values: list[Tensor]
    recent: list[Tensor]  # a layer each, B C D: what the convolution still needs of the past
    visible_BT: Tensor  # slots that hold a real token
    places_BT: Tensor  # how-manieth real token each slot holds, from 0
    user_BD: Tensor
    used: int  # slots filled, padding included
    steps: int = 0  # tokens appended since the prefill


class GPT(nn.Module):
    """Personalised GPT over `catalogue` items, with a row for each of `users` users."""

    def __init__(self, config: GPTConfig, catalogue: int, users: int) -> None:
        super().__init__()
        self.config = config
        self.items = nn.Embedding(catalogue, config.dim)
        if config.positions == "absolute":
            self.positions = nn.Embedding(config.max_history + config.max_interests, config.dim)
        self.segments = nn.Embedding(2, config.dim)
        if config.user_rank:
            self.users = nn.Embedding(users + 1, config.user_rank)  # row 0: the unknown user
            self.user_up = nn.Linear(config.user_rank, config.dim, bias=False)
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = Dropout(config.dropout)
        if config.cosine:
            self.log_scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.apply(_initialise)
        if config.user_rank:  # starts as no user module at all, and has to earn its weight
            nn.init.normal_(self.users.weight, std=config.user_rank**-0.5)
            nn.init.zeros_(self.user_up.weight)

    @property
    def layers(self) -> list[Block]:
        """The decoder layers, first to last."""
        return cast("list[Block]", list(self.blocks))

    def tables(self) -> list[nn.Embedding]:
        """The embeddings that grow with the catalogue and the users."""
        tables = [table for name, table in self.named_children() if name in ("items", "users")]
        return cast("list[nn.Embedding]", tables)

    def item_vectors(self, rows: Tensor | None = None) -> Tensor:
        """What interests are compared with: V D, of length 1 where the model uses cosines.

        With `rows` (R), those of these items: R D.
        """
        return self._unit(self.items.weight if rows is None else self.items(rows))

    def read(self, vectors: Tensor) -> Tensor:
        """What the network sees of rows of its item table."""
        return self._unit(vectors)

    def embed(
        self, items_BL: Tensor, segments_BL: Tensor, positions_BL: Tensor, user_BD: Tensor
    ) -> Tensor:
        """Sum of the embeddings, normalised: B L D."""
        x_BLD = self.read(self.items(items_BL)) + self.segments(segments_BL) + user_BD[:, None]
        if self.config.positions == "absolute":
            x_BLD = x_BLD + self.positions(positions_BL.clamp(max=len(self.positions.weight) - 1))
        return self.dropout(self.norm(x_BLD))  # type: ignore[no-any-return]

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

        The sequences of a batch have the same distances between slots: rows of `positions_BL`
        differ by a constant. The last layer's queries and feed-forward run only for the slots that
        are asked for.
        """
        x_BLD = self.embed(items_BL, segments_BL, positions_BL, self.user(users_B))
        places_L = positions_BL[0]
        distances_LL = places_L[:, None] - places_L
        causal_LL = torch.ones_like(distances_LL, dtype=torch.bool).tril()
        *lower, last = self.layers
        for block in lower:
            bias_HLL = block.bias(distances_LL, causal_LL)
            x_BLD = block(x_BLD, block.local(x_BLD), *block.keys_values(x_BLD), bias_HLL)
        keys, values = last.keys_values(x_BLD)
        if at_BQ is None:
            bias_HLL = last.bias(distances_LL, causal_LL)
            return self._interest(last(x_BLD, last.local(x_BLD), keys, values, bias_HLL))
        at_BQD = at_BQ[..., None].expand(-1, -1, x_BLD.shape[-1])
        bias = batch_first(last.bias(distances_LL[at_BQ], causal_LL[at_BQ]))
        queries_BQD, local_BQD = x_BLD.gather(1, at_BQD), last.local_at(x_BLD, at_BQ)
        return self._interest(last(queries_BQD, local_BQD, keys, values, bias))

    def prefill(
        self, history_BL: Tensor, lengths_B: Tensor, users_B: Tensor, steps: int
    ) -> tuple[Tensor, Cache]:
        """Run histories (right-padded, 1 ≤ length ≤ L ≤ max_history).

        Returns the first interest B D, and a cache with room for `steps` further tokens.
        """
        length = history_BL.shape[1]
        user_BD = self.user(users_B)
        positions_BL = history_positions(lengths_B, length, self.config.max_history)
        segments_BL = torch.full_like(history_BL, HISTORY)
        x_BLD = self.embed(history_BL, segments_BL, positions_BL, user_BD)
        slots_T = torch.arange(length + steps, device=history_BL.device)
        visible_BT = (slots_T < lengths_B[:, None]) | (slots_T >= length)
        places_BT = torch.where(slots_T < length, slots_T, slots_T - length + lengths_B[:, None])
        cache = Cache([], [], [], visible_BT, places_BT, user_BD, used=length)
        distances_LL = slots_T[:length, None] - slots_T[:length]
        last_B1 = lengths_B[:, None] - 1
        *lower, last = self.layers
        for block in lower:
            keys, values = self._remember(block, x_BLD, last_B1, cache, steps)
            bias_HLL = block.bias(distances_LL, distances_LL >= 0)
            x_BLD = block(x_BLD, block.local(x_BLD), keys, values, bias_HLL)
        keys, values = self._remember(last, x_BLD, last_B1, cache, steps)
        distances_B1L = (last_B1 - slots_T[:length])[:, None]
        bias = batch_first(last.bias(distances_B1L, distances_B1L >= 0))
        last_B1D = last_B1[..., None].expand(-1, -1, x_BLD.shape[-1])
        query_B1D, local_B1D = x_BLD.gather(1, last_B1D), last.local_at(x_BLD, last_B1)
        return self._interest(last(query_B1D, local_B1D, keys, values, bias))[:, 0], cache

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
        places_BT = cache.places_BT[:, : slot + 1]
        distances_B1T = (places_BT[:, -1:] - places_BT)[:, None]
        visible_B1T = cache.visible_BT[:, None, : slot + 1]
        for depth, block in enumerate(self.layers):
            keys, values = cache.keys[depth], cache.values[depth]
            key, value = block.keys_values(x_B1D)
            keys[:, :, slot], values[:, :, slot] = key[:, :, 0], value[:, :, 0]
            bias_HB1T = block.bias(distances_B1T, visible_B1T)
            seen = keys[:, :, : slot + 1], values[:, :, : slot + 1]
            newest_BCD = torch.cat([cache.recent[depth], x_B1D], dim=1)
            cache.recent[depth] = newest_BCD[:, 1:]
            local_B1D = block.local(newest_BCD)[:, -1:]
            x_B1D = block(x_B1D, local_B1D, *seen, batch_first(bias_HB1T))
        cache.used += 1
        cache.steps += 1
        return self._interest(x_B1D)[:, 0]

    def _remember(
        self, block: Block, x_BLD: Tensor, last_B1: Tensor, cache: Cache, steps: int
    ) -> tuple[Tensor, Tensor]:
        """Put into the cache what `steps` further tokens need of this layer; its keys, values."""
        keys, values = block.keys_values(x_BLD)
        cache.keys.append(F.pad(keys, (0, 0, 0, steps)))
        cache.values.append(F.pad(values, (0, 0, 0, steps)))
        slots_BC = last_B1 - torch.arange(
            max(self.config.local - 1, 0), device=last_B1.device
        ).flip(0)
        rows_B1 = torch.arange(len(x_BLD), device=x_BLD.device)[:, None]
        recent_BCD = x_BLD[rows_B1, slots_BC.clamp(min=0)]
        cache.recent.append(recent_BCD * (slots_BC >= 0)[..., None])
        return keys, values

    def _unit(self, vectors: Tensor) -> Tensor:
        return unit(vectors) if self.config.cosine else vectors

    def _interest(self, hidden: Tensor) -> Tensor:
        """Of length `scale`, where the model uses cosines: scores are what softmax takes."""
        return self._unit(hidden) * self.log_scale.exp() if self.config.cosine else hidden


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
