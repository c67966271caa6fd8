"""What front ends know of the served bundle: its version, and its items' titles and attributes.

No torch here: front-end processes use it.
"""

from pathlib import Path
from typing import Any

import polars as pl
from pydantic_core import to_json

from service.recall.types import EncodedCandidates


class Catalogue:
    """Metadata of the items, row by row."""

    def __init__(self, version: str, max_interests: int, metadata: pl.DataFrame) -> None:
        self.version = version
        self.max_interests = max_interests
        self._metadata = metadata.to_dict(as_series=False)

    @classmethod
    def load(cls, bundle: Path, version: str, max_interests: int) -> "Catalogue":
        """The catalogue of a bundle whose checksums have been verified."""
        items = pl.scan_parquet(bundle / "items.parquet")
        metadata = items.drop("item_id", "count", strict=False).collect()
        return cls(version, max_interests, metadata)

    def metadata(self, row: int) -> dict[str, Any]:
        """Title and attributes of an item, as far as the artifact has them."""
        return {name: v for name, of in self._metadata.items() if (v := of[row]) is not None}

    def with_metadata(self, found: EncodedCandidates) -> bytes:
        """The candidates in JSON, with metadata. No line breaks are within a JSON string."""
        lines = found.json[1:-1].split(b",\n") if len(found.rows) else []
        complete = [
            b'%b,"metadata":%b}' % (line[:-1], to_json(self.metadata(row), inf_nan_mode="null"))
            for line, row in zip(lines, found.rows.tolist(), strict=True)
        ]
        return b"[%b]" % b",\n".join(complete)
