"""Causal attention on a CPU: of single tokens, and of the tokens of a whole history at once.

A step has one new token a query, which reads all keys once: inner products, one by one. The prefill
has all tokens of a history, and so two matrix products for a block of them, one with the keys and
one with the values. A block sees no token behind its last one, so less than half of what a causal
mask would hide is computed. A product of a dozen rows costs more than it saves; short histories are
computed token by token.

Shapes: d = D / H width of a head, R tokens of a block; else see `service.recall.cpu.layer_kernels`.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.kernels.jit import Integer, Real, inner
from index.kernels.topk import dot
from service.recall.types import Floats

Tokens = NDArray[np.void]
"""Records of `TOKEN`."""

Token = Any
"""One of them: neither numpy's nor mypy's types know the fields of a record."""

TOKEN = np.dtype(
    [
        ("query", np.int64),  # of the batch
        ("begin", np.int64),  # the slot of the first item of its history
        ("end", np.int64),  # the slot after the last history item that the token sees
        ("offers", np.int64),  # offered items that it sees, itself included; 0 in a history
    ]
)

BLOCK = 32
"""Tokens of a history that are computed at once."""
SHORT = 24
"""Length of a history from which on blocks are faster; measured with AVX2 and with AVX-512."""

ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)

# exp(x) = 2^n exp(r), where n is the integer next to x / log 2. The rest r is small, so a short
# polynomial is exact in float32. Log 2 is subtracted in two parts, of which the first has few bits.
LOWEST = np.float32(-87)  # its exponential is the smallest normal float32, or 0 for our purposes
PER_LOG_2 = np.float32(1 / np.log(2))
LOG_2_HIGH, LOG_2_LOW = np.float32(0.693359375), np.float32(np.log(2) - 0.693359375)
EXP = np.array([1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2], dtype=np.float32)
EXPONENT_BIAS, EXPONENT_SHIFT = np.int32(127), np.int32(23)


class HeadSpace(NamedTuple):
    """Memory for one head of one history; the largest of them is as long as a history can be."""

    query_Td: Floats
    key_Td: Floats
    value_Td: Floats
    out_Td: Floats
    share_N: Floats
    """A block of rows, or a row, of attention's shares."""


@inner
def attend(
    tokens_N: Tokens,
    query_ND: Floats,
    known_SE: Floats,
    offers_ABE: Floats,
    bias_HT: Floats,
    space: HeadSpace,
    out_ND: Floats,
) -> None:
    """Computes the attention of tokens over the history and the offers before them, and themselves.

    `bias_HT` is added by distance; the last column is that of a token to itself.
    """
    at = 0
    while at < len(tokens_N):
        end = at + 1
        while end < len(tokens_N) and tokens_N[end]["query"] == tokens_N[at]["query"]:
            end += 1
        if end - at < SHORT:
            for one in range(at, end):
                _attend_token(
                    tokens_N[one],
                    query_ND[one],
                    known_SE,
                    offers_ABE,
                    bias_HT,
                    space.share_N,
                    out_ND[one],
                )
        else:  # a whole history
            begin = tokens_N[at]["begin"]
            own_SE = known_SE[begin : begin + end - at]
            _attend_history(query_ND[at:end], own_SE, bias_HT, space, out_ND[at:end])
        at = end


@inner
def _attend_history(
    query_TD: Floats, key_value_TE: Floats, bias_HT: Floats, space: HeadSpace, out_TD: Floats
) -> None:
    """Computes the attention of all tokens of a history, block by block."""
    length, width = out_TD.shape
    head_width = width // len(bias_HT)
    for head in range(len(bias_HT)):
        first = head * head_width
        query_Td = _head_of(query_TD, first, space.query_Td)
        key_Td = _head_of(key_value_TE, first, space.key_Td)
        value_Td = _head_of(key_value_TE, width + first, space.value_Td)
        for begin in range(0, length, BLOCK):
            end = min(begin + BLOCK, length)
            share_RT = space.share_N[: (end - begin) * end].reshape(end - begin, end)
            np.dot(query_Td[begin:end], key_Td[:end].T, share_RT)
            for at in range(begin, end):
                share_T = share_RT[at - begin]
                softmax(share_T[: at + 1], bias_HT[head])
                for later in range(at + 1, end):
                    share_T[later] = ZERO
            np.dot(share_RT, value_Td[:end], space.out_Td[begin:end])
        for at in range(length):
            for component in range(head_width):
                out_TD[at, first + component] = space.out_Td[at, component]


@inner
def _head_of(vectors_TE: Floats, first: Integer, out_Td: Floats) -> Floats:
    """Copies one head's part of each vector, so that the parts follow each other."""
    for at in range(len(vectors_TE)):
        for component in range(out_Td.shape[1]):
            out_Td[at, component] = vectors_TE[at, first + component]
    return out_Td[: len(vectors_TE)]


@inner
def _attend_token(
    token: Token,
    query_D: Floats,
    known_SE: Floats,
    offers_ABE: Floats,
    bias_HT: Floats,
    share_N: Floats,
    out_D: Floats,
) -> None:
    """Computes the attention of one token."""
    query, begin, offers = token["query"], token["begin"], token["offers"]
    known = token["end"] - begin
    share_T, width = share_N[: known + offers], len(out_D)
    head_width = width // len(bias_HT)
    for head in range(len(bias_HT)):
        first = head * head_width
        query_d, out_d = query_D[first : first + head_width], out_D[first : first + head_width]
        for at in range(known):
            share_T[at] = dot(query_d, known_SE[begin + at, first : first + head_width])
        for at in range(offers):
            key_d = offers_ABE[at, query, first : first + head_width]
            share_T[known + at] = dot(query_d, key_d)
        softmax(share_T, bias_HT[head])
        for at in range(head_width):
            out_d[at] = ZERO
        first += width  # values follow the keys
        for at in range(known):
            add(out_d, share_T[at], known_SE[begin + at, first : first + head_width])
        for at in range(offers):
            add(out_d, share_T[known + at], offers_ABE[at, query, first : first + head_width])


@inner
def softmax(logits_T: Floats, bias_I: Floats) -> None:
    """Replaces logits by shares of 1, after a bias is added: the last T numbers of `bias_I`.

    The C library's `exp` takes one number per call, which cannot become a vector loop.
    """
    seen = len(logits_T)
    bias_T = bias_I[len(bias_I) - seen :]
    top, total = -np.float32(np.inf), ZERO
    for at in range(seen):
        logits_T[at] += bias_T[at]
        top = max(top, logits_T[at])
    for at in range(seen):
        x = max(logits_T[at] - top, LOWEST)
        power = np.floor(x * PER_LOG_2 + HALF)
        rest = x - power * LOG_2_HIGH - power * LOG_2_LOW
        value = EXP[0]
        for term in range(1, 6):
            value = value * rest + EXP[term]
        value = (value * rest + ONE) * rest + ONE
        scale = (np.int32(power) + EXPONENT_BIAS) << EXPONENT_SHIFT
        logits_T[at] = value * np.int32(scale).view(np.float32)
        total += logits_T[at]
    for at in range(seen):
        logits_T[at] /= total


@inner
def add(sum_D: Floats, factor: Real, x_D: Floats) -> None:
    """Adds a multiple of one vector to another."""
    for at in range(len(sum_D)):
        sum_D[at] += factor * x_D[at]
