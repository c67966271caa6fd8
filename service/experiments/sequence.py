"""Confidence intervals that hold at every look at an experiment, however often one looks.

An interval of a fixed horizon errs in 5 % of the experiments if one looks once, and far more often
if one stops as soon as it excludes zero. A confidence sequence covers the truth at all times at
once with the probability 1 - alpha. It is wider, most of all before the planned end.

The sequence is that of a normal mixture (Robbins 1970; in its asymptotic form Waudby-Smith, Arbour,
Sinha, Kennedy and Ramdas, 2021). With the standard error s of an estimate, v = 1 / s² is the
information, and the half-width is

    sqrt((v + t) / v² · ln((v + t) / (t · alpha²)))

The weight t of the mixture sets the information at which the sequence is narrowest.
"""

import math


def half_width(standard_error: float, planned_standard_error: float, alpha: float = 0.05) -> float:
    """Returns half of the width of the interval at a look.

    `planned_standard_error` is that of the planned end, at which the sequence is narrowest; it must
    not depend on the data that have been seen.
    """
    information, planned = standard_error**-2, planned_standard_error**-2
    weight = planned / _best_ratio(alpha)
    total = information + weight
    return math.sqrt(total * math.log(total / (weight * alpha**2))) / information


def _best_ratio(alpha: float) -> float:
    """Returns the ratio of information to weight at which the sequence is narrowest.

    To first order it is the solution of r = ln(1 + r) - 2 ln(alpha), found by iteration.
    """
    ratio = 1.0
    for _ in range(50):
        ratio = math.log1p(ratio) - 2 * math.log(alpha)
    return ratio
