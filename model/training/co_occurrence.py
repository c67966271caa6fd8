"""Item vectors to start from: items that occur near each other in histories point the same way.

A network that starts at random spends its first epochs on what counting pairs tells at once. The
vectors are those of a truncated singular value decomposition of the logarithms of how much more
often than expected two items are a pair, which is what word2vec factorises implicitly (Levy and
Goldberg, 2014).

Shapes: V catalogue, D width, N events of a block, P pairs of items, R rank.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from torch import Tensor, nn

from model.data.dataset import Dataset
from model.training import distributed

WINDOW = 3
"""Largest distance of two items of a history that are a pair; a pair counts 1 / distance."""
BLOCK_EVENTS, MAX_BLOCKS = 1 << 20, 20
"""Pairs are counted in blocks of events, of which at most `MAX_BLOCKS` are read."""
POWER = 0.75
"""Power of an item's count in its expected share. As in word2vec, below 1, or a single pair of rare
items would weigh most."""
NOISE = 1.0
"""Length of the random part of a vector beside the counted part: it keeps near items apart."""
OVERSAMPLING, ITERATIONS = 16, 4
"""Accuracy of the randomised decomposition."""


@torch.no_grad()
def start_from_pairs(items: nn.Embedding, dataset: Dataset, groups: int = 1) -> None:
    """Turns the random vectors of items that occur in pairs towards those of their neighbours.

    Vectors keep the mean length of the random ones. Of several groups, every second one stays
    random: groups that start differently err differently.
    """
    if distributed.is_first():
        width = items.embedding_dim // groups
        counted_Vd = pair_vectors(dataset, width).to(items.weight.device)
        for random_Vd in items.weight.chunk(groups, dim=1)[::2]:
            length = random_Vd.norm(dim=1).mean()
            mixed_Vd = counted_Vd + NOISE * random_Vd / length
            random_Vd.copy_(nn.functional.normalize(mixed_Vd) * length)
    distributed.share(items.weight)


def pair_vectors(dataset: Dataset, width: int) -> Tensor:
    """Returns a vector of length 1 for each item, of length 0 if it is in no pair: V D."""
    weights_VV = pair_weights(dataset)
    rank = min(width, dataset.catalogue)
    vectors_VD = torch.zeros(dataset.catalogue, width)
    if weights_VV.nnz:
        rows_2P = torch.from_numpy(np.stack(weights_VV.coords).astype(np.int64))
        sparse_VV = torch.sparse_coo_tensor(
            rows_2P, torch.from_numpy(weights_VV.data), weights_VV.shape, check_invariants=True
        )
        sketch = min(rank + OVERSAMPLING, dataset.catalogue)
        left_VR, scales_R, _ = torch.svd_lowrank(sparse_VV.coalesce(), sketch, ITERATIONS)
        vectors_VD[:, :rank] = (left_VR * scales_R.sqrt())[:, :rank]
    return nn.functional.normalize(vectors_VD)


def pair_weights(dataset: Dataset) -> coo_array:
    """Returns the logarithm of each pair's share over the expected one, where above 0: V V.

    That is the positive pointwise mutual information, with smoothed shares of the items.
    """
    counts_VV = pair_counts(dataset)
    if not counts_VV.nnz:
        return counts_VV.tocoo()
    smooth_V = counts_VV.sum(axis=1) ** POWER
    expected_V = smooth_V / smooth_V.sum()
    pairs_VV = counts_VV.tocoo()
    left_P, right_P = pairs_VV.coords
    share_P = pairs_VV.data / pairs_VV.data.sum()
    weights_P = np.log(share_P / (expected_V[left_P] * expected_V[right_P]))
    often_P = weights_P > 0
    coords = left_P[often_P], right_P[often_P]
    return coo_array((weights_P[often_P].astype(np.float32), coords), shape=pairs_VV.shape)


def pair_counts(dataset: Dataset) -> csr_array:
    """Returns how often two items occur near each other, in either order: V V."""
    counts_VV = csr_array((dataset.catalogue, dataset.catalogue), dtype=np.float64)
    for first, end in _blocks(len(dataset.events)):
        items_N = np.asarray(dataset.events[first:end])
        users_N = np.searchsorted(dataset.offsets, np.arange(first, end), side="right")
        for distance in range(1, min(WINDOW, len(items_N) - 1) + 1):
            near = users_N[distance:] == users_N[:-distance]
            pairs = items_N[:-distance][near], items_N[distance:][near]
            weights_P = np.full(len(pairs[0]), 1 / distance)
            counts_VV = counts_VV + csr_array((weights_P, pairs), shape=counts_VV.shape)
    return counts_VV + counts_VV.T


def _blocks(events: int) -> list[tuple[int, int]]:
    """Returns the ranges of events that are read, at equal distances."""
    starts_N: NDArray[np.int64] = np.arange(0, events, BLOCK_EVENTS)
    if len(starts_N) > MAX_BLOCKS:
        starts_N = starts_N[np.linspace(0, len(starts_N) - 1, MAX_BLOCKS).astype(np.int64)]
    return [(start, min(start + BLOCK_EVENTS, events)) for start in starts_N.tolist()]
