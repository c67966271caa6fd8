"""The signs of life of the service, in memory that all its processes share.

Engines and front ends write the times of their heartbeats, the supervisor the rest, and any process
reads. A number is written at once, so that no reader sees half of it and nobody locks. Times are of
the monotonic clock, which all processes of a machine share.

Several versions can have an engine at the same time, so each has a lane: slots for one engine.
"""

import mmap
import time

LANES = 6
"""Versions that can have an engine at the same time: the served one, its successor, and those of
arms of experiments."""
STARTED, LEAVING, RESTARTS, CHANGES, FAILED_CHANGES, SHARED = range(6)
BEAT, LOAD_SECONDS, LANE = range(3)
FRONT_ENDS = 256
"""Front ends that a service can have."""
BEATS = SHARED + LANES * LANE
"""The first slot of the front ends, which have one each."""
STATUS_BYTES = (BEATS + FRONT_ENDS) * 8


class ServiceStatus:
    """Whether the service has started, and whether the engine of one version lives."""

    def __init__(self, file: int = -1, lane: int = 0) -> None:
        """Maps an open file of STATUS_BYTES; -1 maps memory of this process only."""
        slots = memoryview(mmap.mmap(file, STATUS_BYTES)).cast("d")
        self._slots = slots[:SHARED]
        self._engine = slots[SHARED + lane * LANE :][:LANE]
        self._front_ends = slots[BEATS:]

    @property
    def started(self) -> bool:
        """Whether the engine and all front ends have been ready once."""
        return bool(self._slots[STARTED])

    @property
    def leaving(self) -> bool:
        """Whether the service is about to end, so that clients should go to another instance."""
        return bool(self._slots[LEAVING])

    @property
    def beat_age(self) -> float:
        """Seconds since the last heartbeat of an engine; infinite before the first one."""
        return time.monotonic() - self.last_beat if self.last_beat else float("inf")

    @property
    def last_beat(self) -> float:
        """The time of the last heartbeat of an engine; 0 before the first one."""
        return self._engine[BEAT]

    @property
    def load_seconds(self) -> float:
        """Seconds that the slowest start of an engine took until it could answer."""
        return self._engine[LOAD_SECONDS]

    @property
    def restarts(self) -> int:
        """The number of engines that were started in place of one that ended or hung."""
        return int(self._slots[RESTARTS])

    @property
    def changes(self) -> int:
        """The number of times that the service has changed over to another version."""
        return int(self._slots[CHANGES])

    @property
    def failed_changes(self) -> int:
        """The number of versions that could not be served, so that the old one stayed."""
        return int(self._slots[FAILED_CHANGES])

    def set_started(self) -> None:
        """Notes that all processes are ready."""
        self._slots[STARTED] = 1

    def set_leaving(self) -> None:
        """Notes that the service is about to end."""
        self._slots[LEAVING] = 1

    def beat(self) -> None:
        """Notes that the loop of the engine has turned."""
        self._engine[BEAT] = time.monotonic()

    def beat_front_end(self, row: int) -> None:
        """Notes that the event loop of a front end has turned."""
        self._front_ends[row] = time.monotonic()

    def last_front_end_beat(self, row: int) -> float:
        """Returns the time of the last heartbeat of a front end; 0 before the first one."""
        return self._front_ends[row]

    def set_load_seconds(self, seconds: float) -> None:
        """Notes how long the slowest start of an engine took."""
        self._engine[LOAD_SECONDS] = seconds

    def clear_engine(self) -> None:
        """Forgets the engine of this lane, for which another version's has no heartbeat yet."""
        self._engine[BEAT] = self._engine[LOAD_SECONDS] = 0

    def count_restart(self) -> None:
        """Counts an engine that is started in place of another."""
        self._slots[RESTARTS] += 1

    def count_change(self, failed: bool = False) -> None:
        """Counts a change of version, or one that failed."""
        self._slots[FAILED_CHANGES if failed else CHANGES] += 1
