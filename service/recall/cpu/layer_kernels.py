"""The arithmetic of one decoder layer on a CPU; `model.network.block` is the same in torch.

**Histories are not padded.** The tokens of all histories of a batch are stored one after another,
so that a matrix product has a row for each real token and for nothing else, however much lengths
differ. Attention, convolution and normalisation run token by token; a record for each token says
which tokens it sees.

**The KV cache** of a layer has two parts. The prefill fills the first with the inputs, keys and
values of all history tokens, in the same order. Each step appends one offered item to each history;
as there is no space between two histories, those tokens have arrays of their own, one row per step.

Shapes: B queries, S tokens of all histories, A steps (offered items a history), N any tokens, T
tokens that one token sees, D width, E = 2 D (keys, then values), F width of the feed-forward layer,
H heads, d = D / H, C taps of the convolution.
"""

from typing import NamedTuple

import numpy as np

from index.kernels.jit import Integer, Real, inlined, inner
from index.kernels.topk import dot
from service.recall.cpu.attention import (
    HALF,
    ONE,
    ZERO,
    HeadSpace,
    Token,
    Tokens,
    add,
    attend,
)
from service.recall.types import Floats

MIN_LENGTH = np.float32(1e-12)  # of a vector, so that it can be divided by

# The error function in float32 is a quotient of two polynomials in z², highest power first.
ROOT_HALF = np.float32(0.5**0.5)
ERF_LIMIT = np.float32(4)  # beyond it the error function is 1 in float32
ERF_NUMERATOR = np.array(
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
ERF_DENOMINATOR = np.array(
    [
        -1.45660718464996e-05,
        -2.13374055278905e-04,
        -1.68282697438203e-03,
        -7.37332916720468e-03,
        -1.42647390514189e-02,
    ],
    dtype=np.float32,
)


class LayerWeights(NamedTuple):
    """The weights of a layer; or of all layers, with a first dimension for the layer."""

    query_DD: Floats  # with attention's factor d ** -0.5 in it
    query_bias_D: Floats
    key_value_DE: Floats
    key_value_bias_E: Floats
    bias_HT: Floats  # attention's bias by distance, that of a token to itself last
    local_CD: Floats  # taps of the convolution, oldest first
    out_DD: Floats
    out_bias_D: Floats
    norms_4D: Floats  # scale and shift after attention, then after the feed-forward layer
    up_DF: Floats
    up_bias_F: Floats
    down_FD: Floats
    down_bias_D: Floats


class Normalisation(NamedTuple):
    """How outputs are normalised: each group of a vector by itself."""

    eps: float
    groups: int


class KVCache(NamedTuple):
    """The KV cache of a layer; or of all layers, with a first dimension for the layer."""

    inputs_SD: Floats  # of the layer: the convolution reads them
    key_values_SE: Floats
    offer_inputs_ABD: Floats
    offer_key_values_ABE: Floats


class Workspace(NamedTuple):
    """Memory for intermediate results, used again: fresh pages cost more than the work."""

    tokens_N: Tokens
    newest_BD: Floats
    query_ND: Floats
    attended_ND: Floats
    mixed_ND: Floats
    fed_NF: Floats
    head: HeadSpace


@inner
def weights_at(layers: LayerWeights, depth: Integer) -> LayerWeights:
    """Returns one layer's weights."""
    return LayerWeights(
        layers.query_DD[depth],
        layers.query_bias_D[depth],
        layers.key_value_DE[depth],
        layers.key_value_bias_E[depth],
        layers.bias_HT[depth],
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
def cache_at(layers: KVCache, depth: Integer) -> KVCache:
    """Returns one layer's cache."""
    return KVCache(
        layers.inputs_SD[depth],
        layers.key_values_SE[depth],
        layers.offer_inputs_ABD[depth],
        layers.offer_key_values_ABE[depth],
    )


@inner
def slots_of(cache: KVCache, count: Integer, offers: Integer) -> tuple[Floats, Floats]:
    """Returns the inputs and the keys and values of the `count` newest tokens.

    Those are the items of the histories before anything was offered, else the latest offers.
    """
    if offers == 0:
        return cache.inputs_SD[:count], cache.key_values_SE[:count]
    return cache.offer_inputs_ABD[offers - 1, :count], cache.offer_key_values_ABE[
        offers - 1, :count
    ]


@inner
def set_token(token: Token, query: Integer, begin: Integer, end: Integer, offers: Integer) -> None:
    """Fills a record; see `TOKEN`."""
    token["query"], token["begin"], token["end"], token["offers"] = query, begin, end, offers


@inner
def affine(x_ND: Floats, weight_DE: Floats, bias_E: Floats, rows: Integer, out_NE: Floats) -> None:
    """Computes a linear layer; each matrix product takes this many rows (`gemm_chunking`)."""
    for first in range(0, len(x_ND), rows):
        np.dot(x_ND[first : first + rows], weight_DE, out_NE[first : first + rows])
    for token in range(len(out_NE)):
        add(out_NE[token], ONE, bias_E)


@inlined
def run_layer(
    weights: LayerWeights,
    cache: KVCache,
    workspace: Workspace,
    norm: Normalisation,
    rows: Integer,
    tokens_N: Tokens,
    x_ND: Floats,
    out_ND: Floats,
) -> None:
    """Computes a layer's outputs for some tokens, in chunks of `rows` tokens.

    The cache must hold the keys and values of all that they see.
    """
    count = len(x_ND)
    query_ND, attended_ND = workspace.query_ND[:count], workspace.attended_ND[:count]
    affine(x_ND, weights.query_DD, weights.query_bias_D, rows, query_ND)
    known_SE, offers_ABE = cache.key_values_SE, cache.offer_key_values_ABE
    attend(tokens_N, query_ND, known_SE, offers_ABE, weights.bias_HT, workspace.head, attended_ND)
    for first in range(0, count, rows):
        chunk = slice(first, first + rows)
        _run_chunk(
            weights,
            cache,
            workspace,
            norm,
            tokens_N[chunk],
            x_ND[chunk],
            attended_ND[chunk],
            out_ND[chunk],
        )


@inlined
def _run_chunk(
    weights: LayerWeights,
    cache: KVCache,
    workspace: Workspace,
    norm: Normalisation,
    tokens_N: Tokens,
    x_ND: Floats,
    attended_ND: Floats,
    out_ND: Floats,
) -> None:
    """Computes all that comes behind attention."""
    count, norms_4D = len(x_ND), weights.norms_4D
    mixed_ND, fed_NF = workspace.mixed_ND[:count], workspace.fed_NF[:count]
    affine(attended_ND, weights.out_DD, weights.out_bias_D, count, mixed_ND)
    for at in range(count):
        add(mixed_ND[at], ONE, x_ND[at])
        inputs_SD, offers_ABD = cache.inputs_SD, cache.offer_inputs_ABD
        _convolve(tokens_N[at], inputs_SD, offers_ABD, weights.local_CD, mixed_ND[at])
        normalise(mixed_ND[at], norms_4D[:2], norm)
    np.dot(mixed_ND, weights.up_DF, fed_NF)
    for at in range(count):
        gelu(fed_NF[at], weights.up_bias_F)
    affine(fed_NF, weights.down_FD, weights.down_bias_D, count, out_ND)
    for at in range(count):
        add(out_ND[at], ONE, mixed_ND[at])
        normalise(out_ND[at], norms_4D[2:], norm)


@inner
def _convolve(
    token: Token, inputs_SD: Floats, offers_ABD: Floats, local_CD: Floats, out_D: Floats
) -> None:
    """Adds the causal convolution over the token and those just before it."""
    query, begin, offers = token["query"], token["begin"], token["offers"]
    taps, known = len(local_CD), token["end"] - begin
    for back in range(min(taps, known + offers)):
        at = known + offers - 1 - back
        x_D = inputs_SD[begin + at] if at < known else offers_ABD[at - known, query]
        tap_D = local_CD[taps - 1 - back]
        for component in range(len(out_D)):
            out_D[component] += x_D[component] * tap_D[component]


@inner
def normalise(x_D: Floats, norm_2D: Floats, how: Normalisation) -> None:
    """Normalises a layer's output in place; `norm_2D` has scale and shift."""
    width = len(x_D) // how.groups
    for first in range(0, len(x_D), width):
        total = square = ZERO
        for at in range(first, first + width):
            total += x_D[at]
        mean = total / np.float32(width)
        for at in range(first, first + width):
            square += (x_D[at] - mean) * (x_D[at] - mean)
        factor = ONE / np.sqrt(square / np.float32(width) + np.float32(how.eps))
        for at in range(first, first + width):
            x_D[at] = (x_D[at] - mean) * factor * norm_2D[0, at] + norm_2D[1, at]


@inner
def length_of(x_D: Floats) -> Real:
    """Returns the length of a vector, at least MIN_LENGTH."""
    length: Real = max(np.sqrt(dot(x_D, x_D)), MIN_LENGTH)
    return length


@inner
def gelu(x_F: Floats, bias_F: Floats) -> None:
    """Replaces x by GELU of x + bias.

    The error function is evaluated by Horner's rule, with the coefficients that Eigen and XLA use
    for float32. The C library's `erf` takes one number per call, which cannot become a vector loop.
    """
    for at in range(len(x_F)):
        x = x_F[at] + bias_F[at]
        z = min(max(x * ROOT_HALF, -ERF_LIMIT), ERF_LIMIT)
        square = z * z
        above = ERF_NUMERATOR[0]
        for power in range(1, 7):
            above = above * square + ERF_NUMERATOR[power]
        below = ERF_DENOMINATOR[0]
        for power in range(1, 5):
            below = below * square + ERF_DENOMINATOR[power]
        x_F[at] = HALF * x * (ONE + z * above / below)
