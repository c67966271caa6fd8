"""What is asked of a recaller and what it answers. No torch here: front-end processes use it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgpack
import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.float32]

DegradedReason = Literal["no_history", "unknown_items", "store_unavailable"]
"""The reasons for which a recall gives popular items only."""

StageSeconds = dict[str, float]
"""Seconds a batch spent in "model", "search", "merge", and "encode" where it was encoded."""


Ids = Sequence[str] | bytes
"""Ids of items, or the msgpack array of them, as it comes over the local socket."""


@dataclass(frozen=True, slots=True)
class Query:
    """What one user asks for; ids are the caller's own."""

    user_id: str
    history: Ids  # oldest first
    exclude: Ids = ()
    k: int = 100
    interests: int | None = None  # None: as the artifact says


@dataclass(frozen=True, slots=True)
class Computed:
    """What a worker made of what it was asked."""

    found: Sequence["Encoded"]
    seconds: StageSeconds  # of the batch that it was part of
    batch: int  # recalls in that batch; 0 where another part of it told them already
    waited: float = 0.0  # seconds at the worker before that batch began


@dataclass(frozen=True, slots=True)
class Candidates:
    """The answer to one query, best first."""

    rows: Ints  # of the catalogue
    scores: NDArray[np.float32]
    interests: Ints  # which interest recalled it; -1: popular back-fill
    unknown: int  # items of the history that the catalogue does not hold
    cold: bool  # no known item in the history: popular items


@dataclass(frozen=True, slots=True)
class Encoded:
    """Candidates on their way to the client."""

    items: bytes  # a JSON array of `service.http.schemas.Candidate`, each on a line of its own
    rows: Ints
    unknown: int
    cold: bool


def packed(ids: Ids) -> bytes:
    """The msgpack array. A lone surrogate, which has no bytes of its own, is nobody's id there."""
    if isinstance(ids, bytes):
        return ids
    array: bytes = msgpack.packb(list(ids), unicode_errors="surrogatepass")
    return array
