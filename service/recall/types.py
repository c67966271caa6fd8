"""Queries and their answers.

Front-end processes import this module, so it loads neither torch nor numba.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgpack
import numpy as np
from numpy.typing import NDArray

from service.recall.served_bundle import ServedBundle

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.float32]

DegradedReason = Literal["no_history", "unknown_items", "store_unavailable", "unreadable_history"]
"""The reasons why an answer holds popular items only."""

StageSeconds = dict[str, float]
"""Seconds that a batch spent in each stage: "model", "search", "merge", and "encode" for JSON."""

Ids = Sequence[str | bytes] | bytes
"""Ids of items, as text or its UTF-8, or the msgpack array of them, which front ends send."""


UNTOLD = "\t"
"""The type of an event about which nothing is known: no type has a tab."""


@dataclass(slots=True)
class Query:
    """A request for the candidates of one user; ids are the caller's own.

    It is never changed, but not frozen either: that would make it four times as slow to create, and
    a recall creates three of them.
    """

    user_id: str
    history: Ids  # oldest first
    exclude: Ids = ()
    k: int = 100
    interests: int | None = None  # None: as many as the bundle says
    repeat_after_days: float | None = None  # None: items of the history are not returned again
    explain: bool = False  # whether the answer tells the steps behind it
    filter: bytes | None = None  # see `service.recall.filters.form`
    actions: Ids = ()  # types of the history's events from the oldest on; networks may read them
    outcome: str | None = None  # action wanted of the user; None: the one that the bundle says
    variety: bytes | None = None  # see `service.recall.variety.form`
    offers: Ids = ()  # items shown since and not taken, the newest first, at most `MAX_OFFERS`
    popular: bool = False  # whether the answer is of popular items; the engine need not know

    def with_history(
        self, history: Ids, exclude: Ids, actions: Ids = (), offers: Ids = ()
    ) -> "Query":
        """Returns the same query with another history, what belongs to it, and excluded items.

        `dataclasses.replace` would take eight times as long.
        """
        return Query(
            self.user_id,
            history,
            exclude,
            self.k,
            self.interests,
            self.repeat_after_days,
            self.explain,
            self.filter,
            actions,
            self.outcome,
            self.variety,
            offers,
            self.popular,
        )

    def without_network(self) -> "Query":
        """Returns a query for popular items: the history only says which of them to leave out."""
        exclude = self.exclude
        if self.repeat_after_days is None and self.history:
            exclude = [*self.exclude, *self.history]
        return self.with_history((), exclude)


class FilterResult(NamedTuple):
    """The effect of a query's filter."""

    matched: int  # items that it allows and that are not hidden
    exhausted: bool  # the answer has fewer than k items, because no others are left
    unknown_values: int  # values of its conditions that no item has


class VarietyResult(NamedTuple):
    """The effect of a query's rules of variety."""

    score: float  # the sum of the candidates' scores
    plain_score: float  # the same sum of the answer without the rules
    exhausted: bool  # the answer has fewer than k items, because the rules admit no others


@dataclass(frozen=True, slots=True)
class Candidates:
    """The answer to one query: interest by interest, within one by falling score."""

    scores: Floats
    rows: Ints  # of the catalogue
    interests: Ints  # the interest that recalled each item; -1: popular back-fill
    unknown_items: int  # items of the history that the catalogue does not hold
    cold: bool  # the history has no known item: popular items only
    filter: FilterResult | None = None  # None: the query has no filter
    variety: VarietyResult | None = None  # None: the query has no rules of variety


class ExplainedItem(NamedTuple):
    """An item in an explanation."""

    row: int  # of the catalogue
    item_id: str
    score: float  # inner product with the interest; 0 for an item of the history


class Explanation(NamedTuple):
    """The steps behind an answer."""

    history: list[ExplainedItem]  # as the network reads it: its newest known items, oldest first
    interests: list[list[ExplainedItem]]  # the best hits of each, whatever the other ones hit
    offers: list[str]  # the item that was offered after each interest but the last
    related: list[list[str]]  # items of the history most similar to each candidate, best first


@dataclass(frozen=True, slots=True)
class EncodedCandidates:
    """The answer to one query, as the front end sends it to the client."""

    json: bytes  # an array of `service.http.schemas.Candidate`, each on a line of its own
    rows: Ints
    unknown_items: int
    cold: bool
    explanation: bytes | None = None  # JSON of an `Explanation`, if the query asks for one
    filter: FilterResult | None = None
    variety: VarietyResult | None = None


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The answers to a list of queries, and what the micro-batch around them took."""

    answers: Sequence[EncodedCandidates]
    seconds: StageSeconds  # of the whole micro-batch
    batch_size: int  # queries in the micro-batch; 0 if another result of it reports them already
    bundle: ServedBundle | None = None  # that answered; None in the engine, which has no other


class StageTimes:
    """A stopwatch for the stages of a batch; it starts when it is made."""

    def __init__(self, *stages: str) -> None:
        """Names the stages, which count 0 seconds until their first lap."""
        self.seconds: StageSeconds = dict.fromkeys(stages, 0.0)
        self._since = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Counts the time since the lap before, or since the start, towards a stage."""
        now = time.perf_counter()
        self.seconds[stage] += now - self._since
        self._since = now


def pack_ids(ids: Ids) -> bytes:
    """Returns the msgpack array of the ids.

    A lone surrogate, which has no UTF-8 form, becomes bytes that equal no item's id.
    """
    if isinstance(ids, bytes):
        return ids
    array: bytes = msgpack.packb(list(ids), use_bin_type=False, unicode_errors="surrogatepass")
    return array
