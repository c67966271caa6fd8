"""Training samples cut out of the histories, and batches of samples of similar length.

Shapes: U users, N samples, B batch, L length, Q slots with targets, S items of a
set.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.data.dataset import Dataset, IntArray
from model.evaluation.protocols import distinct
from model.network.gpt import WHOLE_HISTORY
from model.network.tokens import Feedback, OlderItems, Tokens, history_tokens
from model.training.config import Sampling


@dataclass(frozen=True)
class Samples:
    """Slices of `Dataset.events`; the event after each slice exists and is its last target."""

    starts_N: IntArray
    lengths_N: IntArray
    users_N: IntArray

    def __len__(self) -> int:
        return len(self.starts_N)


@dataclass(frozen=True)
class SampleBatch:
    """Samples of one step: histories padded on the right, and the item that follows each slot."""

    history_BL: Tensor
    lengths_B: Tensor
    users_B: Tensor
    next_BL: Tensor
    """-1: padding."""
    sets_BQS: Tensor | None = None
    """Set targets, each item once, -1: none; of every slot, or of the last slots only (Q = 1)."""
    feedback: Feedback | None = None
    older: OlderItems | None = None
    """Items of the histories before the samples; None if the network does not need them."""
    real_BM: Tensor | None = None
    """Real offers behind the samples, the newest first, -1: none; None if no offers are needed."""

    def to(self, device: torch.device) -> Self:
        """Returns the same samples on `device`."""
        parts = {name: part for name, part in vars(self).items() if part is not None}
        return replace(self, **{name: part.to(device) for name, part in parts.items()})


@dataclass(frozen=True)
class TrainingBatch:
    """The input of one optimiser step. Slots without a target carry no loss."""

    tokens: Tokens
    users_B: Tensor
    at_BQ: Tensor | None
    """The slots that the targets belong to; None: all of them."""
    targets_BQS: Tensor
    """The items to predict, each as likely as the others of its slot; -1: none."""

    @property
    def wanted_BQ(self) -> Tensor:
        """Which of the slots have a target."""
        return (self.targets_BQS >= 0).any(dim=2)


def prefixes(dataset: Dataset, max_history: int) -> Samples:
    """Returns every prefix of every history, cut to its newest `max_history` items."""
    counts_U = np.maximum(np.diff(dataset.offsets) - 1, 0)
    users_N = np.repeat(np.arange(dataset.users), counts_U)
    first_N = np.repeat(np.cumsum(counts_U) - counts_U, counts_U)
    ends_N = np.arange(len(users_N)) - first_N + 1
    lengths_N = np.minimum(ends_N, max_history)
    starts_N = np.asarray(dataset.offsets)[users_N] + ends_N - lengths_N
    return Samples(starts_N, lengths_N, users_N)


def windows(dataset: Dataset, max_history: int, rng: np.random.Generator) -> Samples:
    """Cuts every history into windows at a random phase: each item is a target once."""
    inputs_U = np.maximum(np.diff(dataset.offsets) - 1, 0)
    phase_U = np.where(inputs_U > max_history, rng.integers(0, max_history, len(inputs_U)), 0)
    counts_U = -(-(inputs_U + phase_U) // max_history)
    users_N = np.repeat(np.arange(dataset.users), counts_U)
    nth_N = np.arange(len(users_N)) - np.repeat(np.cumsum(counts_U) - counts_U, counts_U)
    cuts_N = nth_N * max_history - phase_U[users_N]
    first_N = np.maximum(cuts_N, 0)
    lengths_N = np.minimum(cuts_N + max_history, inputs_U[users_N]) - first_N
    return Samples(np.asarray(dataset.offsets)[users_N] + first_N, lengths_N, users_N)


def draw(
    dataset: Dataset, sampling: Sampling, max_history: int, rng: np.random.Generator
) -> Samples:
    """Returns the samples of one epoch."""
    if sampling == "prefixes":
        return prefixes(dataset, max_history)
    return windows(dataset, max_history, rng)


def by_length(samples: Samples, batch: int, rng: np.random.Generator) -> list[IntArray]:
    """Returns the numbers of the samples in batches of similar length, in random order.

    Samples are sorted within random groups of 64 batches, so that batches differ between epochs.
    """
    order_N = rng.permutation(len(samples))
    group_N = np.arange(len(samples)) // (64 * batch)
    order_N = order_N[np.lexsort((samples.lengths_N[order_N], group_N))]
    cut = [order_N[i : i + batch] for i in range(0, len(order_N), batch)]
    return [cut[i] for i in rng.permutation(len(cut))]


@dataclass(frozen=True)
class SetTargets:
    """Targets that are the set of events behind a slot, not the next event alone."""

    ends_N: NDArray[np.int64]
    """The end of the set that begins with each event of the data set."""
    last_only: bool
    """Whether only the last slot of a sample has targets."""
    one_action: bool = False
    """Whether a set holds the events of its first one's action only."""


