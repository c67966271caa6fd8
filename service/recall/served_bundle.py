"""The served bundle as front ends know it.

Front-end processes load this module, so it imports no library that reads tables or computes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

from service.recall.filters.form import NO_ATTRIBUTES, Kind
from service.recall.item_metadata import ItemMetadata


class ServedBundle(NamedTuple):
    """The bundle whose items are recalled."""

    version: str
    max_interests: int
    """Interests that its network can generate for a user."""
    metadata: ItemMetadata
    attributes: Mapping[str, Kind] = NO_ATTRIBUTES
    """The attributes of items that a filter can read."""

    @classmethod
    def load(
        cls, metadata: Path, version: str, max_interests: int, attributes: Mapping[str, Kind]
    ) -> Self:
        """Takes the folder into which the engine wrote the metadata of the bundle's items."""
        return cls(version, max_interests, ItemMetadata.load(metadata), attributes)
