"""Trials: single searches of the index, by which the explorer measures its quality.

The engine makes them for interests that the export kept, when no recall waits. Each one is short,
whatever the size of the catalogue, since a recall that arrives meanwhile waits for it.

Front-end processes load this module, so it imports no library that computes.
Shapes: F hits.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PART_ITEMS = 1 << 18
"""Items of one part of the exact search."""
MAX_SCANNED = 1_000_000
"""Items, about, in the lists that one trial searches."""


class Trial(NamedTuple):
    """A search for the best hits of one interest of the sample."""

    interest: int
    hits: int
    lists: int | None  # to search; 0: as a recall does; None: exactly, in floats
    begin: int = 0  # first row of the part that is searched exactly


class TrialResult(NamedTuple):
    """The hits of a trial, best first, and what the engine knows of its index."""

    scores: bytes  # float32
    rows: bytes  # int32
    seconds: float
    kind: str  # exact, ivf, or gpu, where no trial is made
    items: int  # of the catalogue
    lists: int  # of the index, 0 without lists
    served_lists: int  # that a recall of this many hits searches
    sample: int  # interests that the export kept


def trial_depths(result: TrialResult) -> list[int]:
    """Returns the numbers of lists that are worth a trial, ascending; [0] for an exact index."""
    if not result.lists:
        return [0]
    largest = min(result.lists, max(1, MAX_SCANNED * result.lists // result.items))
    powers = {1 << power for power in range(largest.bit_length())}
    return sorted({*powers, largest, result.served_lists})


def best_of(parts: list[TrialResult], hits: int) -> NDArray[np.int32]:
    """Returns the rows of the best hits of all parts of an exact search: F."""
    scores_N = np.concatenate([np.frombuffer(part.scores, np.float32) for part in parts])
    rows_N = np.concatenate([np.frombuffer(part.rows, np.int32) for part in parts])
    found: NDArray[np.int32] = rows_N[np.argsort(-scores_N, kind="stable")[:hits]]
    return found


def share_found(result: TrialResult, exact_F: NDArray[np.int32]) -> float:
    """Returns the share of the exact hits that a trial found."""
    rows_F = np.frombuffer(result.rows, np.int32)
    return len(np.intersect1d(rows_F, exact_F)) / max(1, len(exact_F))
