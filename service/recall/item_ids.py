"""Item ids to catalogue rows: one compiled call for all ids of a batch.

**The hash table.** A Python dictionary of ten million ids takes more than a gigabyte, and each
look-up waits for main memory three or four times. Here the UTF-8 bytes of all ids are stored in one
array. A hash table with open addressing has 2 to 4 slots per id, of 8 bytes each: the upper half of
the id's hash, and its row + 1; 0 marks a free slot. A look-up starts at the slot given by the lower
bits of the hash and moves on, slot by slot, until it finds the id or a free slot. It compares bytes
only if the halves of the hashes agree, so that a miss seldom reads anything but the table.

**The ids of a query** arrive as msgpack: an array header, then for each id a header with its length
and the UTF-8 bytes. They are hashed in place; no Python string is made of them.

Shapes: V catalogue, T slots of the hash table, N bytes or rows, B queries.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from index.kernels.jit import Integer, compiled, inlined, inner
from service.recall.query_batch import Ragged, offsets_of
from service.recall.types import Ids, Ints, pack_ids

Bytes = NDArray[np.uint8]
Hash = np.uint64

# 64-bit FNV-1a, and a last step that lets the lower bits depend on the upper ones.
FNV_OFFSET, FNV_PRIME = Hash(0xCBF29CE484222325), Hash(0x100000001B3)
HALF, UPPER_HALF, LOWER_HALF = Hash(32), Hash(0xFFFFFFFF00000000), Hash(0xFFFFFFFF)
FREE, ONE = Hash(0), Hash(1)


class PackedStrings(NamedTuple):
    """Strings as UTF-8, one after another."""

    bytes_N: Bytes
    offsets_V: Ints  # V + 1 of them: string v is bytes_N[offsets_V[v] : offsets_V[v + 1]]

    @classmethod
    def of(cls, strings: Sequence[bytes]) -> Self:
        """Packs strings that are encoded already."""
        return cls(np.frombuffer(b"".join(strings), np.uint8), offsets_of(map(len, strings)))

    def string(self, number: int) -> bytes:
        """Returns the string of this number."""
        return self.bytes_N[self.offsets_V[number] : self.offsets_V[number + 1]].tobytes()


class KnownItems(NamedTuple):
    """The catalogue rows of a batch's ids."""

    newest: Ragged  # of each history the newest known items, oldest first
    excluded: (
        Ragged  # of each query all known items, of `exclude` and, if not repeated, the history
    )
    unknown_B: Ints  # items of each history that the catalogue does not hold
    places_N: Ints  # of each row in `newest` its place in the history; empty if not asked for
    whole: Ragged  # of each history all known items; empty if not asked for


class ItemIds(NamedTuple):
    """The ids of a catalogue, row by row, and the hash table from id to row."""

    ids: PackedStrings
    slots_T: NDArray[Hash]

    @classmethod
    def of(cls, item_ids: Sequence[str]) -> Self:
        """Builds the table; ids must differ from each other."""
        slots = 1 << (2 * len(item_ids)).bit_length()  # at least half of them stay free
        ids = PackedStrings.of([item.encode() for item in item_ids])
        table = cls(ids, np.zeros(slots, dtype=Hash))
        _fill(table)
        return table

    def ids_of(self, rows: Iterable[int]) -> list[str]:
        """Returns the ids of these rows."""
        return [self.ids.string(row).decode() for row in rows]

    def look_up(
        self,
        queries: Sequence[tuple[Ids, Ids]],
        max_history: int,
        repeats: Sequence[bool] = (),
        places: bool = False,
        whole: bool = False,
    ) -> KnownItems:
        """Returns the rows of the ids in each query's history and `exclude`.

        The items of a history are excluded, too, unless its query `repeats` them.
        `newest` keeps at most `max_history` items of a history; with `places`, the answer says
        where in the history they stand, and with `whole` it has the older ones, too. Duplicates
        stay. If bytes are
        not a msgpack array of strings, some rows or none are found; other queries are not affected.
        """
        parts = [pack_ids(part) for query in queries for part in query]
        packed, offsets_2B, count = b"".join(parts), offsets_of(map(len, parts)), len(queries)
        # An id takes at least a byte, so there are no more ids than bytes.
        newest = Ragged(np.empty(count * max_history, np.int64), np.zeros(count + 1, np.int64))
        excluded = Ragged(np.empty(len(packed), np.int64), np.zeros(count + 1, np.int64))
        unknown_B = np.zeros(count, dtype=np.int64)
        places_N = np.empty(count * max_history if places else 0, dtype=np.int64)
        all_places_N = np.empty(len(packed) if places else 0, dtype=np.int64)
        repeats_B = np.array(repeats or [False] * count, dtype=np.bool_)
        packed_N = np.frombuffer(packed, np.uint8)
        all_rows_N = np.empty(len(packed) if whole else 0, dtype=np.int64)
        all_rows = Ragged(all_rows_N, np.zeros(count + 1, np.int64))
        known = KnownItems(newest, excluded, unknown_B, places_N, all_rows)
        _look_up(self, packed_N, offsets_2B, max_history, repeats_B, known, all_places_N)
        newest = newest.trimmed()
        places_N = places_N[: len(newest.rows_N)]
        return KnownItems(newest, excluded.trimmed(), unknown_B, places_N, all_rows.trimmed())


