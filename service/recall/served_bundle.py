"""The served bundle as front ends know it.

Front-end processes load this module, so it imports no library that reads tables or computes.
"""

from pathlib import Path
from typing import NamedTuple, Self

from service.recall.item_metadata import ItemMetadata


class ServedBundle(NamedTuple):
    """The bundle whose items are recalled."""

    version: str
    max_interests: int
    """Interests that its network can generate for a user."""
    metadata: ItemMetadata

    @classmethod
    def load(cls, metadata: Path, version: str, max_interests: int) -> Self:
        """Takes the folder into which the engine wrote the metadata of the bundle's items."""
        return cls(version, max_interests, ItemMetadata.load(metadata))
