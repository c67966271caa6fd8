"""Candidates as the JSON that answers hold, written where they are found.

Front ends need neither ids nor numbers this way: at 10 million items that is most of their memory.

Shapes: V catalogue, B users, K candidates, N bytes.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from pydantic_core import to_json

from index.compiled import Integer, compiled, inner
from service.merge import POPULAR, Ints, Lists
from service.texts import Bytes, Texts

DECIMALS = 6  # of scores
UNITS, TEN = np.uint64(10**DECIMALS), np.uint64(10)
MOST = np.float32(1e12)  # of a score that is written
MOST_AROUND = 100  # bytes of a candidate without its id, more than ever

HEAD = b'{"item_id":'
WORDS = [b"[" + HEAD, b"[]", b"]", b',"score":', b"null"]
WORDS += [b',"interest":%d},\n%b' % (interest, HEAD) for interest in range(POPULAR, 9)]
# Words: before the first, in place of all, behind the last one; before a score, in place of one;
# behind a candidate of POPULAR, which the next one follows.
OPEN, NOTHING, CLOSE, SCORE, NULL, BACKFILL = map(np.int64, range(6))
TOO_FAR = len(b",\n" + HEAD)  # behind the last candidate
ZERO, MINUS, POINT = map(np.uint8, b"0-.")


class Encoder:
    """Knows how every item's id is written."""

    def __init__(self, item_ids: Sequence[str]) -> None:
        """The ids, row by row."""
        self._ids, self._words = Texts.of([to_json(item) for item in item_ids]), Texts.of(WORDS)

    def encode(self, lists: Lists) -> list[bytes]:
        """Everyone's JSON array of `service.schemas.Candidate`, one to a line.

        Scores are rounded to six decimals.
        """
        ends_B = np.empty(len(lists.sizes_B), dtype=np.int64)
        written = _encode(self._ids, self._words, lists, ends_B).data
        return [bytes(written[begin:end]) for begin, end in pairwise([0, *ends_B.tolist()])]


@compiled
def _encode(ids: Texts, words: Texts, lists: Lists, ends_B: Ints) -> Bytes:
    """All arrays, and where each ends."""
    room: Integer = 0
    for user in range(len(ends_B)):
        rows_K, size = lists.rows_BK[user], lists.sizes_B[user]
        room += (size + 1) * MOST_AROUND
        for place in range(size):
            room += ids.ends_T[rows_K[place] + 1] - ids.ends_T[rows_K[place]]
    out_N = np.empty(room, dtype=np.uint8)
    at: Integer = np.int64(0)  # a plain 0 would be a type of its own, and compiled for
    for user in range(len(ends_B)):
        rows_K, scores_K = lists.rows_BK[user], lists.scores_BK[user]
        interests_K, size = lists.interests_BK[user], lists.sizes_B[user]
        at = _put(out_N, at, words, OPEN if size else NOTHING)
        for place in range(size):
            at = _put(out_N, at, ids, rows_K[place])
            at = _put(out_N, at, words, SCORE)
            if abs(scores_K[place]) < MOST:
                at = _put_score(out_N, at, scores_K[place])
            else:
                at = _put(out_N, at, words, NULL)
            at = _put(out_N, at, words, BACKFILL + interests_K[place] - POPULAR)
        if size:
            at = _put(out_N, at - TOO_FAR, words, CLOSE)
        ends_B[user] = at
    return out_N


@inner
def _put(out_N: Bytes, at: Integer, texts: Texts, which: Integer) -> Integer:
    """Write; where it ends."""
    begin = texts.ends_T[which]
    length = texts.ends_T[which + 1] - begin
    for place in range(length):
        out_N[at + place] = texts.bytes_N[begin + place]
    end: Integer = at + length
    return end


@inner
def _put_score(out_N: Bytes, at: Integer, score: np.float32) -> Integer:
    if score < 0:
        out_N[at] = MINUS
        at += 1
    units = np.uint64(np.rint(np.float64(abs(score)) * UNITS))  # unsigned ones divide faster
    whole, rest = units // UNITS, np.uint32(units % UNITS)
    digits, power = 1, TEN
    while whole >= power:
        digits, power = digits + 1, power * TEN
    for place in range(at + digits - 1, at - 1, -1):
        out_N[place] = ZERO + np.uint8(whole % TEN)
        whole //= TEN
    at += digits
    out_N[at] = POINT
    for place in range(at + DECIMALS, at, -1):
        out_N[place] = ZERO + np.uint8(rest % np.uint32(10))
        rest //= np.uint32(10)
    return at + DECIMALS + 1
