"""Arithmetic on single vectors.

Shapes: N any length, D width.
"""

import numpy as np

from index.kernels.jit import Real, inner
from index.kernels.topk import dot
from service.recall.types import Floats

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


@inner
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


@inner
def length_of(x_D: Floats) -> Real:
    """Of a vector; never quite 0."""
    length: Real = max(np.sqrt(dot(x_D, x_D)), SHORTEST)
    return length


@inner
def add(sum_N: Floats, factor: Real, x_N: Floats) -> None:
    """So many times the one to the other."""
    for at in range(len(sum_N)):
        sum_N[at] += factor * x_N[at]


@inner
def gelu(x_N: Floats, bias_N: Floats) -> None:
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
