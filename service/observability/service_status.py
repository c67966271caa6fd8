"""The signs of life of the service, in memory that all its processes share.

The engine writes the time of its last heartbeat, the supervisor the rest, and any process reads. A
number is written at once, so that no reader sees half of it and nobody locks. Times are of the
monotonic clock, which all processes of a machine share.
"""

import mmap
import time

SLOTS = 4
STATUS_BYTES = SLOTS * 8
STARTED, BEAT, LOAD_SECONDS, RESTARTS = range(SLOTS)


class ServiceStatus:
    """Whether the service has started, and whether its engine lives."""

    def __init__(self, file: int = -1) -> None:
        """Maps an open file of STATUS_BYTES; -1 maps memory of this process only."""
        self._slots = memoryview(mmap.mmap(file, STATUS_BYTES)).cast("d")

    @property
    def started(self) -> bool:
        """Whether the engine and all front ends have been ready once."""
        return bool(self._slots[STARTED])

    @property
    def beat_age(self) -> float:
        """Seconds since the last heartbeat of an engine; infinite before the first one."""
        return time.monotonic() - self.last_beat if self.last_beat else float("inf")

    @property
    def last_beat(self) -> float:
        """The time of the last heartbeat of an engine; 0 before the first one."""
        return self._slots[BEAT]

    @property
    def load_seconds(self) -> float:
        """Seconds that the last engine needed from its start until it could answer."""
        return self._slots[LOAD_SECONDS]

    @property
    def restarts(self) -> int:
        """The number of engines that were started in place of one that ended or hung."""
        return int(self._slots[RESTARTS])

    def set_started(self) -> None:
        """Notes that all processes are ready."""
        self._slots[STARTED] = 1

    def beat(self) -> None:
        """Notes that the loop of the engine has turned."""
        self._slots[BEAT] = time.monotonic()

    def set_load_seconds(self, seconds: float) -> None:
        """Notes how long the start of an engine took."""
        self._slots[LOAD_SECONDS] = seconds

    def count_restart(self) -> None:
        """Counts an engine that is started in place of another."""
        self._slots[RESTARTS] += 1
