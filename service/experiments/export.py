"""The export of the experiments' log to Parquet, each entry once, in parts that can be resumed.

    OUT/exposures/1767225600000-0_1767229200000-5.parquet     entries from the first to the last id
    OUT/events/…

A part appears complete or not at all, and its name says which entries it holds. The next export
goes on behind the last one, so that it can run every hour, and again after a crash. Exports into
the same folder wait for each other. Entries that the stream has dropped before they were exported
are lost, and the log says so.
"""

import asyncio
import fcntl
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from model.files import new_file
from service.experiments.log import EVENTS, EXPOSURES, MAX_ENTRIES
from service.history.health import Health
from service.history.store import HistoryStore, StoreUnavailable

log = logging.getLogger(__name__)

CHUNK = 5000
"""Entries of one round trip."""
MAX_PART = 500_000
"""Entries of a part."""
COLUMNS = {
    EXPOSURES: {
        "experiment": "experiment",
        "arm": "arm",
        "user": "user_id",
        "request": "request_id",
        "at": "at",
        "version": "version",
        "degraded": "degraded",
        "teams": "teams",
    },
    EVENTS: {
        "id": "id",
        "user": "user_id",
        "item": "item_id",
        "type": "type",
        "at": "at",
        "request": "request_id",
        "value": "value",
    },
}
"""The fields of an entry, and the columns that they become."""
KINDS = {"at": pl.Datetime("us", "UTC"), "degraded": pl.Boolean(), "value": pl.Float64()}


async def export_log(store: HistoryStore, out: Path) -> dict[str, int]:
    """Writes the entries that no part holds yet; returns their number by stream.

    Raises StoreUnavailable if the store fails; what is written stays.
    """
    async with _locked(out):
        return {stream: await _export(store, out / stream, stream) for stream in COLUMNS}


def parts(folder: Path) -> list[Path]:
    """Returns the parts of a stream, oldest first."""
    return sorted(folder.glob("*.parquet"), key=lambda part: _number(_last_id(part)))


async def _export(store: HistoryStore, folder: Path, stream: str) -> int:
    done = parts(folder)
    position = _last_id(done[-1]) if done else "0-0"
    if done:
        await _tell_of_a_gap(store, stream, position)
    waiting: list[tuple[str, dict[str, Any]]] = []
    written = 0
    async for chunk in _entries(store, stream, position):
        waiting += chunk
        if len(waiting) >= MAX_PART:
            written += _write(folder, stream, waiting)
            waiting = []
    return written + (_write(folder, stream, waiting) if waiting else 0)


async def _tell_of_a_gap(store: HistoryStore, stream: str, position: str) -> None:
    """Logs if the stream does not reach back to the last entry that was exported."""
    command = ("xrange", (stream,), {"count": 1})
    (first,) = await store.run([command], Health(f"reading {stream}"))
    if not first or isinstance(first, Exception):
        return
    begin = first[0][0].decode()
    if _number(begin) > _number(position):
        log.warning(
            "%s: entries between %s and %s may be missing: the stream, which keeps %s, has dropped "
            "them. Export more often",
            *(stream, position, begin, f"{MAX_ENTRIES:,}"),
        )


async def _entries(
    store: HistoryStore, stream: str, position: str
) -> AsyncIterator[list[tuple[str, dict[str, Any]]]]:
    """Yields the entries behind a position, in parts."""
    health = Health(f"reading {stream}")
    while True:
        (reply,) = await store.run([("xread", ({stream: position},), {"count": CHUNK})], health)
        if isinstance(reply, Exception):
            raise StoreUnavailable(f"the key {stream} is no stream: {reply}")
        if not reply:
            return
        ((_, found),) = reply
        entries = [
            (identity.decode(), {name.decode(): value for name, value in fields.items()})
            for identity, fields in found
        ]
        yield entries
        position = entries[-1][0]


@asynccontextmanager
async def _locked(out: Path) -> AsyncIterator[None]:
    """Waits until no other export writes to the folder, and keeps others out."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("ab") as lock:
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        yield


def _write(folder: Path, stream: str, entries: list[tuple[str, dict[str, Any]]]) -> int:
    """Writes a part."""
    columns = {
        column: [_value(column, fields.get(field)) for _, fields in entries]
        for field, column in COLUMNS[stream].items()
    }
    schema = {name: KINDS.get(name, pl.String()) for name in columns}
    part = folder / f"{entries[0][0]}_{entries[-1][0]}.parquet"
    with new_file(part) as beside:
        pl.DataFrame(columns, schema=schema).write_parquet(beside)
    return len(entries)


def _value(column: str, value: bytes | None) -> object:
    """Returns the value of a field; None for one that cannot be read."""
    if value is None:
        return None
    text = value.decode(errors="replace")
    try:
        if column == "at":
            return datetime.fromtimestamp(float(text), UTC)
        if column == "value":
            return float(text)
    except (ValueError, OverflowError, OSError):
        return None
    return text == "1" if column == "degraded" else text


def _last_id(part: Path) -> str:
    return part.stem.partition("_")[2]


def _number(identity: str) -> tuple[int, int]:
    """Returns an id of Redis as two numbers, which are in the order of time."""
    milliseconds, _, sequence = identity.partition("-")
    return int(milliseconds), int(sequence)
