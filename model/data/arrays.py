"""Arrays of a data set that is being written, one pass over some users after another.

Shapes: U users.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.data.dataset import offsets_of


def passes(rows_U: NDArray[np.int64], at_most: int) -> Iterator[tuple[int, int]]:
    """Yields the first user of each pass, and the one behind its last.

    A pass has at most that number of their rows, or a single user.
    """
    offsets = offsets_of(rows_U)
    first = 0
    while first < len(rows_U):
        last = int(np.searchsorted(offsets, offsets[first] + at_most, "right")) - 1
        last = max(last, first + 1)
        yield first, last
        first = last


def new_array(path: Path, dtype: type[np.generic], length: int) -> np.memmap[Any, Any]:
    """Returns a flat array in a file, to be filled. Raises OSError if the disk has no room."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(length,))
    with path.open("r+b") as file:  # a write to a page without room would kill the process
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array
