"""The rules of a query for a list whose items are not all alike.

A list is chosen greedily. Each interest goes through the items from the best score down and takes
those that the rules admit, until it has its quota:

caps       at most `per_value` items of a list have the same value of a field. An item without a
           value is never held back by a cap; an item with several values counts for each of them.
fresh      a share of the list goes to items that a filter allows. If no such item is left, their
           places go to others.
diversity  from 0 to 1: the weight of being unlike what the list has already, against the score.

Front ends import this module, so it is light.
"""

from typing import NamedTuple

import msgpack


class Cap(NamedTuple):
    """The most items of a list that have the same value of a field."""

    field: str
    per_value: int


class Variety(NamedTuple):
    """The rules of a query."""

    caps: tuple[Cap, ...] = ()
    diversity: float = 0.0
    fresh: bytes | None = None  # the canonical form of a filter: see `service.recall.filters.form`
    fresh_share: float = 0.0


def packed(variety: Variety) -> bytes:
    """Returns the rules as bytes, in which a query carries them."""
    content: bytes = msgpack.packb(variety)
    return content


def unpacked(content: bytes) -> Variety:
    """Returns the rules of a query."""
    caps, *others = msgpack.unpackb(content)
    return Variety(tuple(Cap(*cap) for cap in caps), *others)
