"""Titles and attributes of all items, as JSON that is ready to be sent.

The engine writes them to two files, which front ends map into memory: a front end then holds only
the pages that its answers touch, whatever the size of the catalogue, and all front ends share them.
This module is loaded by front ends, so it imports no library that reads tables or computes.

Shapes: V catalogue, N bytes.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

TEXTS_FILE, OFFSETS_FILE = "metadata.npy", "metadata_offsets.npy"


class ItemMetadata(NamedTuple):
    """A JSON object for each item, one text after another."""

    texts_N: NDArray[np.uint8]
    offsets_V: NDArray[np.int64]  # V + 1 of them: the text of a row begins and ends at its offsets

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Maps the files that `save` wrote."""
        files = TEXTS_FILE, OFFSETS_FILE
        return cls(*(np.load(folder / f, mmap_mode="r", allow_pickle=False) for f in files))

    def save(self, folder: Path) -> None:
        """Writes the files, each under another name first: the old ones may be mapped."""
        for name, array in (TEXTS_FILE, self.texts_N), (OFFSETS_FILE, self.offsets_V):
            new = folder / f"new-{name}"
            np.save(new, array)
            os.replace(new, folder / name)

    def of(self, row: int) -> bytes:
        """Returns title and attributes of an item, without those that are null."""
        return self.texts_N[self.offsets_V[row] : self.offsets_V[row + 1]].tobytes()


def candidate_lines(candidates: bytes) -> list[bytes]:
    """Returns the JSON object of each candidate: a line, since no JSON string holds a break."""
    return candidates[1:-1].split(b",\n") if len(candidates) > 2 else []


def with_metadata(
    candidates: bytes, rows: NDArray[np.integer[Any]], of: Callable[[int], bytes]
) -> bytes:
    """Returns encoded candidates, which are of these rows, with a field `metadata` each."""
    lines = candidate_lines(candidates)
    complete = [
        b'%b,"metadata":%b}' % (line[:-1], of(row))
        for line, row in zip(lines, rows.tolist(), strict=True)
    ]
    return b"[%b]" % b",\n".join(complete)
