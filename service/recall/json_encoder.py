"""Candidates as the JSON that answers hold, written where they are found.

Front ends need neither ids nor numbers this way: at 10 million items that is most of their memory.

Shapes: V catalogue, K candidates, N bytes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from index.kernels.jit import Integer, compiled, inner
from service.recall.candidate_lists import POPULAR, CandidateList
from service.recall.types import Floats, Ints

Bytes = NDArray[np.uint8]

DECIMALS = 6  # of scores
UNITS, TEN = np.uint64(10**DECIMALS), np.uint64(10)
MOST = np.float32(1e12)  # of a score that is written
NUMBER = 24  # bytes that the longest one takes

HEAD = b'{"item_id":'
WORDS = [b',"score":', b"null"]
WORDS += [b',"interest":%d},\n%b' % (interest, HEAD) for interest in range(POPULAR, 9)]
SCORE, NULL, BACKFILL = range(3)  # words: before a score; in place of one; behind one of POPULAR
ZERO, MINUS, POINT = map(np.uint8, b"0-.")


class JsonEncoder:
    """Knows how every item's id is written."""

    def __init__(self, item_ids: Sequence[str]) -> None:
        """The ids, row by row."""
        texts, self._ends_V = bytearray(), np.zeros(len(item_ids) + 1, dtype=np.int64)
        for row, item in enumerate(item_ids):
            texts += to_json(item)
            self._ends_V[row + 1] = len(texts)
        self._texts_N = np.array(texts)
        self._words_WN = np.array([list(word.ljust(32)) for word in WORDS], dtype=np.uint8)
        self._lengths_W = np.array([len(word) for word in WORDS])

    def encode(self, found: CandidateList) -> bytes:
        """A JSON array of `service.http.schemas.Candidate`, one to a line, in between a comma.

        Scores are rounded to six decimals.
        """
        ids, words = (self._texts_N, self._ends_V), (self._words_WN, self._lengths_W)
        written_N = _encode(*ids, *words, found.rows, found.scores, found.interests)
        return b"[" + (HEAD + written_N.tobytes())[: -len(HEAD) - 2] + b"]"


@compiled
def _encode(
    texts_N: Bytes,
    ends_V: Ints,
    words_WN: Bytes,
    lengths_W: Ints,
    rows_K: Ints,
    scores_K: Floats,
    interests_K: Ints,
) -> Bytes:
    """All candidates, and the beginning of one more."""
    room = len(rows_K) * (NUMBER + 2 * words_WN.shape[1])
    for row in rows_K:
        room += ends_V[row + 1] - ends_V[row]
    out_N = np.empty(room, dtype=np.uint8)
    at: Integer = 0
    for place in range(len(rows_K)):
        row = rows_K[place]
        at = _put(out_N, at, texts_N[ends_V[row] : ends_V[row + 1]])
        at = _put(out_N, at, words_WN[SCORE, : lengths_W[SCORE]])
        if abs(scores_K[place]) < MOST:
            at = _put_score(out_N, at, scores_K[place])
        else:
            at = _put(out_N, at, words_WN[NULL, : lengths_W[NULL]])
        word = BACKFILL + interests_K[place] - POPULAR
        at = _put(out_N, at, words_WN[word, : lengths_W[word]])
    return out_N[:at]


@inner
def _put(out_N: Bytes, at: Integer, text_N: Bytes) -> Integer:
    """Write; where it ends."""
    for place in range(len(text_N)):
        out_N[at + place] = text_N[place]
    return at + len(text_N)


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
