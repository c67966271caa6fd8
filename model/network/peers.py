"""Peers to compare with: other networks in the Transformer's place.

They can be trained, validated and asked for one interest; they are not served. Their loss is our
trainer's, and interests are compared with the rows of the items.
Sources: GRU4Rec, Hidasi et al., arXiv 1511.06939; the two-tower model's user tower is that of
Covington et al., "Deep Neural Networks for YouTube Recommendations", 2016, and its newest item is
our addition.
Shapes: B batch, L length, Q query slots, D width.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from model.network.block import at_slots
from model.network.config import GPTConfig
from model.network.gpt import FIRST_SCALE, GPT, Cache
from model.network.ops import Dropout
from model.network.tokens import Tokens


class Peer(GPT):
    """A network with rows of items, and without segments, users and a cache."""

    def __init__(self, config: GPTConfig, catalogue: int) -> None:
        nn.Module.__init__(self)
        self.config = config
        self.items = nn.Embedding(catalogue, config.dim)
        nn.init.xavier_normal_(self.items.weight)
        self.dropout = Dropout(config.dropout)
        if config.cosine:
            self.log_scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))

    def read(self, tokens: Tokens) -> Tensor:
        """Returns what the network makes of each sequence up to every slot: B L D."""
        raise NotImplementedError

    def forward(
        self,
        tokens: Tokens,
        users_B: Tensor,
        at_BQ: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """As `GPT.forward`; only the items of the tokens count, and nothing is cached."""
        x_BLD = self.read(tokens)
        if at_BQ is not None:
            x_BLD = at_slots(x_BLD, at_BQ)
        return self._interest(x_BLD)

    def step(self, items_B: Tensor, cache: Cache) -> Tensor:
        """Raises ValueError: a peer recalls one interest only."""
        name = self.config.network
        raise ValueError(
            f"the {name} network recalls one interest: it is a peer, --stages pretrain"
        )

    def tie_segments(self) -> None:
        """Does nothing: a peer has no segments."""


class GRU(Peer):
    """`layers` recurrent layers of width `feed_forward` over the items of the history."""

    def __init__(self, config: GPTConfig, catalogue: int) -> None:
        super().__init__(config, catalogue)
        self.gru = nn.GRU(config.dim, config.feed_forward, config.layers, batch_first=True)
        self.out = nn.Linear(config.feed_forward, config.dim)

    def read(self, tokens: Tokens) -> Tensor:
        """Returns the state behind each item: B L D."""
        x_BLD, _ = self.gru(self.dropout(self._unit(self.items(tokens.items_BL))))
        return self.out(x_BLD)  # type: ignore[no-any-return]


class TwoTower(Peer):
    """The user tower: `layers` layers of width `feed_forward` over a mean and the newest item.

    It knows which items a history has, and no order but for the newest. The other tower is the
    row of an item.
    """

    def __init__(self, config: GPTConfig, catalogue: int) -> None:
        super().__init__(config, catalogue)
        widths = [2 * config.dim] + [config.feed_forward] * config.layers
        hidden = [
            layer
            for before, after in pairwise(widths)
            for layer in (nn.Linear(before, after), nn.ReLU())
        ]
        self.tower = nn.Sequential(*hidden, nn.Linear(widths[-1], config.dim))

    def read(self, tokens: Tokens) -> Tensor:
        """Returns the user tower's vector behind each item: B L D."""
        newest_BLD = self._unit(self.items(tokens.items_BL))
        x_BLE = torch.cat([self.history_means(tokens), newest_BLD], dim=-1)
        return self.tower(self.dropout(x_BLE))  # type: ignore[no-any-return]


def new_network(config: GPTConfig, catalogue: int, users: int, actions: int = 0) -> GPT:
    """Returns the network that the configuration names, with random weights.

    Raises ValueError if it reads feedback and there are no `actions`.
    """
    if config.network == "gru":
        return GRU(config, catalogue)
    if config.network == "two-tower":
        return TwoTower(config, catalogue)
    if config.feedback != "none" and not actions:
        raise ValueError(
            f"model.feedback = {config.feedback} needs the actions of events, and the data set has "
            "none: write it anew with --action-column"
        )
    return GPT(config, catalogue, users, actions)
