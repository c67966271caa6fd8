"""Offers for training by networks that have not seen the user: cross-fitting by two halves.

A network remembers its training histories. Its own offer after a training prefix is often the very
item that the user took next, which it hardly ever is in serving, and tuning would learn to trust
offers. So two networks are pre-trained on one half of the users each, and each makes the offers for
the other half.

Shapes: U users, B batch, M offers.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from model.data.dataset import Dataset
from model.network.gpt import GPT
from model.training.batches import SampleBatch
from model.training.prompts import generate

HALVES = 2


@dataclass(frozen=True)
class CrossFitted:
    """Makes the offers for each user by the network that was trained without them."""

    networks: tuple[GPT, ...]
    """Network h was trained on the users of half h."""
    half_U: Tensor

    def __call__(self, model: GPT, samples: SampleBatch, offers: int) -> Tensor:
        """Returns the offers after each history, real ones first: rows B M; `model` makes none."""
        offers_BM = samples.users_B.new_zeros(len(samples.users_B), offers)
        half_B = self.half_U[samples.users_B]
        for half, network in enumerate(self.networks):
            (others_b,) = (half_B != half).nonzero(as_tuple=True)
            if len(others_b):
                lengths_b = samples.lengths_B[others_b]
                history_bL = samples.history_BL[others_b, : int(lengths_b.max())]
                users_b = samples.users_B[others_b]
                real_bM = None if samples.real_BM is None else samples.real_BM[others_b]
                offers_BM[others_b] = generate(
                    network, history_bL, lengths_b, users_b, offers, real_bM
                )
        return offers_BM


def halves(users: int, seed: int) -> NDArray[np.int64]:
    """Returns the half, 0 or 1, that each user belongs to: U."""
    return np.random.default_rng([seed, users]).permutation(users) % HALVES


def of_half(dataset: Dataset, half_U: NDArray[np.int64], half: int) -> Dataset:
    """Returns the data set with all users, of whom only those of one half have events."""
    return dataset.first_events(np.where(half_U == half, np.diff(dataset.offsets), 0))
