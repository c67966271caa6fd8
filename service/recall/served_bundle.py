"""The served bundle as front ends know it.

Front-end processes load this module, so it imports no library that reads tables or computes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from model.artifact.id_table import IdTable
from model.artifact.item_map import read_map
from model.kinds import Kind
from service.recall.item_metadata import ItemMetadata
from service.recall.live_items import LiveItems


class ServedBundle(NamedTuple):
    """The bundle whose items are recalled."""

    version: str
    max_interests: int
    """Interests that its network can generate for a user."""
    items: LiveItems
    attributes: Mapping[str, Kind]
    """The attributes of items that a filter can read."""
    actions: frozenset[bytes] = frozenset()
    """The types of events that the network reads as feedback."""
    outcomes: Sequence[str] = ()
    """Those of them that a recall can ask for."""
    item_map: NDArray[np.float32] | None = None
    """Two coordinates of each item, V 2; None if the bundle has none."""
    interests: int = 1
    """Interests of a recall that names no number."""

    @classmethod
    def load(
        cls,
        metadata: Path,
        ids: Path,
        version: str,
        max_interests: int,
        kinds: Mapping[str, Kind],
        actions: Sequence[str] = (),
        outcomes: Sequence[str] = (),
        folder: Path | None = None,
        interests: int = 1,
    ) -> Self:
        """Takes the folders with the metadata and the ids of the bundle's items, and its own."""
        items = LiveItems(IdTable(ids, "item"), kinds, ItemMetadata.load(metadata))
        attributes = {name: kind for name, kind in kinds.items() if kind != "text"}
        types = frozenset(name.encode() for name in actions)
        item_map = read_map(folder) if folder else None
        return cls(version, max_interests, items, attributes, types, outcomes, item_map, interests)
