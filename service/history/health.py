"""The health of the store, told in the log once per change and in the store's own words."""

import logging
import time
from collections import defaultdict

log = logging.getLogger(__name__)

REPEAT_SECONDS = 60.0
"""Time for which a complaint of the same kind is not logged again."""


class Health:
    """The health of one kind of access to the store, such as "reading histories"."""

    def __init__(self, access: str) -> None:
        self._access = access
        self._failing: str | None = None  # the kind of failure
        self._last_logged: dict[str, float] = defaultdict(lambda: -REPEAT_SECONDS)

    def failed(self, words: str) -> None:
        """Notes that an access failed, and logs it if the failure is new or of another kind."""
        kind = words.partition(":")[0]
        if kind != self._failing:
            self._failing = kind
            log.warning("the store is unavailable for %s: %s", self._access, words)

    def succeeded(self) -> None:
        """Notes that an access succeeded, and logs it after a failure."""
        if self._failing:
            self._failing = None
            log.info("the store is available again for %s", self._access)

    def complain(self, kind: str, words: str) -> None:
        """Logs a problem that concerns single users, at most once a minute for each kind."""
        now = time.monotonic()
        if now - self._last_logged[kind] >= REPEAT_SECONDS:
            self._last_logged[kind] = now
            log.warning("%s: %s", self._access, words)


def words_of(error: Exception) -> str:
    """Returns the words of an error of Redis: its first line without the command.

    redis-py puts the command before them, which holds ids of users.
    """
    words = str(error).rpartition("caused error: ")[2].partition("\n")[0]
    return f"{type(error).__name__}: {words}"
