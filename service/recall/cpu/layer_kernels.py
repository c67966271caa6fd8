"""The arithmetic of a decoder layer on a CPU, over histories of unlike length without any padding.

Matrix products run over pieces of a batch's tokens (`gemm_chunking`), everything else
token by token; `model.network.block` says what is computed.

Shapes: B batch, S tokens of all histories (one history after another), A tokens that a history can
be continued by, N any tokens, T tokens of a history, D width, E = 2 D (key, value), F width of the
feed-forward layer, H heads, d = D / H, C taps.
"""

from typing import NamedTuple

import numpy as np

from index.kernels.jit import Integer, Real, inner, pasted
from index.kernels.topk import dot
from service.recall.cpu.vector_kernels import ONE, ZERO, add, gelu, normalise
from service.recall.types import Floats, Ints


class LayerWeights(NamedTuple):
    """A layer as it is served; or all layers, with one dimension more in front."""

    query_DD: Floats  # scaled by attention's d ** -0.5
    query_bias_D: Floats
    keys_DE: Floats  # and values
    keys_bias_E: Floats
    distance_HT: Floats  # attention's bias by distance
    local_CD: Floats  # taps of the convolution, oldest first
    out_DD: Floats
    out_bias_D: Floats
    norms_4D: Floats  # scale and shift behind attention, then behind the feed-forward layer
    up_DF: Floats
    up_bias_F: Floats
    down_FD: Floats
    down_bias_D: Floats


class KVCache(NamedTuple):
    """What later tokens need of a layer: its inputs, and keys and values of them.

    Or of all layers, with one dimension more in front.
    """

    inputs_SD: Floats
    keys_SE: Floats
    own_inputs_ABD: Floats  # the same of what histories were continued by
    own_keys_ABE: Floats


class Workspace(NamedTuple):
    """Memory to compute in, used again and again."""

    tokens_N4: Ints
    newest_BD: Floats
    query_ND: Floats
    attended_ND: Floats
    mixed_ND: Floats
    fed_NF: Floats
    logits_T: Floats


@inner
def affine(x_ND: Floats, weight_DE: Floats, bias_E: Floats, rows: Integer, out_NE: Floats) -> None:
    """A linear layer, so many rows at once."""
    for first in range(0, len(x_ND), rows):
        np.dot(x_ND[first : first + rows], weight_DE, out_NE[first : first + rows])
    for token in range(len(out_NE)):
        add(out_NE[token], ONE, bias_E)


@inner
def weights_of(layers: LayerWeights, depth: Integer) -> LayerWeights:
    """A layer's weights, out of those of all."""
    return LayerWeights(
        layers.query_DD[depth],
        layers.query_bias_D[depth],
        layers.keys_DE[depth],
        layers.keys_bias_E[depth],
        layers.distance_HT[depth],
        layers.local_CD[depth],
        layers.out_DD[depth],
        layers.out_bias_D[depth],
        layers.norms_4D[depth],
        layers.up_DF[depth],
        layers.up_bias_F[depth],
        layers.down_FD[depth],
        layers.down_bias_D[depth],
    )


@inner
def memory_of(layers: KVCache, depth: Integer) -> KVCache:
    """A layer's memory, out of that of all."""
    return KVCache(
        layers.inputs_SD[depth],
        layers.keys_SE[depth],
        layers.own_inputs_ABD[depth],
        layers.own_keys_ABE[depth],
    )


@inner
def at_tokens(memory: KVCache, count: Integer, taken: Integer) -> tuple[Floats, Floats]:
    """Inputs and keys of so many tokens: of histories, or of what they were continued by then."""
    if taken < 0:
        return memory.inputs_SD[:count], memory.keys_SE[:count]
    return memory.own_inputs_ABD[taken, :count], memory.own_keys_ABE[taken, :count]


@inner
def set_token(token_4: Ints, user: Integer, begin: Integer, end: Integer, own: Integer) -> None:
    """What `mix` is told of a token: its user, the slots where its history begins and ends, and how
    many tokens continue the history; it is the last of all these itself."""
    token_4[0], token_4[1], token_4[2], token_4[3] = user, begin, end, own


@pasted
def mix(
    weights: LayerWeights,
    memory: KVCache,
    space: Workspace,
    eps: Real,
    rows: Integer,
    tokens_N4: Ints,
    x_ND: Floats,
    out_ND: Floats,
) -> None:
    """A layer's outputs for some tokens, whose inputs are given, so many rows at once."""
    for first in range(0, len(x_ND), rows):
        part = slice(first, first + rows)
        _mix(weights, memory, space, eps, tokens_N4[part], x_ND[part], out_ND[part])


@pasted
def _mix(
    weights: LayerWeights,
    memory: KVCache,
    space: Workspace,
    eps: Real,
    tokens_N4: Ints,
    x_ND: Floats,
    out_ND: Floats,
) -> None:
    count, norms_4D = len(x_ND), weights.norms_4D
    query_ND, attended_ND = space.query_ND[:count], space.attended_ND[:count]
    mixed_ND, fed_NF = space.mixed_ND[:count], space.fed_NF[:count]
    affine(x_ND, weights.query_DD, weights.query_bias_D, count, query_ND)
    for at in range(count):
        known_SE, own_ABE = memory.keys_SE, memory.own_keys_ABE
        distance_HT, logits_T = weights.distance_HT, space.logits_T
        _attend(
            tokens_N4[at], query_ND[at], known_SE, own_ABE, distance_HT, logits_T, attended_ND[at]
        )
    affine(attended_ND, weights.out_DD, weights.out_bias_D, count, mixed_ND)
    for at in range(count):
        add(mixed_ND[at], ONE, x_ND[at])
        inputs_SD, own_ABD = memory.inputs_SD, memory.own_inputs_ABD
        _convolve(tokens_N4[at], inputs_SD, own_ABD, weights.local_CD, mixed_ND[at])
        normalise(mixed_ND[at], norms_4D[:2], eps)
    np.dot(mixed_ND, weights.up_DF, fed_NF)
    for at in range(count):
        gelu(fed_NF[at], weights.up_bias_F)
    affine(fed_NF, weights.down_FD, weights.down_bias_D, count, out_ND)
    for at in range(count):
        add(out_ND[at], ONE, mixed_ND[at])
        normalise(out_ND[at], norms_4D[2:], eps)


@inner
def _attend(
    token_4: Ints,
    query_D: Floats,
    known_SE: Floats,
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
        query_d, out_d = query_D[first : first + head_width], out_D[first : first + head_width]
        for at in range(known):
            logits_T[at] = dot(query_d, known_SE[begin + at, first : first + head_width])
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
            add(out_d, logits_T[at] / total, known_SE[begin + at, first : first + head_width])
        for at in range(own):
            value_d = own_ABE[at, user, first : first + head_width]
            add(out_d, logits_T[known + at] / total, value_d)


@inner
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
