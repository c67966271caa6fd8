"""A synthetic catalogue of any size with the structure of a learned one, and interests in it.

The structure imitates the table that `recgpt train` learned from Beauty (12,101 items, width 64)
and the interests of its users; docs/notebook/scale.md compares both.

- 12,000 base items, or another number: each is the sum of a common direction, one of 60 topics, one
  of 1,500 groups (sizes follow Zipf's law) and a part of its own, all normal with a decaying
  spectrum, scaled to length 1.
- Every further item is a base item plus a normal part as long as the distance from an item to its
  nearest neighbour, scaled to length 1.
- An interest is the sum of an item (the next one), 0.4 times another item, and a normal part.

Shapes: V catalogue, D width, B queries.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

BASE, TOPICS, GROUPS = 12_000, 60, 1_500
COMMON, TOPIC, GROUP, OWN = 0.06, 0.13, 0.39, 0.42  # shares of the squared length
JITTER = 0.77
CHUNK = 500_000


def catalogue(
    file: Path, items: int, width: int, isotropic: bool = False, base_items: int = BASE
) -> Vectors:
    """Writes item vectors V D to `file` and maps them; isotropic ones have no structure."""
    rng = np.random.default_rng(0)
    base = _base(rng, width, base_items)
    vectors_VD = np.lib.format.open_memmap(file, "w+", np.float32, (items, width))
    for first in range(0, items, CHUNK):
        count = min(CHUNK, items - first)
        if isotropic:
            vectors_VD[first : first + count] = _unit(_part(rng, count, width, 1.0, 1.0))
        else:
            jitter = _part(rng, count, width, JITTER**2)
            vectors_VD[first : first + count] = _unit(
                base[rng.integers(base_items, size=count)] + jitter
            )
    vectors_VD.flush()
    # Copy on write, because torch requires writable memory.
    mapped: Vectors = np.load(file, mmap_mode="c", allow_pickle=False)
    return mapped


def interests(
    width: int, count: int, seed: int, isotropic: bool = False, base_items: int = BASE
) -> Vectors:
    """Returns queries B D for the catalogue of that width and number of base items."""
    base = _base(np.random.default_rng(0), width, base_items)
    rng = np.random.default_rng(seed)
    if isotropic:
        return _unit(_part(rng, count, width, 1.0, 1.0))
    next_BD, other_BD = (base[rng.integers(base_items, size=count)] for _ in range(2))
    return _unit(next_BD + 0.4 * other_BD + _part(rng, count, width, 0.45))


def _base(rng: np.random.Generator, width: int, items: int) -> Vectors:
    topics_G = _zipf(rng, TOPICS, GROUPS, 0.7)
    groups_V = _zipf(rng, GROUPS, items, 0.5)
    common = _unit(_part(rng, 1, width, 1.0)) * np.float32(COMMON**0.5)
    topic_VD = _part(rng, TOPICS, width, TOPIC)[topics_G][groups_V]
    group_VD = _part(rng, GROUPS, width, GROUP)[groups_V]
    return _unit(common + topic_VD + group_VD + _part(rng, items, width, OWN))


def _part(
    rng: np.random.Generator, count: int, width: int, square: float, last: float = 0.5
) -> Vectors:
    """Returns normal vectors of mean squared length `square`.

    The standard deviation falls over the components to `last` times that of the first.
    """
    spectrum = np.linspace(1.0, last, width, dtype=np.float32)
    spectrum *= np.float32((square / (spectrum**2).sum()) ** 0.5)
    return rng.standard_normal((count, width), dtype=np.float32) * spectrum


def _zipf(rng: np.random.Generator, kinds: int, count: int, power: float) -> NDArray[np.int64]:
    shares = np.arange(1, kinds + 1) ** -power
    return rng.choice(kinds, size=count, p=shares / shares.sum())


def _unit(vectors: Vectors) -> Vectors:
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors
