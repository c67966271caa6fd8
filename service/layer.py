"""The arithmetic of a decoder layer on a CPU, over histories of unlike length without any padding.

Matrix products run over all tokens of a batch, everything else token by token; `model.block` says
what is computed.

Shapes: B batch, S tokens of all histories (one history after another), A tokens that a history can
be continued by, N any tokens, T tokens of a history, D width, E = 3 D (query, key, value), F width
of the feed-forward layer, H heads, d = D / H, C taps.
"""

from typing import NamedTuple

import numpy as np

from service.compiled import Real, compiled
from service.merge import Floats, Ints

ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
ROOT_HALF = np.float32(0.5**0.5)
SHORTEST = np.float32(1e-12)  # a length that is still divided by
ERF_REACH = np.float32(4)  # beyond, erf is 1 in float32
ERF_ABOVE = np.array(
    [
        -2.72614225801306e-10,
        2.77068142495902e-08,
        -2.10102402082508e-06,
        -5.69250639462346e-05,
        -7.34990630326855e-04,
        -2.95459980854025e-03,
        -1.60960333262415e-02,
    ],
    dtype=np.float32,
)
ERF_BELOW = np.array(
    [
        -1.45660718464996e-05,
        -2.13374055278905e-04,
        -1.68282697438203e-03,
        -7.37332916720468e-03,
        -1.42647390514189e-02,
    ],
    dtype=np.float32,
)


class Weights(NamedTuple):
    """A layer as it is served."""

    qkv_DE: Floats  # queries are scaled by attention's d ** -0.5
    qkv_bias_E: Floats
    distance_HT: Floats  # attention's bias by distance
    local_CD: Floats  # taps of the convolution, oldest first
    out_DD: Floats
    out_bias_D: Floats
    norms_4D: Floats  # scale and shift behind attention, then behind the feed-forward layer
    up_DF: Floats
    up_bias_F: Floats
    down_FD: Floats
    down_bias_D: Floats


class Memory(NamedTuple):
    """What later tokens need of a layer: its inputs, and queries, keys and values of them."""

    inputs_SD: Floats
    qkv_SE: Floats
    own_inputs_ABD: Floats  # the same of what histories were continued by
    own_qkv_ABE: Floats


class Space(NamedTuple):
    """Memory to compute in, used again and again."""

    attended_ND: Floats
    mixed_ND: Floats
    fed_NF: Floats
    logits_T: Floats


@compiled
def affine(x_ND: Floats, weight_DE: Floats, bias_E: Floats, out_NE: Floats) -> None:
    """A linear layer."""
    np.dot(x_ND, weight_DE, out_NE)
    for token in range(len(out_NE)):
        add(out_NE[token], ONE, bias_E)


@compiled
def normalise(x_D: Floats, norm_2D: Floats, eps: Real) -> None:
    """Layer normalisation, in place."""
    width = len(x_D)
    total = square = ZERO
    for at in range(width):
        total += x_D[at]
    mean = total / np.float32(width)
    for at in range(width):
        square += (x_D[at] - mean) * (x_D[at] - mean)
    factor = ONE / np.sqrt(square / np.float32(width) + np.float32(eps))
    for at in range(width):
        x_D[at] = (x_D[at] - mean) * factor * norm_2D[0, at] + norm_2D[1, at]


@compiled
def length_of(x_D: Floats) -> Real:
    """Of a vector; never quite 0."""
    length: Real = max(np.sqrt(dot(x_D, x_D)), SHORTEST)
    return length


