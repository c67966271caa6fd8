"""The feedback in a batch of queries: what users did with the items of their histories.

Shapes: S newest items of all histories.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import msgpack
import numpy as np

from model.artifact.manifest import Manifest
from service.recall.query_batch import BatchFeedback, Ragged
from service.recall.types import Ints, Query, pack_ids

UNKNOWN = -1
CLICK = b"click"
"""The type of an event that names none."""


class FeedbackReader(NamedTuple):
    """The actions that a network knows, and the one that it is asked for by default."""

    codes: Mapping[bytes, int]
    outcome: int
    reads_outcomes: bool
    avoided: int | None = None
    """None: recalls are not guided."""

    @classmethod
    def of(cls, manifest: Manifest) -> Self | None:
        """Returns the reader of a bundle, None if its network reads no feedback."""
        if manifest.model.feedback == "none":
            return None
        codes = {name.encode(): code for code, name in enumerate(manifest.actions)}
        codes[b""] = codes.get(CLICK, UNKNOWN)
        wanted, avoided = (
            UNKNOWN if name is None else codes.get(name.encode(), UNKNOWN)
            for name in (manifest.recall.outcome, manifest.recall.avoid)
        )
        reads_outcomes = manifest.model.feedback == "outcome"
        return cls(codes, wanted, reads_outcomes, avoided if manifest.recall.guidance else None)

    def read(self, queries: Sequence[Query], newest: Ragged, places_S: Ints) -> BatchFeedback:
        """Returns the feedback of the newest items, which stand at these places of histories."""
        actions_S = np.full(len(places_S), UNKNOWN)
        outcomes_S = actions_S.copy()
        for query, begin, end in zip(queries, newest.offsets_B, newest.offsets_B[1:], strict=False):
            if begin == end:
                continue
            if query.actions:
                names = msgpack.unpackb(pack_ids(query.actions), raw=True)
                codes = np.array([self.codes.get(name, UNKNOWN) for name in names])
                places = places_S[begin:end]
                told = places < len(codes)
                actions_S[begin:end][told] = codes[places[told]]
            if self.reads_outcomes:
                outcomes_S[begin : end - 1] = actions_S[begin + 1 : end]
                outcomes_S[end - 1] = self._wanted(query)
        if self.avoided is None:
            return BatchFeedback(actions_S, outcomes_S)
        avoided_S = outcomes_S.copy()
        avoided_S[newest.offsets_B[1:][newest.lengths_B > 0] - 1] = self.avoided
        return BatchFeedback(actions_S, outcomes_S, avoided_S)

    def _wanted(self, query: Query) -> int:
        if query.outcome is None:
            return self.outcome
        return self.codes.get(query.outcome.encode(), UNKNOWN)
