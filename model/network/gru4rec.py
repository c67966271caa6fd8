"""GRU4Rec, a peer to compare with: a recurrent network in the Transformer's place.

It can be trained, validated and asked for one interest; it is not served.
Source: Hidasi et al., arXiv 1511.06939; the loss is our trainer's, the output is tied to the items.
Shapes: B batch, L length, Q query slots, D width.
"""

from torch import Tensor, nn

from model.network.block import at_slots
from model.network.config import GPTConfig
from model.network.gpt import GPT, Cache, Tokens
from model.network.ops import Dropout


class GRU(GPT):
    """`layers` recurrent layers of width `feed_forward` over item rows of width `dim`."""

    def __init__(self, config: GPTConfig, catalogue: int) -> None:
        nn.Module.__init__(self)
        self.config = config
        self.items = nn.Embedding(catalogue, config.dim)
        nn.init.xavier_normal_(self.items.weight)
        self.dropout = Dropout(config.dropout)
        self.gru = nn.GRU(config.dim, config.feed_forward, config.layers, batch_first=True)
        self.out = nn.Linear(config.feed_forward, config.dim)

    def forward(
        self,
        tokens: Tokens,
        users_B: Tensor,
        at_BQ: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """As `GPT.forward`; only the items of the tokens count, and nothing is cached."""
        x_BLD, _ = self.gru(self.dropout(self.items(tokens.items_BL)))
        if at_BQ is not None:
            x_BLD = at_slots(x_BLD, at_BQ)
        return self.out(x_BLD)  # type: ignore[no-any-return]

    def step(self, items_B: Tensor, cache: Cache) -> Tensor:
        """Raises ValueError: this network recalls one interest only."""
        raise ValueError("the gru network recalls one interest: it is a peer, --stages pretrain")

    def tie_segments(self) -> None:
        """Does nothing: this network has no segments."""


def new_network(config: GPTConfig, catalogue: int, users: int, actions: int = 0) -> GPT:
    """Returns the network that the configuration names, with random weights.

    Raises ValueError if it reads feedback and there are no `actions`.
    """
    if config.network == "gru":
        return GRU(config, catalogue)
    if config.feedback != "none" and not actions:
        raise ValueError(
            f"model.feedback = {config.feedback} needs the actions of events, and the data set has "
            "none: write it anew with --action-column"
        )
    return GPT(config, catalogue, users, actions)
