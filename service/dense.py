"""Search of a small catalogue by one matrix product a step, where everything closed is left out.

Whether it pays is measured at export (`service.contest`): an index of the kind `dense` says so.

Faiss is asked for more hits than are wanted, because it cannot know what a user has seen; here the
closed items' scores are taken away first, and no more than the quota is looked for.

The product is of 8-bit integers. It leaves out what cannot be a hit, whatever the rounding; the few
items that are left are scored again.

Shapes: W users of a batch who run together, P items padded to whole groups, D width, M interests.
"""

import time
from collections.abc import Sequence

from service.hits import Case, quota_table
from service.merge import Floats, Ints, Merge
from service.scores import Scores
from service.selection import Asked, Room, select


class DenseHits:
    """The hits of every step of a rollout: candidates, and the next token."""

    def __init__(self, scores: Scores, merge: Merge, cases: Sequence[Case], users_W: Ints) -> None:
        self._scores = scores
        self._lists = merge.lists
        self._users_W = users_W
        self._quotas_MW = quota_table([cases[user] for user in users_W])
        self.steps = len(self._quotas_MW)
        self._room = Room.of(scores.padded)
        self._step = 0
        self.search_seconds = self.merge_seconds = 0.0

    def search(self, interest_WD: Floats) -> Ints:
        """Give everyone the hits of the next step; its tokens W."""
        started = time.perf_counter()
        scores_WP, slack_W = self._scores.of(interest_WD)
        step, last = self._step, self._step == self.steps - 1
        asked = Asked(scores_WP, slack_W, interest_WD, self._scores.vectors_PD, step, last)
        select(asked, self._lists, self._users_W, self._quotas_MW[step], self._room)
        self._step += 1
        self.search_seconds += time.perf_counter() - started
        tokens_W: Ints = self._lists.offered_BM[self._users_W, step]
        return tokens_W

    def refill(self) -> None:
        """Nothing is left for those who are short: a search finds as many as there are."""
