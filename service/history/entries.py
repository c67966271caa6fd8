"""The entries of a history, which is the list `h:USER`, newest first.

An entry is the id of an item, or has further fields behind it, each after a tab:

    242                                             an item
    242 ⇥ purchase ⇥ 1764000000 ⇥ 9.99 ⇥ 30         … type, time, value, seconds watched
    242 ⇥ like                                      fields at the end may be left out
    ⇥ like ⇥ 1764000000 ⇥ ⇥ ⇥ an id with ⇥ in it    the id comes last if it holds a tab

Histories are read for every recall. So the entries of a user are joined and looked through as one
string of bytes first: only a history that excludes items is read entry by entry.
"""

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

from service.history.event_types import CUSTOM, EventTypes
from service.history.events import DAY_SECONDS, HistoryEvent

TAB = b"\t"
FIELDS = 4
"""Fields of an entry beside the item: type, time, value, seconds watched."""

Entries = Sequence[bytes]
"""A stored history, newest first."""


class StoredEvent(NamedTuple):
    """An entry, field by field; a field that it lacks is empty or None."""

    item: bytes
    type: bytes = b""
    time: float | None = None
    """Seconds since 1970."""
    value: float | None = None
    watch_seconds: float | None = None


class UserHistory(NamedTuple):
    """A history as a recall needs it; ids are UTF-8."""

    items: Sequence[bytes]
    """The items that the network reads, oldest first."""
    excluded: Sequence[bytes] = ()
    """Items that must not be in the answer, although they are not in the history."""
    actions: Sequence[bytes] = ()
    """The type of each item's event, if the network reads types as feedback."""


def encode_entry(event: HistoryEvent, now: float) -> bytes:
    """Returns the entry of an event, whose time is `now` if it brings none."""
    time = now if event.timestamp is None else event.timestamp
    fields = [event.type, *map(_text, (time, event.value, event.watch_seconds))]
    item = event.item_id
    if "\t" in item:
        return "\t".join(["", *fields, item]).encode()
    return "\t".join([item, *fields]).rstrip("\t").encode()


def encode_item(item: str) -> bytes:
    """Returns the entry of an item about which nothing else is known."""
    return ("\t" * (FIELDS + 1) + item if "\t" in item else item).encode()


def decode_entry(entry: bytes) -> StoredEvent:
    """Returns the fields of an entry. A field that cannot be read counts as missing."""
    item, fields = _split(entry)
    kind, *numbers = [*fields[:FIELDS], *[b""] * (FIELDS - len(fields))]
    return StoredEvent(item, kind, *map(_number, numbers))


def _split(entry: bytes) -> tuple[bytes, list[bytes]]:
    """Returns the item and the fields that the entry has."""
    item, *fields = entry.split(TAB)
    if not item:
        *fields, item = entry.split(TAB, FIELDS + 1)[1:] or [b""]
        if len(fields) < FIELDS:
            return entry, []  # an id that begins with a tab, written by another program
    return item, fields


def read_history(
    entries: Entries,
    types: EventTypes,
    now: float,
    repeat_after_days: float | None = None,
    actions: Collection[bytes] = (),
) -> UserHistory:
    """Returns the items that the network reads, and those that events such as a dislike exclude.

    The newest event of an item decides: a dislike takes the item's earlier events out of the
    history, too, and a later event that enters the history lifts the dislike. If items of the
    history may be repeated after some days, those with a later event are excluded, and those whose
    time is not known.

    A network that reads feedback knows some types as `actions`: it reads every event of them, a
    dislike, too, and `excluded` is as without.
    """
    if repeat_after_days or actions:
        return _read_each(entries, types, now, repeat_after_days or 0, actions)
    joined = b"\n".join(entries)
    if not types.by_bytes[b""].is_plain:
        return _read_each(entries, types, now, 0)
    if TAB not in joined:
        return UserHistory(entries[::-1])
    if not any(mark in joined for mark in types.marks):
        items = [entry.partition(TAB)[0] for entry in reversed(entries)]
        if all(items):
            return UserHistory(items)
    return _read_each(entries, types, now, 0)


def without_old(entries: Entries, since: float) -> Entries:
    """Returns the entries without those at the end, the oldest, whose time is before `since`."""
    left = len(entries)
    while left and (decode_entry(entries[left - 1]).time or since) < since:
        left -= 1
    return entries[:left]


def _read_each(
    entries: Entries,
    types: EventTypes,
    now: float,
    repeat_after_days: float,
    actions: Collection[bytes] = (),
) -> UserHistory:
    items: list[bytes] = []
    told: list[bytes] = []
    excluded: dict[bytes, None] = {}
    included: set[bytes] = set()
    rejected: set[bytes] = set()
    kinds, custom = types.by_bytes, types.by_name[CUSTOM]
    for entry in entries:
        item, fields = _split(entry)
        name = fields[0] if fields else b""
        kind = kinds.get(name, custom)
        is_history = kind.history and item not in rejected
        if is_history or name in actions:
            items.append(item)
            told.append(name)
        if is_history:
            included.add(item)
            if repeat_after_days and _is_younger(entry, repeat_after_days, now):
                excluded[item] = None
        if not kind.exclude_days or (item in included and not kind.history):
            continue
        if _is_younger(entry, kind.exclude_days, now):
            excluded[item] = None
            if not kind.history:
                rejected.add(item)
    items.reverse()
    told.reverse()
    return UserHistory(items, list(excluded), told if actions else ())


def _is_younger(entry: bytes, days: float, now: float) -> bool:
    """Returns whether an event happened in the last days, or at a time that is not known."""
    time = decode_entry(entry).time
    return time is None or now - time < days * DAY_SECONDS


def _text(number: float | None) -> str:
    """Returns the shortest decimal form with up to three decimals."""
    return "" if number is None else f"{number:.3f}".rstrip("0").rstrip(".")


def _number(text: bytes) -> float | None:
    try:
        number = float(text or "nan")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
