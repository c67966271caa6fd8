"""Item ids → rows, by one compiled call for all ids of a batch.

Ids are read as they come over the local socket, in msgpack: no text of Python's is made of them.
In a dictionary of Python's a look-up waits for memory three or four times, and ten million texts
and numbers in it have more than a gigabyte; here ids stand one after another, and a hash table has
16 to 32 bytes for each.

Shapes: V catalogue, T slots of the hash table, N bytes or rows, B queries.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from index.kernels.jit import Integer, compiled, inner, pasted
from service.recall.query_batch import Ragged, offsets_of
from service.recall.types import Ids, Ints, pack_ids

Bytes = NDArray[np.uint8]

# FNV-1a, and a last step that lets all bits depend on all bytes.
START, PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
HALF, HIGH, LOW = np.uint64(32), np.uint64(0xFFFFFFFF00000000), np.uint64(0xFFFFFFFF)
FREE, ONE = np.uint64(0), np.uint64(1)


class PackedStrings(NamedTuple):
    """One after another."""

    bytes_N: Bytes
    ends_T: Ints  # where each ends, and a 0 before

    @classmethod
    def of(cls, texts: Sequence[bytes]) -> Self:
        """These."""
        return cls(np.frombuffer(b"".join(texts), np.uint8), offsets_of(map(len, texts)))

    def text(self, which: int) -> bytes:
        """One of them."""
        return self.bytes_N[self.ends_T[which] : self.ends_T[which + 1]].tobytes()


class ItemIds(NamedTuple):
    """A catalogue's ids, row by row, and where to find each."""

    ids: PackedStrings
    slots_T: NDArray[np.uint64]  # upper half of an id's hash, and its row + 1; 0: free

    @classmethod
    def of(cls, item_ids: Sequence[str]) -> Self:
        """These ids; they differ."""
        slots = 1 << (2 * len(item_ids)).bit_length()  # half of them stay free, or more
        ids = PackedStrings.of([item.encode() for item in item_ids])
        vocabulary = cls(ids, np.zeros(slots, dtype=np.uint64))
        _fill(vocabulary)
        return vocabulary

    def ids_of(self, rows: Iterable[int]) -> list[str]:
        """The ids of these rows."""
        return [self.ids.text(row).decode() for row in rows]

    def read(
        self, id_lists: Sequence[tuple[Ids, Ids]], max_history: int
    ) -> tuple[Ragged, Ragged, Ints]:
        """Of everyone's history, and what else must not be returned: the newest known items of the
        history, `max_history` at the most; all known items of both; how many of the history are
        unknown, B.
        """
        parts = [pack_ids(part) for pair in id_lists for part in pair]
        given, ends_2B, users = b"".join(parts), offsets_of(map(len, parts)), len(id_lists)
        newest = Ragged(np.empty(users * max_history, np.int64), np.zeros(users + 1, np.int64))
        excluded = Ragged(np.empty(len(given), np.int64), np.zeros(users + 1, np.int64))
        unknown_B = np.zeros(users, dtype=np.int64)
        given_N = np.frombuffer(given, np.uint8)
        _read(self, given_N, ends_2B, max_history, newest, excluded, unknown_B)
        return newest.cut(), excluded.cut(), unknown_B


@compiled
def _fill(vocabulary: ItemIds) -> None:
    ids, slots_T = vocabulary.ids, vocabulary.slots_T
    for row in range(len(ids.ends_T) - 1):
        hashed = _hash(ids.bytes_N, ids.ends_T[row], ids.ends_T[row + 1])
        slot = hashed & np.uint64(len(slots_T) - 1)
        while slots_T[slot] != FREE:
            slot = (slot + ONE) & np.uint64(len(slots_T) - 1)
        slots_T[slot] = (hashed & HIGH) | np.uint64(row + 1)


@compiled
def _read(
    vocabulary: ItemIds,
    given_N: Bytes,
    ends_2B: Ints,
    max_history: Integer,
    newest: Ragged,
    excluded: Ragged,
    unknown_B: Ints,
) -> None:
    """See `ItemIds.read`. What is no msgpack harms nobody else, whose part ends elsewhere."""
    for user in range(len(unknown_B)):
        begin = end = excluded.offsets_B[user]
        for part in range(2):
            stop = ends_2B[2 * user + part + 1]
            count, at = _head(given_N, ends_2B[2 * user + part], stop)
            for _ in range(count):
                if at == stop:
                    break
                length, start = _head(given_N, at, stop)
                at = min(start + length, stop)
                row = _row(vocabulary, given_N, start, at)
                if row >= 0:
                    excluded.rows_N[end] = row
                    end += 1
                elif part == 0:
                    unknown_B[user] += 1
            if part == 0:
                written = newest.offsets_B[user]
                for slot in range(max(begin, end - max_history), end):
                    newest.rows_N[written] = excluded.rows_N[slot]
                    written += 1
                newest.offsets_B[user + 1] = written
        excluded.offsets_B[user + 1] = end


@inner
def _head(given_N: Bytes, at: Integer, stop: Integer) -> tuple[Integer, Integer]:
    """The length of a text or an array in msgpack, and where its content begins.

    Anything else gets some length, but nothing is read behind `stop`.
    """
    if at >= stop:
        return 0, at
    first, at = np.int64(given_N[at]), at + 1
    if first < 0xC0:
        return first & (0x0F if first < 0xA0 else 0x1F), at
    length = np.int64(0)
    for _ in range(1 if first == 0xD9 else 4 if first in (0xDB, 0xDD) else 2):
        if at < stop:
            length, at = length << 8 | np.int64(given_N[at]), at + 1
    return length, at


@pasted
def _row(vocabulary: ItemIds, given_N: Bytes, start: Integer, end: Integer) -> Integer:
    """The row of an id, -1 where the catalogue does not hold it."""
    ids, slots_T = vocabulary.ids, vocabulary.slots_T
    hashed = _hash(given_N, start, end)
    slot = hashed & np.uint64(len(slots_T) - 1)
    while slots_T[slot] != FREE:
        if (slots_T[slot] ^ hashed) & HIGH == FREE:
            row = np.int64(slots_T[slot] & LOW) - 1
            begin = ids.ends_T[row]
            same = ids.ends_T[row + 1] - begin == end - start
            byte = 0
            while same and byte < end - start:
                same = ids.bytes_N[begin + byte] == given_N[start + byte]
                byte += 1
            if same:
                return row
        slot = (slot + ONE) & np.uint64(len(slots_T) - 1)
    return -1


@inner
def _hash(texts_N: Bytes, start: Integer, end: Integer) -> np.uint64:
    hashed = START
    for at in range(start, end):
        hashed = (hashed ^ np.uint64(texts_N[at])) * PRIME
    return hashed ^ (hashed >> HALF)
