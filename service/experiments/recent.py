"""Counts of the exposures that are new in the store, by experiment and arm.

They are for a look at an experiment that runs: `recgpt experiment report` decides by the whole log.
"""

from collections import Counter, defaultdict
from typing import NamedTuple

from service.experiments.log import EXPOSURES
from service.history.health import Health
from service.history.store import HistoryStore, StoreUnavailable

CHUNK = 1000
"""Entries of one round trip, so that other work of the process goes on in between."""
MAX_COUNTED = 20_000
"""Entries that are counted, the oldest of the time."""

ArmName = tuple[str, str]
"""An experiment and its arm."""


class ArmCounts(NamedTuple):
    """The exposures to an arm."""

    answers: int
    users: int
    degraded: int  # answers of popular items only
    versions: dict[str, int]  # answers by each version


class RecentExposures(NamedTuple):
    """Exposures since a time."""

    arms: dict[ArmName, ArmCounts]
    complete: bool  # false: there are more than `MAX_COUNTED`, and the newest are not counted


async def count_exposures(store: HistoryStore, since: float) -> RecentExposures:
    """Counts the exposures since a time in seconds since 1970.

    Raises StoreUnavailable if the store fails.
    """
    users: defaultdict[ArmName, set[bytes]] = defaultdict(set)
    versions: defaultdict[ArmName, Counter[str]] = defaultdict(Counter)
    degraded: Counter[ArmName] = Counter()
    health, position, counted = Health(f"reading {EXPOSURES}"), f"{int(since * 1000)}-0", 0
    complete = False
    while not complete and counted < MAX_COUNTED:
        command = ("xrange", (EXPOSURES,), {"min": position, "count": CHUNK})
        (reply,) = await store.run([command], health)
        if isinstance(reply, Exception):
            raise StoreUnavailable(f"the key {EXPOSURES} is no stream: {reply}")
        for identity, fields in reply:
            arm = _text(fields, b"experiment"), _text(fields, b"arm")
            users[arm].add(fields.get(b"user", b""))
            versions[arm][_text(fields, b"version")] += 1
            degraded[arm] += fields.get(b"degraded") == b"1"
            position = _behind(identity)
        counted += len(reply)
        complete = len(reply) < CHUNK
    arms = {
        arm: ArmCounts(of.total(), len(users[arm]), degraded[arm], dict(of))
        for arm, of in sorted(versions.items())
    }
    return RecentExposures(arms, complete)


def _text(fields: dict[bytes, bytes], name: bytes) -> str:
    return fields.get(name, b"").decode(errors="replace")


def _behind(identity: bytes) -> str:
    """Returns the first id of a stream behind this one."""
    milliseconds, _, sequence = identity.decode().partition("-")
    return f"{milliseconds}-{int(sequence) + 1}"
