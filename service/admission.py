"""Admission: a recall is accepted only if it can be answered in time, which its number tells.

A queue makes no service faster, it only bridges a burst. The wait of a new recall is predicted by
Little's law, from the time that the engine has needed for a micro-batch lately:

    recalls under way / recalls in a full micro-batch * seconds of a micro-batch = wait

A burst may fill the queue until the wait is a quarter of the deadline. But a queue that has stood
for 100 ms is no burst: more arrives than the engine can answer, and every recall that waits only
makes the others late. From then on no more are admitted than keep the engine busy, so that the
accepted ones are answered about as fast as ever. (CoDel judges a queue by how long it stands, too:
Nichols and Jacobson, "Controlling Queue Delay", 2012.) Bursts have room again after a second in
which hardly any recall was refused: a short queue alone tells nothing, since it is kept short.

A recall that is refused costs next to nothing, because that is decided before its body is read; one
that is accepted and expires has cost as much as an answer.
"""

import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

STANDING_SECONDS = 0.1
"""Time after which a queue that keeps more than the engine busy is no burst any more."""
BURST_SHARE = 0.25
"""Share of a recall's deadline that it may be expected to wait."""
BUSY_SECONDS = 0.025
"""Wait that keeps an engine busy which computes a micro-batch in less than half of it."""
CALM_SECONDS = 1.0
"""Time over which refusals are counted, to see whether an overload lasts."""
CALM_SHARE = 0.05
"""Share of refused recalls below which it is over. Bursts of a moderate load are refused, too."""
WEIGHT = 1 / 16
"""Weight of the newest micro-batch in the mean of their times."""


class BatchSizes(Protocol):
    """The sizes in which an engine takes recalls."""

    @property
    def max_batch(self) -> int:
        """The largest micro-batch that it takes."""

    @property
    def ahead(self) -> int:
        """The number of unanswered recalls up to which it takes another micro-batch."""


class Admission:
    """Counts the recalls under way, and decides whether there is room for another."""

    def __init__(self, sizes: BatchSizes, clock: Callable[[], float] = time.perf_counter) -> None:
        self.under_way = 0
        """Recalls that were accepted and whose clients wait."""
        self.overloaded = False
        """Whether more has arrived than the engine can answer, and the queue is kept short."""
        self._sizes = sizes
        self._clock = clock
        self._batch_seconds = 0.0  # 0 before the first answer
        self._last_answer = 0.0
        self._standing_since: float | None = None
        self._counted_since = 0.0
        self._entered = self._refused = 0  # since then, while there is an overload
        self._by_client: Counter[str] = Counter()

    def has_room(self, patience: float, arriving: int = 0, client: str = "") -> bool:
        """Returns whether another recall is admitted that is to be answered within `patience` s.

        `arriving` recalls are about to be entered. A client of a name that has less under way than
        its share, the limit divided by all such clients, is always admitted: so one that sends
        too much is refused first.
        """
        limit = self._limit(patience)
        if self.under_way + arriving < limit:
            return True
        if client:
            clients = len(self._by_client | Counter([client]))
            if self._by_client[client] * clients < limit:
                return True
        self._refused += 1
        return False

    def enter(self, client: str = "") -> None:
        """Counts a recall that was accepted."""
        self.under_way += 1
        self._entered += 1
        if client:
            self._by_client[client] += 1

    def leave(self, client: str = "") -> None:
        """Counts a recall less: it was answered, or its client waits no more."""
        self.under_way -= 1
        if client:
            self._by_client[client] -= 1
            if not self._by_client[client]:
                del self._by_client[client]

    def answered(self, since: float) -> None:
        """Notes that the engine has answered a micro-batch that it was sent at `since`.

        Called once for a batch of the engine, before its recalls leave. Only answers move the
        estimates: while the engine is replaced, recalls wait for the next one as long as the
        deadline allows.
        """
        now = self._clock()
        seconds = now - max(since, self._last_answer)
        self._batch_seconds += (seconds - self._batch_seconds) * (
            WEIGHT if self._batch_seconds else 1
        )
        self._last_answer = now
        if self.under_way < self._enough():
            self._standing_since = None
        elif self._standing_since is None:
            self._standing_since = now
        elif now - self._standing_since > STANDING_SECONDS and not self.overloaded:
            self.overloaded = True
            self._count_again(now)
        if self.overloaded and now - self._counted_since > CALM_SECONDS:
            self.overloaded = self._refused > CALM_SHARE * (self._entered + self._refused)
            self._count_again(now)

    def _count_again(self, now: float) -> None:
        self._counted_since, self._entered, self._refused = now, 0, 0

    def _limit(self, patience: float) -> float:
        """Returns the number of recalls under way from which on another is refused."""
        if not self._batch_seconds:
            return float("inf")
        limit = BURST_SHARE * patience / self._batch_seconds * self._sizes.max_batch
        return min(limit, self._enough()) if self.overloaded else limit

    def _enough(self) -> int:
        """Returns the number of recalls under way that keep the engine busy.

        It has a micro-batch to compute, and another one waits. If micro-batches take but
        milliseconds, more must wait, because front ends need milliseconds to send the next one.
        """
        size = self._sizes.max_batch
        wanted = int(BUSY_SECONDS / self._batch_seconds * size)
        return max(2 * size, min(wanted, self._sizes.ahead + 2 * size))
