"""Search of a small catalogue by one matrix product a step, where everything excluded is left out.

Whether it pays is measured at export (`service.contest`): an index of the kind `dense` says so.

An index is asked for more hits than are wanted, because it cannot know what a user has seen; here
the excluded items' scores are taken away first, and no more than the quota is looked for.

The product is of 8-bit integers. It leaves out what cannot be a hit, whatever the rounding; the few
items that are left are scored again.

Shapes: W users of a batch who run together, D width, M interests.
"""

import time

from index.kernels.jit import Integer, compiled
from index.kernels.topk import Room
from service.recall.candidate_lists import CandidateLists, ListArrays
from service.recall.cpu.scores import Int8Catalogue, Int8Scores, quantise_catalogue, score
from service.recall.cpu.selection import SearchStep, select
from service.recall.query_batch import QueryBatch
from service.recall.types import Floats, Ints


class ExactCatalogue:
    """A catalogue, and room for the searches of a batch, used again: fresh memory costs more."""

    def __init__(self, vectors_VD: Floats) -> None:
        self.coarse = quantise_catalogue(vectors_VD)
        self.room = Room.of(len(self.coarse.blocks.start_P))
        self._scored = Int8Scores.room(1, self.coarse)

    def scored(self, users: int) -> Int8Scores:
        """For so many at least."""
        if len(self._scored.slack_W) < users:
            self._scored = Int8Scores.room(users, self.coarse)
        return self._scored


class ExactSearcher:
    """The hits of every step of a rollout: candidates, and the next token."""

    def __init__(
        self, dense: ExactCatalogue, lists: CandidateLists, batch: QueryBatch, users_W: Ints
    ) -> None:
        self._coarse, self._room = dense.coarse, dense.room
        self._scored = dense.scored(len(users_W))
        self._lists = lists.arrays
        self._users_W = users_W
        self._quotas_MW = batch.quotas_MW(users_W)
        self.steps = len(self._quotas_MW)
        self._step = 0
        self.search_seconds = self.merge_seconds = 0.0

    def search(self, interest_WD: Floats) -> Ints:
        """Give everyone the hits of the next step; its tokens W."""
        started = time.perf_counter()
        step, last = self._step, self._step == self.steps - 1
        _search(
            self._coarse,
            self._scored,
            self._room,
            interest_WD,
            self._lists,
            self._users_W,
            self._quotas_MW[step],
            step,
            last,
        )
        self._step += 1
        self.search_seconds += time.perf_counter() - started
        tokens_W: Ints = self._lists.offered_BM[self._users_W, step]
        return tokens_W

    def refill(self) -> None:
        """Nothing is left for those who are short: a search finds as many as there are."""


@compiled
def _search(
    coarse: Int8Catalogue,
    scored: Int8Scores,
    room: Room,
    interest_WD: Floats,
    lists: ListArrays,
    users_W: Ints,
    quotas_W: Ints,
    step: Integer,
    last: bool,
) -> None:
    score(coarse, interest_WD, scored)
    asked = SearchStep(scored, interest_WD, coarse.vectors_VD, step, last)
    select(asked, lists, users_W, quotas_W, room)
