"""The greedy choice of one query's list, by the rules in `service.recall.variety.form`.

A search returns the best items, of which the rules admit some. While a quota is not reached, only
items that may still be listed are searched for: what the caps, the list and the query rule out by
then is left out of the search itself. So a list is as long as a greedy choice among all items would
make it, and no search returns more than is missing, however many hits the caps reject.

Diversity is maximal marginal relevance (Carbonell and Goldstein, 1998): from a pool of the best
items, the next one is always that with the highest

    (1 - diversity) * relevance - diversity * similarity

The relevance is the score, between 0 for the worst item of the pool and 1 for the best one; the
similarity is the largest cosine to a listed item.

Shapes: V catalogue, D width, F hits, P items of a pool.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from service.recall.filters.columns import Bools
from service.recall.types import Floats, Ints
from service.recall.variety.rules import Rules, Values

POOL = 4
"""With diversity, a pool has this many times as many items as are missing."""

TINY = np.float32(1e-9)


class Hits(NamedTuple):
    """Items that are neither excluded nor listed, best first."""

    scores_F: Floats
    rows_F: Ints


Search = Callable[[Bools, int], Hits]
"""Returns the best of some rows V, up to a number of them."""


class Chooser:
    """The choice of one list, interest by interest."""

    def __init__(
        self,
        rules: Rules,
        diversity: float,
        vectors_VD: Floats,
        possible: Callable[[], Bools],
    ) -> None:
        """`possible` returns the rows V that are neither excluded nor filtered out."""
        self.plain_score = 0.0
        """The sum of the scores of the list that the query would have without rules."""
        self._rules = rules
        self._diversity = diversity
        self._vectors_VD = vectors_VD
        self._possible = possible
        self._listed: list[int] = []

    def pool_size(self, missing: int) -> int:
        """Returns the number of items among which as many as are missing are chosen."""
        return POOL * missing if self._diversity else missing

    def choose(self, quota: int, first: Hits, search: Search) -> Hits:
        """Lists up to `quota` items, fewer only if no other may be listed, and returns them.

        `first` are the best items that are neither excluded nor listed. Without diversity, the
        result is ordered by score, else in the order of the choice.
        """
        return self._choose(quota, first, search, self._diversity)

    def fill(self, missing: int, search: Search) -> Hits:
        """Does the same without diversity, among all items: their scores mean nothing."""
        return self._choose(missing, EMPTY.hits, search, 0.0)

    def _choose(self, quota: int, first: Hits, search: Search, diversity: float) -> Hits:
        reach = len(self._listed) + quota
        found: list[tuple[float, int]] = []
        self._rules.reserve_fresh(reach)
        pool, size = self._admitted(first), quota
        while len(found) < quota:
            missing = quota - len(found)
            if diversity:
                size = self.pool_size(missing)
                pool = pool.best(size)
            if len(pool.values) < (size if diversity else 1):
                pool = self._admitted(search(self._open(), size))
                size *= 2  # of what caps admit alone, they may reject most together
            chosen = list(self._take(pool, missing, diversity))
            if not chosen and not self._rules.release_fresh(reach):
                break
            found += chosen
            pool = EMPTY
        if not diversity:
            found.sort(key=lambda one: -one[0])
        scores, rows = zip(*found, strict=True) if found else ((), ())
        return Hits(np.array(scores, dtype=np.float32), np.array(rows, dtype=np.int64))

    def _open(self) -> Bools:
        """Returns the rows V that may be listed now."""
        open_V = self._possible()
        open_V[self._listed] = False
        self._rules.leave_out(open_V)
        return open_V

    def _admitted(self, hits: Hits) -> "Pool":
        """Returns the hits that may be listed now."""
        values, rows = self._rules.values(hits.rows_F), hits.rows_F.tolist()
        kept = [at for at, row in enumerate(rows) if self._rules.admit(row, values[at])]
        return Pool(Hits(hits.scores_F[kept], hits.rows_F[kept]), [values[at] for at in kept])

    def _take(self, pool: "Pool", missing: int, diversity: float) -> Iterator[tuple[float, int]]:
        """Lists and yields the missing number of items of a pool, if as many are still admitted."""
        rows, scores = pool.hits.rows_F.tolist(), pool.hits.scores_F.tolist()
        for at in self._by_diversity(pool.hits, diversity) if diversity else range(len(rows)):
            if self._rules.admit(rows[at], pool.values[at]):
                self._rules.add(rows[at], pool.values[at])
                self._listed.append(rows[at])
                yield scores[at], rows[at]
                missing -= 1
            if not missing:
                return

    def _by_diversity(self, pool: Hits, diversity: float) -> Iterator[int]:
        """Yields positions in a pool, each by what is listed then."""
        if not len(pool.rows_F):
            return
        units_PD = _units(self._vectors_VD[pool.rows_F])
        lowest, highest = pool.scores_F.min(), pool.scores_F.max()
        relevance_P = (pool.scores_F - lowest) / max(highest - lowest, TINY)
        value_P = (1 - diversity) * relevance_P
        nearest_P = np.full(len(value_P), -1, dtype=np.float32)
        if self._listed:
            nearest_P = (units_PD @ _units(self._vectors_VD[self._listed]).T).max(axis=1)
        for _ in range(len(value_P)):
            at = int(np.argmax(value_P - diversity * nearest_P))
            listed = len(self._listed)
            yield at
            value_P[at] = -np.inf
            if len(self._listed) > listed:
                np.maximum(nearest_P, units_PD @ units_PD[at], out=nearest_P)


class Pool(NamedTuple):
    """Items of which some are listed."""

    hits: Hits
    values: list[Values]

    def best(self, size: int) -> "Pool":
        """Returns the best items, up to a number of them."""
        scores_F, rows_F = self.hits
        return Pool(Hits(scores_F[:size], rows_F[:size]), self.values[:size])


EMPTY = Pool(Hits(np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.int64)), [])


def _units(vectors_ND: Floats) -> Floats:
    """Returns vectors of length 1; of no length if they have none."""
    lengths_N = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    units_ND: Floats = vectors_ND / np.maximum(lengths_N, TINY)
    return units_ND