@compiled
def _fill(table: ItemIds) -> None:
    ids, slots_T = table.ids, table.slots_T
    for row in range(len(ids.offsets_V) - 1):
        hashed = _hash(ids.bytes_N, ids.offsets_V[row], ids.offsets_V[row + 1])
        slot = hashed & Hash(len(slots_T) - 1)
        while slots_T[slot] != FREE:
            slot = (slot + ONE) & Hash(len(slots_T) - 1)
        slots_T[slot] = (hashed & UPPER_HALF) | Hash(row + 1)


@compiled
def _look_up(
    table: ItemIds,
    packed_N: Bytes,
    offsets_2B: Ints,
    max_history: Integer,
    repeats_B: NDArray[np.bool_],
    known: KnownItems,
    all_places_N: Ints,
) -> None:
    """See `ItemIds.look_up`. Part 2 b of `packed_N` is the history of query b, the next `exclude`.

    `all_places_N` has room for the place of every item, or is empty.

    No read goes beyond the end of a part, so that malformed bytes do not affect other queries.
    """
    newest, excluded, unknown_B, places_N, whole = known
    for query in range(len(unknown_B)):
        begin = end = excluded.offsets_B[query]
        for part in range(2):
            stop = offsets_2B[2 * query + part + 1]
            count, at = _header(packed_N, offsets_2B[2 * query + part], stop)
            for place in range(count):
                if at == stop:
                    break
                length, start = _header(packed_N, at, stop)
                at = min(start + length, stop)
                row = _row_of(table, packed_N, start, at)
                if row >= 0:
                    excluded.rows_N[end] = row
                    if len(all_places_N):
                        all_places_N[end] = place
                    end += 1
                elif part == 0:
                    unknown_B[query] += 1
            if part == 0:
                written = newest.offsets_B[query]
                for item in range(max(begin, end - max_history), end):
                    newest.rows_N[written] = excluded.rows_N[item]
                    if len(all_places_N):
                        places_N[written] = all_places_N[item]
                    written += 1
                newest.offsets_B[query + 1] = written
                if len(whole.rows_N):
                    written = whole.offsets_B[query]
                    whole.rows_N[written : written + end - begin] = excluded.rows_N[begin:end]
                    whole.offsets_B[query + 1] = written + end - begin
                if repeats_B[query]:
                    end = begin
        excluded.offsets_B[query + 1] = end


@inner
def _header(packed_N: Bytes, at: Integer, stop: Integer) -> tuple[Integer, Integer]:
    """Reads the msgpack header of an array or a string; returns the length, and where it ends.

    A short length is part of the first byte: 0x90 to 0x9F begin arrays of up to 15 elements, 0xA0
    to 0xBF strings of up to 31 bytes. Otherwise a big-endian length follows: of 1 byte after 0xD9
    (string), 2 bytes after 0xDA (string) or 0xDC (array), 4 bytes after 0xDB or 0xDD. Any other
    first byte gives an arbitrary length, but no byte from `stop` on is read.
    """
    if at >= stop:
        return 0, at
    first, at = np.int64(packed_N[at]), at + 1
    if first < 0xC0:
        return first & (0x0F if first < 0xA0 else 0x1F), at
    length = np.int64(0)
    for _ in range(1 if first == 0xD9 else 4 if first in (0xDB, 0xDD) else 2):
        if at < stop:
            length, at = length << 8 | np.int64(packed_N[at]), at + 1
    return length, at


@inlined
def _row_of(table: ItemIds, packed_N: Bytes, start: Integer, end: Integer) -> Integer:
    """Looks up the id between two positions; returns its row, -1 if the catalogue has none."""
    ids, slots_T = table.ids, table.slots_T
    hashed = _hash(packed_N, start, end)
    slot = hashed & Hash(len(slots_T) - 1)
    while slots_T[slot] != FREE:
        if (slots_T[slot] ^ hashed) & UPPER_HALF == FREE:
            row = np.int64(slots_T[slot] & LOWER_HALF) - 1
            begin = ids.offsets_V[row]
            same = ids.offsets_V[row + 1] - begin == end - start
            byte = 0
            while same and byte < end - start:
                same = ids.bytes_N[begin + byte] == packed_N[start + byte]
                byte += 1
            if same:
                return row
        slot = (slot + ONE) & Hash(len(slots_T) - 1)
    return -1


@inner
def _hash(bytes_N: Bytes, start: Integer, end: Integer) -> Hash:
    hashed = FNV_OFFSET
    for at in range(start, end):
        hashed = (hashed ^ Hash(bytes_N[at])) * FNV_PRIME
    return hashed ^ (hashed >> HALF)
