"""Scores of a whole small catalogue: in 8 bits, and how far they may be from the truth.

Shapes: W users who run together, V catalogue, P the same padded to whole blocks, D width, E the
same padded to whole quarters.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from index.kernels.int8_gemm import addresses, multiply, whole_steps
from index.kernels.int8_layout import (
    FOUR,
    LOW,
    Blocks,
    Short,
    blocks_of,
    levels,
    shift_of,
    steps_of,
)
from index.kernels.jit import pasted
from service.recall.types import Floats, Ints


class Int8Catalogue(NamedTuple):
    """A catalogue in steps of its own, and as it is.

    Vectors are turned by a random rotation first: then none has a large number that makes steps
    wide for all.
    """

    vectors_VD: Floats
    turn_DD: Floats
    blocks: Blocks
    step: float
    error: float  # how far a vector may be from its steps
    length: float  # of the longest, in steps
    levels: int  # of a query
    shift: int  # by which scores are shortened


class Int8Scores(NamedTuple):
    """What interests are scored with; each counts in steps of its own."""

    asked_WE: NDArray[np.uint8]
    scores_WP: Short  # padding is `LOW`
    slack_W: Ints  # who has a higher score in truth may have one here that is lower by so much

    @staticmethod
    def room(users: int, coarse: Int8Catalogue) -> "Int8Scores":
        """For so many at the most."""
        items, width = len(coarse.blocks.start_P), coarse.blocks.items_NQ64.shape[1] * FOUR
        scores_WP = np.empty((users, items), np.int16)
        return Int8Scores(np.zeros((users, width), np.uint8), scores_WP, np.empty(users, np.int64))


def quantise_catalogue(vectors_VD: Floats) -> Int8Catalogue:
    """Steps of vectors of any lengths."""
    turn_DD = _rotation(vectors_VD.shape[1])
    turned_VD = (torch.from_numpy(vectors_VD) @ turn_DD).numpy()
    steps_VD, step = steps_of(turned_VD)
    error = np.linalg.norm(turned_VD - steps_VD * np.float32(step), axis=1).max()
    length = float(np.linalg.norm(steps_VD, axis=1).max())
    blocks = blocks_of(steps_VD.astype(np.int8))
    return Int8Catalogue(
        vectors_VD,
        turn_DD.numpy(),
        blocks,
        step,
        float(error),
        length,
        levels(),
        shift_of(length, len(turn_DD)),
    )


def _rotation(width: int) -> Tensor:
    """The same one every time."""
    drawn_DD = torch.randn(width, width, generator=torch.Generator().manual_seed(0))
    rotation_DD: Tensor = torch.linalg.qr(drawn_DD).Q.contiguous()
    return rotation_DD


@pasted
def score(coarse: Int8Catalogue, interest_WD: Floats, scored: Int8Scores) -> None:
    """All scores of these interests, and their slack."""
    users = len(interest_WD)
    _quantise(coarse, interest_WD, scored)
    asked_WE, scores_WP = scored.asked_WE[:users], scored.scores_WP[:users]
    multiply(coarse.blocks, addresses(asked_WE), addresses(scores_WP), coarse.shift)
    for user in range(users):
        scores_WP[user, len(coarse.vectors_VD) :] = LOW


@pasted
def _quantise(coarse: Int8Catalogue, interest_WD: Floats, scored: Int8Scores) -> None:
    """Queries, turned, in whole steps, and twice the bound of the error of their products.

    |q·v - q'·v'| ≤ |q - q'| |v'| + |q| |v - v'|, and a little for the sums themselves.
    """
    turned_D, zero = np.empty(len(coarse.turn_DD), dtype=np.float32), coarse.levels + 1
    for user in range(len(interest_WD)):
        asked_E = scored.asked_WE[user]
        np.dot(interest_WD[user], coarse.turn_DD, turned_D)
        step = whole_steps(turned_D, coarse.levels, asked_E)
        rest = square = 0.0
        for component in range(len(turned_D)):
            value = turned_D[component]
            rest += (value - (asked_E[component] - zero) * step) ** 2
            square += value**2
        length = coarse.length * coarse.step
        error = np.sqrt(rest) * length + np.sqrt(square) * (coarse.error + 1e-5 * length)
        unit = np.float64(step) * coarse.step * (1 << coarse.shift)
        scored.slack_W[user] = np.int64(2 * error / unit) + 2
