"""The sequences that the network reads: items, what is known of them, and their places.

Shapes: B batch, L tokens of a sequence, N items of all histories.
"""

from typing import NamedTuple

import torch
from torch import Tensor

HISTORY, OFFER = 0, 1
"""Segments: an item of the user's history, an item that the model generated."""


class OlderItems(NamedTuple):
    """Items of histories that came before those in the tokens."""

    rows_N: Tensor
    history_N: Tensor
    """The number of the sequence that each belongs to."""

    def to(self, device: torch.device) -> "OlderItems":
        """Returns the same on `device`."""
        return OlderItems(*(part.to(device) for part in self))

    def twice(self, histories: int) -> "OlderItems":
        """Returns those of all `histories` and of as many copies behind them."""
        history_2N = torch.cat([self.history_N, self.history_N + histories])
        return OlderItems(torch.cat([self.rows_N, self.rows_N]), history_2N)


class Tokens(NamedTuple):
    """The sequences of a batch, padded on the right.

    The tokens of all sequences stand at the same distances: rows of `positions_BL` differ by a
    constant.
    """

    items_BL: Tensor
    segments_BL: Tensor
    positions_BL: Tensor
    lengths_B: Tensor
    """Tokens of each sequence, padding not counted."""
    feedback: "Feedback | None" = None
    older: OlderItems | None = None

    def to(self, device: torch.device) -> "Tokens":
        """Returns the same sequences on `device`."""
        parts = {name: part.to(device) for name, part in self._asdict().items() if part is not None}
        return self._replace(**parts)


class Feedback(NamedTuple):
    """The actions that the items of histories got; -1: not known."""

    actions_BL: Tensor
    outcomes_BL: Tensor
    """The action that the next item got or, at the last slot of a recall, shall get."""
    avoided_BL: Tensor | None = None
    """The same with the action that it shall not get, for recalls that are guided."""

    def to(self, device: torch.device) -> "Feedback":
        """Returns the same on `device`."""
        actions_BL, outcomes_BL, avoided_BL = self
        avoided_BL = None if avoided_BL is None else avoided_BL.to(device)
        return Feedback(actions_BL.to(device), outcomes_BL.to(device), avoided_BL)

    def and_avoided(self) -> "Feedback":
        """Returns the feedback of the histories twice, the second time with what is avoided."""
        assert self.avoided_BL is not None
        actions_2BL = torch.cat([self.actions_BL, self.actions_BL])
        return Feedback(actions_2BL, torch.cat([self.outcomes_BL, self.avoided_BL]))


def history_tokens(
    history_BL: Tensor,
    lengths_B: Tensor,
    max_history: int,
    feedback: Feedback | None = None,
    older: OlderItems | None = None,
) -> Tokens:
    """Returns plain histories (right-padded, 1 ≤ length ≤ L ≤ max_history) as tokens."""
    slots_L = torch.arange(history_BL.shape[1], device=history_BL.device)
    positions_BL = max_history - lengths_B[:, None] + slots_L
    segments_BL = torch.full_like(history_BL, HISTORY)
    return Tokens(history_BL, segments_BL, positions_BL, lengths_B, feedback, older)
