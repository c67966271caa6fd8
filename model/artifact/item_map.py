"""The catalogue as a map: two coordinates for each item, so that similar items lie near each other.

They are the first two principal components of the items' directions (PCA), the same ones every
time. Two dimensions keep a small part of what the network knows: near on the map is often similar,
far apart is dissimilar, but only the vectors themselves tell (`related` in an explained recall).

Shapes: V catalogue, D width, N items of a chunk.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MAP_FILE = "item_map.npy"
"""The coordinates of all items in a bundle, V 2 float32 from -1 to 1; bundles of before lack it."""
CHUNK = 100_000
"""Items that are read at a time: the table may be larger than memory."""

Vectors = NDArray[np.float32]


def write_map(folder: Path, vectors_VD: Vectors) -> None:
    """Writes the map of a bundle with these item vectors."""
    np.save(folder / MAP_FILE, item_map(vectors_VD))


def read_map(folder: Path) -> Vectors | None:
    """Returns the map of a bundle, memory-mapped: V 2; None if it has none."""
    file = folder / MAP_FILE
    if not file.exists():
        return None
    found: Vectors = np.load(file, mmap_mode="r", allow_pickle=False)
    return found


def item_map(vectors_VD: Vectors) -> Vectors:
    """Returns the coordinates of the items: V 2, from -1 to 1."""
    items, width = vectors_VD.shape
    mean_D, moments_DD = np.zeros(width), np.zeros((width, width))
    for directions_ND in _directions(vectors_VD):
        mean_D += directions_ND.sum(axis=0) / items
        moments_DD += directions_ND.T @ directions_ND / items
    axes_D2 = _main_axes(moments_DD - np.outer(mean_D, mean_D))
    places_V2 = np.zeros((items, 2))
    for chunk, directions_ND in enumerate(_directions(vectors_VD)):
        places_N2 = places_V2[chunk * CHUNK : (chunk + 1) * CHUNK, : axes_D2.shape[1]]
        places_N2[:] = (directions_ND - mean_D) @ axes_D2
    largest = np.abs(places_V2).max(initial=0.0) or 1.0
    found: Vectors = (places_V2 / largest).astype(np.float32)
    return found


def _directions(vectors_VD: Vectors) -> Iterator[NDArray[np.float64]]:
    """Yields chunks of the vectors at length 1."""
    for first in range(0, len(vectors_VD), CHUNK):
        part_ND = vectors_VD[first : first + CHUNK].astype(np.float64)
        yield part_ND / np.maximum(np.linalg.norm(part_ND, axis=1, keepdims=True), 1e-12)


def _main_axes(covariance_DD: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the two directions of largest variance, D 2; the only one of a width of 1.

    Their signs are free, so the largest component of each is made positive.
    """
    axes_D2 = np.linalg.eigh(covariance_DD).eigenvectors[:, :-3:-1]
    largest_2 = axes_D2[np.abs(axes_D2).argmax(axis=0), range(axes_D2.shape[1])]
    return np.asarray(axes_D2 * np.sign(largest_2))
