"""Candidates to JSON: one compiled call per query.

The encoder copies texts that are JSON already, namely the quoted id of each item and what comes
between the fields, and writes the digits of the scores itself. It runs in the engine process, so
that front ends hold no ids: with ten million items those would be most of a front end's memory.

Shapes: V catalogue, K candidates, N bytes, X texts.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from index.kernels.jit import Integer, compiled, inner
from service.recall.candidate_lists import POPULAR
from service.recall.types import Candidates, Floats, Ints

Bytes = NDArray[np.uint8]

DECIMALS = 6  # of a score
UNITS, TEN = np.uint64(10**DECIMALS), np.uint64(10)
MAX_SCORE = np.float32(1e12)  # any other score, NaN included, is written as null
MAX_SCORE_BYTES = 24  # sign, digits, point, decimals
MAX_INTERESTS = 9

# The texts between ids and scores. The last ones end a candidate and begin the next.
BEGIN = b'{"item_id":'
TEXTS = [b',"score":', b"null"]
TEXTS += [b',"interest":%d},\n%b' % (number, BEGIN) for number in range(POPULAR, MAX_INTERESTS)]
SCORE, NULL, FIRST_INTEREST = range(3)  # positions in TEXTS; the first interest is POPULAR
TEXT_BYTES = 32
ZERO, MINUS, POINT = map(np.uint8, b"0-.")


class JsonEncoder:
    """Writes candidates as JSON; holds the JSON form of every item's id."""

    def __init__(self, item_ids: Sequence[str]) -> None:
        """Takes the ids of the catalogue, row by row."""
        ids, self._offsets_V = bytearray(), np.zeros(len(item_ids) + 1, dtype=np.int64)
        for row, item in enumerate(item_ids):
            ids += to_json(item)
            self._offsets_V[row + 1] = len(ids)
        self._ids_N = np.array(ids)
        padded = [list(text.ljust(TEXT_BYTES)) for text in TEXTS]
        self._texts_XN = np.array(padded, dtype=np.uint8)
        self._lengths_X = np.array([len(text) for text in TEXTS])

    def encode(self, found: Candidates) -> bytes:
        """Returns a JSON array of `service.http.schemas.Candidate`, one per line.

        Scores are rounded to six decimals.
        """
        ids, texts = (self._ids_N, self._offsets_V), (self._texts_XN, self._lengths_X)
        written_N = _encode(*ids, *texts, found.scores, found.rows, found.interests)
        return b"[" + (BEGIN + written_N.tobytes())[: -len(b",\n" + BEGIN)] + b"]"


@compiled
def _encode(
    ids_N: Bytes,
    offsets_V: Ints,
    texts_XN: Bytes,
    lengths_X: Ints,
    scores_K: Floats,
    rows_K: Ints,
    interests_K: Ints,
) -> Bytes:
    """Returns the text of all candidates, without BEGIN at the start, and with BEGIN at the end."""
    size = len(rows_K) * (MAX_SCORE_BYTES + 2 * TEXT_BYTES)
    for row in rows_K:
        size += offsets_V[row + 1] - offsets_V[row]
    out_N = np.empty(size, dtype=np.uint8)
    at: Integer = 0
    for rank in range(len(rows_K)):
        row = rows_K[rank]
        at = _write(out_N, at, ids_N[offsets_V[row] : offsets_V[row + 1]])
        at = _write(out_N, at, texts_XN[SCORE, : lengths_X[SCORE]])
        if abs(scores_K[rank]) < MAX_SCORE:
            at = _write_score(out_N, at, scores_K[rank])
        else:
            at = _write(out_N, at, texts_XN[NULL, : lengths_X[NULL]])
        interest = FIRST_INTEREST + interests_K[rank] - POPULAR
        at = _write(out_N, at, texts_XN[interest, : lengths_X[interest]])
    return out_N[:at]


@inner
def _write(out_N: Bytes, at: Integer, text_N: Bytes) -> Integer:
    """Writes a text at a position; returns where it ends."""
    for byte in range(len(text_N)):
        out_N[at + byte] = text_N[byte]
    return at + len(text_N)


@inner
def _write_score(out_N: Bytes, at: Integer, score: np.float32) -> Integer:
    """Writes a score in fixed-point notation; returns where it ends.

    The score becomes a whole number of millionths, whose digits are written from the last to the
    first. Unsigned integers divide faster than signed ones.
    """
    if score < 0:
        out_N[at] = MINUS
        at += 1
    units = np.uint64(np.rint(np.float64(abs(score)) * UNITS))
    whole, rest = units // UNITS, np.uint32(units % UNITS)
    digits, power = 1, TEN
    while whole >= power:
        digits, power = digits + 1, power * TEN
    for position in range(at + digits - 1, at - 1, -1):
        out_N[position] = ZERO + np.uint8(whole % TEN)
        whole //= TEN
    at += digits
    out_N[at] = POINT
    for position in range(at + DECIMALS, at, -1):
        out_N[position] = ZERO + np.uint8(rest % np.uint32(10))
        rest //= np.uint32(10)
    return at + DECIMALS + 1
