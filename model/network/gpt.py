"""The network: a decoder-only Transformer over item rows, personalised by a user embedding.

Shapes: B batch, L tokens of a sequence, Q query slots, T all tokens so far, D width, V catalogue,
U users, R rank of the user table, P means of the items of a history.

One forward pass serves training, prefill and decode step; the last two give it a cache. Sequences
are padded on the right: behind a causal mask no real token sees padding, so there is no padding
item. Positions count towards the end of the history: its last item stands at `max_history - 1`,
however long it is, and the items that the model appends stand at `max_history`, `max_history + 1`…

By default no position has a vector. Attention has a learned bias for every distance, and a causal
depth-wise convolution beside it sees the newest items in their order. A sample may then be cut
anywhere, and one pass over a whole history sees every prefix as if it stood alone.
Items and interests are unit vectors, so that an inner product is a cosine.

Source: docs/method.md, section 1. The low-rank user table, its dropout to a shared
unknown user, relative positions (as in T5), the convolution and the cosine are our own choices.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from model.network.block import Adapter, Block, LayerCache, Sight, at_slots
from model.network.config import GPTConfig
from model.network.ops import Dropout, GroupNorm, group_units
from model.network.tokens import HISTORY, OFFER, Feedback, OlderItems, Tokens, history_tokens

WHOLE_HISTORY = 1000
"""Newest items of a history whose mean the user module takes."""

FIRST_SCALE = 14.0
"""Factor of the cosines before training has learned a better one."""


@dataclass
class Cache:
    """The memory of a rollout: all that it needs of the tokens that the network has read."""

    layers: list[LayerCache]
    users_B: Tensor
    positions_BT: Tensor
    real_BT: Tensor
    """False: padding."""
    next_position: int
    sums_BPD: Tensor
    """The sums of the vectors of all items of each history, and of their weights."""
    weights_BP: Tensor

    @classmethod
    def empty(cls, config: GPTConfig, users_B: Tensor) -> "Cache":
        """Returns the cache of a network that has read nothing of these users."""
        layers = [
            LayerCache.empty(config, len(users_B), users_B.device) for _ in range(config.layers)
        ]
        nothing_B0 = torch.zeros(len(users_B), 0, dtype=torch.int64, device=users_B.device)
        sums_BPD = torch.zeros(
            len(users_B), max(1, config.user_queries), config.dim, device=users_B.device
        )
        longest, weights_BP = config.max_history, torch.zeros_like(sums_BPD[..., 0])
        nothing = nothing_B0, nothing_B0.bool()
        return cls(layers, users_B, *nothing, longest, sums_BPD, weights_BP)

    def append(self, tokens: Tokens) -> Sight:
        """Adds the tokens; returns which of all tokens each of them sees."""
        sight = causal(tokens.positions_BL)
        if self.positions_BT.shape[1]:
            before_BLT = tokens.positions_BL[:, :, None] - self.positions_BT[:, None]
            parts = (before_BLT, self.real_BT[:, None].expand_as(before_BLT))
            batch = len(self.users_B)
            sight = Sight(
                *(
                    torch.cat([before, new.expand(batch, -1, -1)], dim=2)
                    for before, new in zip(parts, sight, strict=True)
                )
            )
        slots_L = torch.arange(tokens.items_BL.shape[1], device=tokens.items_BL.device)
        self.positions_BT = torch.cat([self.positions_BT, tokens.positions_BL], dim=1)
        self.real_BT = torch.cat([self.real_BT, slots_L < tokens.lengths_B[:, None]], dim=1)
        return sight


def causal(positions_BL: Tensor) -> Sight:
    """Each token sees itself and all before it; the same in every sequence: 1 L L."""
    positions_1L = positions_BL[:1]
    distances_1LL = positions_1L[:, :, None] - positions_1L[:, None]
    return Sight(distances_1LL, torch.ones_like(distances_1LL, dtype=torch.bool).tril())


class GPT(nn.Module):
    """Personalised GPT over `catalogue` items, with a row for each of `users` users.

    A network that reads feedback knows this number of `actions`.
    """

    def __init__(self, config: GPTConfig, catalogue: int, users: int, actions: int = 0) -> None:
        super().__init__()
        self.config = config
        self.items = nn.Embedding(catalogue, config.dim)
        if config.positions == "absolute":
            self.positions = nn.Embedding(config.max_history + config.max_interests, config.dim)
        self.segments = nn.Embedding(2, config.dim)
        if config.feedback != "none":
            self.actions = nn.Embedding(actions + 1, config.dim)  # row 0: not known
        if config.feedback == "outcome":
            self.outcomes = nn.Embedding(actions + 1, config.dim)
        if config.user_rank:
            self.users = nn.Embedding(users + 1, config.user_rank, padding_idx=0)
            self.user_up = nn.Linear(config.user_rank, config.dim, bias=False)
        if config.user_mean:
            pools = max(1, config.user_queries)
            self.user_out = nn.Linear(pools * config.dim, config.dim, bias=False)
            if config.user_queries:
                self.user_queries = nn.Parameter(torch.randn(pools, config.dim))
        self.norm = GroupNorm(config.dim, config.groups)
        self.dropout = Dropout(config.dropout)
        if config.cosine:
            scales = (config.groups,) if config.groups > 1 else ()
            self.log_scale = nn.Parameter(torch.full(scales, math.log(FIRST_SCALE)))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        if config.adapter_rank:
            self.adapters = nn.ModuleList(
                Adapter(config.dim, config.adapter_rank) for _ in range(config.layers)
            )
        self.apply(_initialise)
        for adapter in self.layer_adapters:
            nn.init.zeros_(adapter.up.weight)
        for table in self.feedback_tables:
            nn.init.zeros_(table.weight[0])  # what is not known adds nothing
        if config.user_mean:  # has to earn its weight, too
            nn.init.zeros_(self.user_out.weight)
        if config.user_rank:  # starts as no user module at all, and has to earn its weight
            nn.init.zeros_(self.users.weight)
            nn.init.normal_(self.user_up.weight, std=config.user_rank**-0.5)

    @property
    def layers(self) -> list[Block]:
        """The decoder layers, first to last."""
        return cast("list[Block]", list(self.blocks))

    @property
    def layer_adapters(self) -> list[Adapter]:
        """The adapter behind each layer; empty if the network has none."""
        return cast("list[Adapter]", list(getattr(self, "adapters", [])))

    @property
    def feedback_tables(self) -> list[nn.Embedding]:
        """The embeddings of actions and of outcomes, row 0: not known; those that it has."""
        found = [getattr(self, name) for name in ("actions", "outcomes") if hasattr(self, name)]
        return cast("list[nn.Embedding]", found)

    def tables(self) -> list[nn.Embedding]:
        """The embeddings that grow with the catalogue and the users."""
        tables = [table for name, table in self.named_children() if name in ("items", "users")]
        return cast("list[nn.Embedding]", tables)

    def item_vectors(self, rows: Tensor | None = None) -> Tensor:
        """The vectors that interests are compared with, V D; with `rows` (R), those of the rows.

        They have the length 1 where the model uses cosines.
        """
        vectors = self._unit(self.items.weight if rows is None else self.items(rows))
        return vectors if self.config.groups == 1 else vectors * self.config.groups**-0.5

    def user(self, users_B: Tensor) -> Tensor:
        """User vectors B D; zero for row -1, the unknown user, and for a dropped user in training.

        A user is a deviation from the unknown user, who needs no vector: the segments have one.
        """
        if not self.config.user_rank:
            return torch.zeros(len(users_B), self.config.dim, device=users_B.device)
        if self.training and self.config.user_dropout:
            dropped_B = torch.rand(len(users_B), device=users_B.device) < self.config.user_dropout
            users_B = users_B.masked_fill(dropped_B, -1)
        return self.user_up(self.users(users_B + 1))  # type: ignore[no-any-return]

    def embed(self, tokens: Tokens, users_B: Tensor) -> Tensor:
        """Returns the normalised sum of each token's embeddings: B L D."""
        x_BLD = self._unit(self.items(tokens.items_BL)) + self.segments(tokens.segments_BL)
        if self.config.user_rank:
            x_BLD = x_BLD + self.user(users_B)[:, None]
        if tokens.feedback is not None and self.config.feedback != "none":
            x_BLD = x_BLD + self.actions(tokens.feedback.actions_BL + 1)
            if self.config.feedback == "outcome":
                x_BLD = x_BLD + self.outcomes(tokens.feedback.outcomes_BL + 1)
        if self.config.positions == "absolute":
            last = len(self.positions.weight) - 1
            x_BLD = x_BLD + self.positions(tokens.positions_BL.clamp(max=last))
        return self.dropout(self.norm(x_BLD))  # type: ignore[no-any-return]

    def forward(
        self,
        tokens: Tokens,
        users_B: Tensor,
        at_BQ: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Returns the interest vectors at the slots `at_BQ` (B Q D), or at every slot (B L D).

        `users_B`: rows of the user table, -1 for an unknown user. With a cache, the tokens follow
        those that it holds, and are added to it. The last layer computes queries and feed-forward
        only at the slots that are asked for.
        """
        x_BLD = self.embed(tokens, users_B)
        sight = causal(tokens.positions_BL) if cache is None else cache.append(tokens)
        for depth, block in enumerate(self.layers, start=1):
            slots = at_BQ if depth == len(self.blocks) else None
            past = None if cache is None else cache.layers[depth - 1]
            x_BLD = block(x_BLD, tokens.lengths_B, sight, slots, past)
            if self.config.adapter_rank:
                is_offer_BL1 = (tokens.segments_BL == OFFER)[..., None]
                if slots is not None:
                    is_offer_BL1 = at_slots(is_offer_BL1, slots)
                x_BLD = x_BLD + is_offer_BL1 * self.layer_adapters[depth - 1](x_BLD)
        if self.config.user_mean:
            means_BLD = self.history_means(tokens, cache)
            if at_BQ is not None:
                means_BLD = at_slots(means_BLD, at_BQ)
            x_BLD = x_BLD + self.dropout(self.user_out(means_BLD))
        return self._interest(x_BLD)

    def history_means(self, tokens: Tokens, cache: Cache | None = None) -> Tensor:
        """Returns the means of the item vectors of each history up to every slot: B L P·D.

        Offers do not count; items before the tokens do, by `tokens.older` or the cache.
        """
        slots_L = torch.arange(tokens.items_BL.shape[1], device=tokens.items_BL.device)
        real_BL = (slots_L < tokens.lengths_B[:, None]) & (tokens.segments_BL == HISTORY)
        weights_BLP, weighted_BLPD = self._weighted(tokens.items_BL)
        sums_BLPD = (weighted_BLPD * real_BL[..., None, None]).cumsum(dim=1)
        weights_BLP = (weights_BLP * real_BL[..., None]).cumsum(dim=1)
        if tokens.older is not None:
            rows_N, history_N = tokens.older
            weights_NP, weighted_NPD = self._weighted(rows_N)
            older_BPD = torch.zeros_like(sums_BLPD[:, 0]).index_add(0, history_N, weighted_NPD)
            older_BP = torch.zeros_like(weights_BLP[:, 0]).index_add(0, history_N, weights_NP)
            sums_BLPD, weights_BLP = sums_BLPD + older_BPD[:, None], weights_BLP + older_BP[:, None]
        if cache is not None:
            sums_BLPD = sums_BLPD + cache.sums_BPD[:, None]
            weights_BLP = weights_BLP + cache.weights_BP[:, None]
            cache.sums_BPD, cache.weights_BP = sums_BLPD[:, -1], weights_BLP[:, -1]
        return (sums_BLPD / weights_BLP[..., None]).flatten(2)

    def mean_weights(self, vectors: Tensor) -> Tensor:
        """Returns how much an item with each of the vectors … D counts in each mean: … P.

        An item counts by the exponential of its inner product with a query, at most 1.
        """
        if not self.config.user_queries:
            return torch.ones_like(vectors[..., :1])
        largest_P = self.user_queries.detach().norm(dim=1)  # unit vectors give no larger product
        logits: Tensor = vectors @ self.user_queries.T - largest_P
        return logits.exp()

    def _weighted(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the weights of items in the means, … P, and their vectors times these, … P D."""
        vectors = self.item_vectors(rows)
        weights = self.mean_weights(vectors)
        return weights, weights[..., None] * vectors[..., None, :]

    def prefill(
        self,
        history_BL: Tensor,
        lengths_B: Tensor,
        users_B: Tensor,
        feedback: Feedback | None = None,
        older: OlderItems | None = None,
    ) -> tuple[Tensor, Cache]:
        """Runs plain histories; returns the first interest B D, and the cache for `step`."""
        tokens = history_tokens(history_BL, lengths_B, self.config.max_history, feedback, older)
        cache = Cache.empty(self.config, users_B)
        return self(tokens, users_B, lengths_B[:, None] - 1, cache)[:, 0], cache

    def step(self, items_B: Tensor, cache: Cache) -> Tensor:
        """Appends one generated item to every sequence; returns the next interest B D."""
        items_B1 = items_B[:, None]
        position_B1 = torch.full_like(items_B1, cache.next_position)
        cache.next_position += 1
        ones_B = torch.ones_like(items_B)
        tokens = Tokens(items_B1, torch.full_like(items_B1, OFFER), position_B1, ones_B)
        interest_B1D: Tensor = self(tokens, cache.users_B, cache=cache)
        return interest_B1D[:, 0]

    @torch.no_grad()
    def tie_segments(self) -> None:
        """Gives offers the segment vector of the history, for a network that has met no offer.

        Otherwise it would read an offer with a random vector added.
        """
        self.segments.weight[OFFER] = self.segments.weight[HISTORY]

    def _unit(self, vectors: Tensor) -> Tensor:
        return group_units(vectors, self.config.groups) if self.config.cosine else vectors

    def _interest(self, hidden: Tensor) -> Tensor:
        """Interests have the length `scale` where the model uses cosines: scores are logits.

        With groups, scores are the mean of the groups' logits.
        """
        if not self.config.cosine:
            return hidden
        scales, groups = self.log_scale.exp(), self.config.groups
        if groups > 1:
            scales = scales.repeat_interleave(self.config.dim // groups) * groups**-0.5
        return self._unit(hidden) * scales


@contextmanager
def evaluating(model: GPT) -> Iterator[None]:
    """Switches dropout off for a while."""
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