@compiled
def mix(
    weights: Weights,
    memory: Memory,
    space: Space,
    eps: Real,
    tokens_N4: Ints,
    x_ND: Floats,
    qkv_NE: Floats,
    out_ND: Floats,
) -> None:
    """A layer's outputs for some tokens, whose inputs and queries are given.

    Of each token: its user, the slots where its history begins and ends, and how many tokens
    continue the history; it is the last of all these itself.
    """
    count = len(x_ND)
    attended_ND, mixed_ND = space.attended_ND[:count], space.mixed_ND[:count]
    fed_NF, norms_4D = space.fed_NF[:count], weights.norms_4D
    for at in range(count):
        token_4, query_E = tokens_N4[at], qkv_NE[at]
        keys_SE, own_ABE = memory.qkv_SE, memory.own_qkv_ABE
        _attend(
            token_4, query_E, keys_SE, own_ABE, weights.distance_HT, space.logits_T, attended_ND[at]
        )
    affine(attended_ND, weights.out_DD, weights.out_bias_D, mixed_ND)
    for at in range(count):
        add(mixed_ND[at], ONE, x_ND[at])
        inputs_SD, own_ABD = memory.inputs_SD, memory.own_inputs_ABD
        _convolve(tokens_N4[at], inputs_SD, own_ABD, weights.local_CD, mixed_ND[at])
        normalise(mixed_ND[at], norms_4D[:2], eps)
    np.dot(mixed_ND, weights.up_DF, fed_NF)
    for at in range(count):
        _gelu(fed_NF[at], weights.up_bias_F)
    affine(fed_NF, weights.down_FD, weights.down_bias_D, out_ND)
    for at in range(count):
        add(out_ND[at], ONE, mixed_ND[at])
        normalise(out_ND[at], norms_4D[2:], eps)


@compiled
def _attend(
    token_4: Ints,
    query_E: Floats,
    keys_SE: Floats,
    own_ABE: Floats,
    distance_HT: Floats,
    logits_T: Floats,
    out_D: Floats,
) -> None:
    """What a token sees of those before it and of itself."""
    user, begin, own = token_4[0], token_4[1], token_4[3]
    known = token_4[2] - begin
    seen = known + own
    width = len(out_D)
    head_width = width // len(distance_HT)
    for head in range(len(distance_HT)):
        first = head * head_width
        query_d, out_d = query_E[first : first + head_width], out_D[first : first + head_width]
        first += width
        for at in range(known):
            logits_T[at] = dot(query_d, keys_SE[begin + at, first : first + head_width])
        for at in range(own):
            key_d = own_ABE[at, user, first : first + head_width]
            logits_T[known + at] = dot(query_d, key_d)
        top = -np.float32(np.inf)
        for at in range(seen):
            logits_T[at] += distance_HT[head, seen - 1 - at]
            top = max(top, logits_T[at])
        total = ZERO
        for at in range(seen):
            logits_T[at] = np.exp(logits_T[at] - top)
            total += logits_T[at]
        for at in range(head_width):
            out_d[at] = ZERO
        first += width
        for at in range(known):
            add(out_d, logits_T[at] / total, keys_SE[begin + at, first : first + head_width])
        for at in range(own):
            value_d = own_ABE[at, user, first : first + head_width]
            add(out_d, logits_T[known + at] / total, value_d)


@compiled
def _convolve(
    token_4: Ints, inputs_SD: Floats, own_ABD: Floats, local_CD: Floats, out_D: Floats
) -> None:
    """Add the convolution of a token and of those just before it."""
    user, begin, own = token_4[0], token_4[1], token_4[3]
    taps, known = len(local_CD), token_4[2] - begin
    for back in range(min(taps, known + own)):
        at = known + own - 1 - back
        x_D = inputs_SD[begin + at] if at < known else own_ABD[at - known, user]
        tap_D = local_CD[taps - 1 - back]
        for component in range(len(out_D)):
            out_D[component] += x_D[component] * tap_D[component]


@compiled
def dot(left_N: Floats, right_N: Floats) -> Real:
    """Inner product."""
    total = ZERO
    for at in range(len(left_N)):
        total += left_N[at] * right_N[at]
    return total


@compiled
def add(sum_N: Floats, factor: Real, x_N: Floats) -> None:
    """So many times the one to the other."""
    for at in range(len(sum_N)):
        sum_N[at] += factor * x_N[at]


@compiled
def _gelu(x_N: Floats, bias_N: Floats) -> None:
    """GELU of x + bias, in place.

    The error function is a quotient of two polynomials (Horner's rule), whose coefficients are
    those in use for float32 elsewhere; tests compare it. The library's own is no vector loop.
    """
    for at in range(len(x_N)):
        x = x_N[at] + bias_N[at]
        z = min(max(x * ROOT_HALF, -ERF_REACH), ERF_REACH)
        t = z * z
        above = ERF_ABOVE[0]
        for power in range(1, 7):
            above = above * t + ERF_ABOVE[power]
        below = ERF_BELOW[0]
        for power in range(1, 5):
            below = below * t + ERF_BELOW[power]
        x_N[at] = HALF * x * (ONE + z * above / below)
