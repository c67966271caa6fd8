"""A table of external ids and their rows, memory-mapped, for more ids than a dictionary can hold.

FOLDER/<kind>_hashes.npy    64-bit hashes of the ids, ascending
FOLDER/<kind>_rows.npy      the row of each
FOLDER/<kind>_ends.npy      the end of each id in the bytes of the next file
FOLDER/<kind>_ids.npy       the ids in UTF-8, one after another in the same order

A look-up finds the hash by binary search, and then compares the id itself, so that ids of equal
hash are never confused. It reads a few pages of each file.
"""

from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PARTS = ("hashes", "rows", "ends", "ids")


def write_ids(folder: Path, kind: str, ids: Iterable[str]) -> None:
    """Writes the table of ids, which stand in the order of their rows."""
    encoded = [one.encode() for one in ids]
    hashes = np.fromiter((_hash(one) for one in encoded), np.uint64, len(encoded))
    rows = np.argsort(hashes, kind="stable")
    ordered = [encoded[row] for row in rows.tolist()]
    parts: dict[str, NDArray[Any]] = {
        "hashes": hashes[rows],
        "rows": rows.astype(np.int64),
        "ends": np.cumsum([len(one) for one in ordered], dtype=np.int64),
        "ids": np.frombuffer(b"".join(ordered), np.uint8),
    }
    for name in PARTS:
        np.save(folder / f"{kind}_{name}.npy", parts[name])


def has_ids(folder: Path, kind: str) -> bool:
    """Returns whether the folder has a table of ids."""
    return all((folder / f"{kind}_{name}.npy").exists() for name in PARTS)


class IdTable:
    """The memory-mapped table that `write_ids` wrote."""

    def __init__(self, folder: Path, kind: str) -> None:
        """Opens the table. Raises OSError or ValueError if a file is missing or fits no other."""
        parts = [_mapped(folder / f"{kind}_{name}.npy") for name in PARTS]
        self._hashes, self._rows, self._ends, self._ids = parts
        sizes = {len(self._hashes), len(self._rows), len(self._ends)}
        if len(sizes) > 1 or (len(self._ends) and int(self._ends[-1]) != len(self._ids)):
            raise ValueError(f"{folder}: the tables of {kind} ids do not fit each other")

    def __len__(self) -> int:
        return len(self._hashes)

    def get(self, wanted: str, default: int = -1) -> int:
        """Returns the row of an id, or `default` if it has none."""
        try:
            encoded = wanted.encode()
        except UnicodeEncodeError:  # a lone surrogate, which JSON allows: it is in no id
            return default
        hashed = np.uint64(_hash(encoded))
        at = int(self._hashes.searchsorted(hashed))
        while at < len(self._hashes) and self._hashes[at] == hashed:
            start = int(self._ends[at - 1]) if at else 0
            if self._ids[start : int(self._ends[at])].tobytes() == encoded:
                return int(self._rows[at])
            at += 1
        return default

    def sample(self, count: int) -> list[tuple[str, int]]:
        """Returns up to `count` ids and their rows, always the same ones, as if drawn at random."""
        places = np.linspace(0, len(self), min(count, len(self)), endpoint=False, dtype=np.int64)
        starts = [0 if at == 0 else int(self._ends[at - 1]) for at in places.tolist()]
        return [
            (self._ids[start : int(self._ends[at])].tobytes().decode(), int(self._rows[at]))
            for at, start in zip(places.tolist(), starts, strict=True)
        ]


def _hash(encoded: bytes) -> int:
    return int.from_bytes(blake2b(encoded, digest_size=8).digest(), "little")


def _mapped(file: Path) -> NDArray[Any]:
    """Returns a plain view of the mapped file: numpy's own class of maps is slower to index."""
    return np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
