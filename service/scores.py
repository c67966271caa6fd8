"""Scores of a whole small catalogue: exact ones, and 16-bit ones with a bound of their error.

Shapes: B batch, V catalogue, P the same padded to whole groups, D width, N items.
"""

import time
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from service.merge import Ints

Scores = NDArray[Any]
"""32-bit floats, or 16-bit integers in the order of the scores: each is read by who made it."""

GROUP = 8  # items that selection looks at together
ROUNDING = 2.0**-8  # of a number to bfloat16, relative
TRIED_ROWS, TRIED_QUERIES = 8192, 64  # what the products are timed on
WORTH = 0.7  # of the time of an exact product, from which on a coarse one saves nothing


class Exact:
    """Products of 32-bit floats. The room for them is used again: fresh memory costs more."""

    def __init__(self, vectors_VD: Tensor) -> None:
        self.items = len(vectors_VD)
        self._vectors_PD = _padded(vectors_VD)
        self.padded, self.dim = self._vectors_PD.shape
        self.low = np.float32(-np.inf)
        self._room = vectors_VD.new_empty(0)
        self._scores_BP = np.zeros((0, 0), dtype=np.float32)

    def of(self, interest_BD: Tensor) -> NDArray[np.float32]:
        """All scores, B P, until the next call; padding is `low`."""
        self._room = _enough(self._room, len(interest_BD) * self.padded)
        room_BP = self._room[: len(interest_BD) * self.padded].view(-1, self.padded)
        self._scores_BP = torch.mm(interest_BD, self._vectors_PD.T, out=room_BP).numpy()
        self._scores_BP[:, self.items :] = self.low
        return self._scores_BP

    def reach(self, floor_B: Scores) -> Scores:
        """What a score must be at least here to be at least the floor in truth."""
        limit_B: Scores = np.maximum(floor_B, np.finfo(np.float32).min)
        return limit_B

    def exact(self, places_N: Ints) -> NDArray[np.float32]:
        """The true scores at places of the last product."""
        return self._scores_BP.ravel()[places_N]


class Coarse:
    """Products of bfloat16, as the 16-bit integers that they are; those order the positive ones.

    Padding scores 0. Only positive floors have a `reach`.
    """

    def __init__(self, vectors_VD: Tensor) -> None:
        self._vectors_PD = _padded(vectors_VD)
        coarse_PD = self._vectors_PD.bfloat16()
        self._coarse_DP = coarse_PD.T.contiguous()  # the product reads it as it is
        self.padded, self.dim = self._vectors_PD.shape
        self.low = np.int16(-(2**15))
        error_PD = self._vectors_PD - coarse_PD
        self._error = float(error_PD.norm(dim=1).max())
        self._length = float(coarse_PD.float().norm(dim=1).max())
        self._room = coarse_PD.new_empty(0)
        self._interest_BD = vectors_VD[:1]
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # sparse tensors are "in beta state": torch says it once
            self.exact(np.zeros(1, dtype=np.int64))
        self._errors_B = np.zeros(0, dtype=np.float32)

    def of(self, interest_BD: Tensor) -> NDArray[np.int16]:
        """All scores, B P, until the next call."""
        coarse_BD = interest_BD.bfloat16()
        self._interest_BD = interest_BD
        # |q·v - q'·v'| ≤ |q - q'| |v'| + |q| |v - v'|, and a little for the sums themselves.
        lengths_B = interest_BD.norm(dim=1)
        errors_B = (interest_BD - coarse_BD).norm(dim=1) * self._length
        errors_B += lengths_B * (self._error + 1e-5 * self._length)
        self._errors_B = errors_B.numpy()
        self._room = _enough(self._room, len(interest_BD) * self.padded)
        room_BP = self._room[: len(interest_BD) * self.padded].view(-1, self.padded)
        scores_BP: NDArray[np.int16] = (
            torch.mm(coarse_BD, self._coarse_DP, out=room_BP).view(torch.int16).numpy()
        )
        return scores_BP

    def reach(self, floor_B: Scores) -> Scores | None:
        """What a score must be at least here to be at least the floor in truth.

        The floor is a score here that as many items reach as are wanted. None where it is no
        positive number for somebody.
        """
        floors_B = (floor_B.astype(np.int32) << 16).view(np.float32)
        limit_B = (floors_B * (1 - ROUNDING) - 2 * self._errors_B) * (1 - ROUNDING)
        if not (limit_B > 0).all():
            return None
        bits_B: Scores = limit_B.astype(np.float32).view(np.int32) >> 16
        return bits_B.astype(np.int16)

    def exact(self, places_N: Ints) -> NDArray[np.float32]:
        """The true scores at places of the last product, user after user."""
        if not len(places_N):  # often so, and no product is quick
            return np.zeros(0, dtype=np.float32)
        users_N, rows_N = np.divmod(places_N, self.padded)
        users = len(self._interest_BD)
        ends_B = np.searchsorted(users_N, np.arange(users + 1))
        wanted = torch.sparse_csr_tensor(
            torch.from_numpy(ends_B),
            torch.from_numpy(rows_N),
            torch.zeros(len(rows_N)),
            (users, self.padded),
            check_invariants=False,
        )
        scores = torch.sparse.sampled_addmm(wanted, self._interest_BD, self._vectors_PD.T, beta=0)
        scores_N: NDArray[np.float32] = scores.values().numpy()
        return scores_N


def scores_of(vectors_VD: Tensor) -> list[Coarse | Exact]:
    """What to search with on this machine: coarse scores first where they are much faster."""
    tried_VD = vectors_VD[:TRIED_ROWS]
    exact = Exact(vectors_VD)
    try:
        coarse_seconds = _seconds(Coarse(tried_VD))
    except RuntimeError:  # this build of torch lacks one of the operations
        return [exact]
    if coarse_seconds > WORTH * _seconds(Exact(tried_VD)):
        return [exact]
    return [Coarse(vectors_VD), exact]


def _seconds(scores: Coarse | Exact) -> float:
    """How long a product takes, at best."""
    interest_BD = torch.ones(TRIED_QUERIES, scores.dim)
    best = np.inf
    for _ in range(5):
        started = time.perf_counter()
        scores.of(interest_BD)
        best = min(best, time.perf_counter() - started)
    scores.exact(np.arange(4))
    return best


def _padded(vectors_VD: Tensor) -> Tensor:
    return F.pad(vectors_VD, (0, 0, 0, -len(vectors_VD) % GROUP)).contiguous()


def _enough(room: Tensor, size: int) -> Tensor:
    return room if len(room) >= size else room.new_empty(size)
