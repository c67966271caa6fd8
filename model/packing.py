"""Histories of unlike length in one grid, so that nearly nothing is padding.

Several short ones share a row that is as wide as the longest.
Shapes: B histories, L length, R rows of the grid, T slots of a row, S = R T, U queries: as many in
each row as the row that holds most histories.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Packing:
    """Where in the grid each history stands."""

    rows: int  # R
    width: int  # T
    first_B: Ints  # slot of the oldest item, of all S
    row_B: Ints
    query_B: Ints  # slot of the history's query, of all U
    owner_U: Ints  # whose query; anybody's where it is nobody's
    owner_S: Ints  # whose slot; anybody's where it is nobody's
    start_S: Ints  # where in its row the slot's history begins; the slot itself where it has none

    def spread(self, values_BL: Ints, lengths_B: Ints) -> Ints:
        """Right-padded values at the slots of their histories, 0 elsewhere: S."""
        slots_L = np.arange(values_BL.shape[1])
        real_BL = slots_L < lengths_B[:, None]
        values_S = np.zeros_like(self.owner_S)
        values_S[(self.first_B[:, None] + slots_L)[real_BL]] = values_BL[real_BL]
        return values_S


def pack(spans_B: Ints) -> Packing:
    """Give each history `spans_B` slots of a row: first fit, longest first."""
    width, spans = int(spans_B.max()), spans_B.tolist()
    room: list[int] = []  # that each row has left
    held: list[int] = []  # histories in each row
    rows, places, offsets = [0] * len(spans), [0] * len(spans), [0] * len(spans)
    for user in np.argsort(-spans_B, kind="stable").tolist():
        span = spans[user]
        for row, left in enumerate(room):  # noqa: B007
            if left >= span:
                break
        else:
            row = len(room)
            room.append(width)
            held.append(0)
        rows[user], places[user], offsets[user] = row, held[row], width - room[row]
        room[row] -= span
        held[row] += 1
    row_B, start_B = np.array(rows), np.array(offsets)
    first_B = row_B * width + start_B
    owner_N = np.repeat(np.arange(len(spans)), spans_B)
    slot_N = np.arange(len(owner_N)) + np.repeat(first_B - spans_B.cumsum() + spans_B, spans_B)
    owner_S = np.zeros(len(room) * width, dtype=np.int64)
    start_S = np.tile(np.arange(width), len(room))
    owner_S[slot_N], start_S[slot_N] = owner_N, start_B[owner_N]
    query_B = row_B * max(held) + np.array(places)
    owner_U = np.zeros(len(room) * max(held), dtype=np.int64)
    owner_U[query_B] = np.arange(len(spans))
    return Packing(len(room), width, first_B, row_B, query_B, owner_U, owner_S, start_S)


def grid_of(lengths_B: Tensor, width: int) -> dict[str, Tensor]:
    """Where tokens stand when every history has a row of its own: see `model.graph.Prefill`.

    Made on the device of the lengths, without a look at them.
    """
    device, batch = lengths_B.device, len(lengths_B)
    users_B, slots_T = torch.arange(batch, device=device), torch.arange(width, device=device)
    return {
        "owner_S": users_B[:, None].expand(batch, width).flatten(),
        "start_RT": torch.where(slots_T < lengths_B[:, None], 0, slots_T),
        "first_B": users_B * width,
        "newest_B": users_B * width + lengths_B - 1,
        "owner_U": users_B,
        "query_B": users_B,
    }