def read_samples(
    dataset: Dataset,
    samples: Samples,
    batches: list[IntArray],
    sets: SetTargets | None = None,
    whole: bool = False,
    real_offers: bool = False,
) -> Iterator[SampleBatch]:
    """Yields the events of each batch; L is the length of its longest slice.

    With `whole` it has the older items of the same histories, too; with `real_offers`, those that
    the data set has.
    """
    for chosen_B in batches:
        lengths_B = samples.lengths_N[chosen_B]
        slots_L = np.arange(lengths_B.max())
        real_BL = slots_L < lengths_B[:, None]
        flat_BL = np.where(real_BL, samples.starts_N[chosen_B][:, None] + slots_L, 0)
        history_BL = dataset.events[flat_BL] * real_BL
        next_BL = np.where(real_BL, dataset.events[flat_BL + real_BL], -1)
        found = None
        if sets is not None:
            at_BQ = np.where(real_BL, flat_BL + 1, -1)
            if sets.last_only:
                at_BQ = at_BQ[np.arange(len(at_BQ)), lengths_B - 1][:, None]
            found = torch.from_numpy(set_targets(dataset, sets, at_BQ))
        feedback = None
        if dataset.actions is not None:
            at = (flat_BL, flat_BL + real_BL)  # of an item, and of the one that follows it
            parts = (np.where(real_BL, dataset.actions[at_BL], -1) for at_BL in at)
            feedback = Feedback(*(torch.from_numpy(part.astype(np.int64)) for part in parts))
        real_BM = None
        if real_offers and dataset.offers is not None:
            next_B = samples.starts_N[chosen_B] + lengths_B
            real_BM = torch.from_numpy(dataset.offers.before(next_B))
        yield SampleBatch(
            torch.from_numpy(history_BL.astype(np.int64)),
            torch.from_numpy(lengths_B.astype(np.int64)),
            torch.from_numpy(samples.users_N[chosen_B].astype(np.int64)),
            torch.from_numpy(next_BL.astype(np.int64)),
            found,
            feedback,
            _older(dataset, samples, chosen_B) if whole else None,
            real_BM,
        )


def _older(dataset: Dataset, samples: Samples, chosen_B: IntArray) -> OlderItems:
    """Returns the items before each sample, so that both are at most `WHOLE_HISTORY` together."""
    ends_B = samples.starts_N[chosen_B]
    first_B = ends_B + samples.lengths_N[chosen_B] - WHOLE_HISTORY
    first_B = np.maximum(first_B, np.asarray(dataset.offsets)[samples.users_N[chosen_B]])
    rows = [dataset.events[first:end] for first, end in zip(first_B, ends_B, strict=True)]
    history_N = np.repeat(np.arange(len(chosen_B)), np.maximum(ends_B - first_B, 0))
    rows_N = np.concatenate(rows).astype(np.int64)
    return OlderItems(torch.from_numpy(rows_N), torch.from_numpy(history_N))


def set_targets(dataset: Dataset, sets: SetTargets, at_BQ: IntArray) -> NDArray[np.int64]:
    """Returns the distinct items of the sets that begin with the events `at_BQ`, B Q S; -1: none.

    An event of -1 has no set.
    """
    sizes_BQ = np.where(at_BQ >= 0, sets.ends_N[at_BQ] - at_BQ, 0)
    slots_S = np.arange(sizes_BQ.max(initial=1))
    real_BQS = slots_S < sizes_BQ[..., None]
    events_BQS = np.where(real_BQS, at_BQ[..., None] + slots_S, 0)
    if sets.one_action and dataset.actions is not None:
        actions_BQS = dataset.actions[events_BQS]
        real_BQS &= actions_BQS == actions_BQS[..., :1]
    rows_BQS = np.where(real_BQS, dataset.events[events_BQS], -1).astype(np.int64)
    return distinct(rows_BQS.reshape(-1, len(slots_S))).reshape(rows_BQS.shape)


def plain(samples: SampleBatch, max_history: int, last_only: bool) -> TrainingBatch:
    """Returns the input of prediction without prompts, at the last slot or at every slot.

    The targets are the sets of the samples, or the next items if there are none.
    """
    tokens = history_tokens(
        samples.history_BL, samples.lengths_B, max_history, samples.feedback, samples.older
    )
    if last_only:
        at_B1 = samples.lengths_B[:, None] - 1
        return TrainingBatch(tokens, samples.users_B, at_B1, last_targets(samples)[:, None])
    targets_BQS = samples.next_BL[..., None] if samples.sets_BQS is None else samples.sets_BQS
    return TrainingBatch(tokens, samples.users_B, None, targets_BQS)


def last_targets(samples: SampleBatch) -> Tensor:
    """Returns the targets at the last slot of each sample, -1: none: B S.

    The samples have sets of the last slots only, or no sets.
    """
    if samples.sets_BQS is not None:
        return samples.sets_BQS[:, 0]
    return samples.next_BL.gather(1, samples.lengths_B[:, None] - 1)
