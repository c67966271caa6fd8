"""The items as answers show them: everything that can be encoded is encoded when loaded.

No torch here: front-end processes use it.
"""

from collections.abc import Sequence
from itertools import groupby
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic_core import to_json

from service.queries import Candidates


class Catalogue:
    """Item ids and metadata of the served bundle, row by row."""

    def __init__(self, version: str, max_interests: int, items: pl.DataFrame) -> None:
        self.version = version
        self.max_interests = max_interests
        # Ids stand here only: as objects, those of 10 million items are most of the process.
        self._heads = [b'{"item_id":%b,"score":' % to_json(item) for item in items["item_id"]]
        columns = items.drop("item_id", "count", strict=False)
        self._metadata = columns.to_dict(as_series=False)

    @classmethod
    def load(cls, bundle: Path, version: str, max_interests: int) -> "Catalogue":
        """The catalogue of a bundle whose checksums have been verified."""
        return cls(version, max_interests, pl.read_parquet(bundle / "items.parquet"))

    def metadata(self, row: int) -> dict[str, Any]:
        """Title and attributes of an item, as far as the artifact has them."""
        return {name: v for name, of in self._metadata.items() if (v := of[row]) is not None}

    def encode(self, found: Candidates, with_metadata: bool) -> bytes:
        """The candidates as a JSON array of `service.schemas.Candidate`."""
        rows = found.rows.tolist()
        heads = map(self._heads.__getitem__, rows)
        parts = list(map(add, heads, _numbers(found.scores)))  # all but the interest
        if with_metadata:
            metadata = [b',"metadata":' + _json(self.metadata(row)) for row in rows]
        else:
            metadata = []
        return b"[" + b",".join(_with_interests(parts, found.interests.tolist(), metadata)) + b"]"


def _with_interests(
    parts: Sequence[bytes], interests: Sequence[int], metadata: Sequence[bytes]
) -> list[bytes]:
    """Runs of items of the same interest, each joined by what they have in common."""
    if metadata:
        return [
            b'%b,"interest":%d%b}' % item for item in zip(parts, interests, metadata, strict=True)
        ]
    runs, begin = [], 0
    for interest, members in groupby(interests):
        end = begin + len(list(members))
        tail = b',"interest":%d}' % interest
        runs.append((tail + b",").join(parts[begin:end]) + tail)
        begin = end
    return runs


def _numbers(values: NDArray[np.floating[Any]]) -> list[bytes]:
    """Each as JSON."""
    return _json(values.tolist())[1:-1].split(b",")


def _json(content: Any) -> bytes:
    return to_json(content, inf_nan_mode="null")  # metadata may hold a NaN
