"""GRU4Rec, a peer to compare with: a recurrent network in the Transformer's place.

It has what training, validation and a recall of one interest need; it is not served.
Source: Hidasi et al., arXiv 1511.06939; the loss is our trainer's, the output is tied to the items.
Shapes: B batch, L length, Q query positions, D width.
"""

import torch
from torch import Tensor, nn

from model.network.config import GPTConfig
from model.network.gpt import GPT, Cache
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
        items_BL: Tensor,
        segments_BL: Tensor,
        positions_BL: Tensor,
        users_B: Tensor,
        at_BQ: Tensor | None = None,
    ) -> Tensor:
        """As `GPT.forward`; segments, positions and users do not matter."""
        x_BLD, _ = self.gru(self.dropout(self.items(items_BL)))
        if at_BQ is not None:
            x_BLD = x_BLD.gather(1, at_BQ[..., None].expand(-1, -1, x_BLD.shape[-1]))
        return self.out(x_BLD)  # type: ignore[no-any-return]

    def prefill(
        self, history_BL: Tensor, lengths_B: Tensor, users_B: Tensor, steps: int
    ) -> tuple[Tensor, Cache]:
        """As `GPT.prefill`, but for one interest only: raises ValueError for further steps."""
        if steps:
            raise ValueError(
                "the gru network recalls one interest: it is a peer, --stages pretrain"
            )
        unused_BL = torch.zeros_like(history_BL)
        interest_B1D = self(history_BL, unused_BL, unused_BL, users_B, (lengths_B - 1)[:, None])
        return interest_B1D[:, 0], Cache(
            [], [], [], unused_BL, unused_BL, unused_BL, used=history_BL.shape[1]
        )


def new_network(config: GPTConfig, catalogue: int, users: int) -> GPT:
    """The network that the configuration names, with random weights."""
    return GRU(config, catalogue) if config.network == "gru" else GPT(config, catalogue, users)
