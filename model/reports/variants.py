"""Variants of a recall on the same cases, each against one of them.

Shapes: N cases.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.data.dataset import IntArray
from model.evaluation.bootstrap import paired_difference

CaseValues = Mapping[str, NDArray[np.float64]]
"""The figures of every case by metric: N each."""


def compare_variants(
    figures: Mapping[str, CaseValues], base: str, users_N: IntArray
) -> dict[str, Any]:
    """Returns {"cases", "variants": {name: {metric: {"value", "relative", "low", "high"}}}}.

    Differences are to the variant `base`, relative to it, with 95 % intervals; it has none itself,
    and there are none to a figure of zero.
    """
    if not len(users_N):
        return {"cases": 0, "variants": {}}
    rows: dict[str, Any] = {}
    for name, found in figures.items():
        rows[name] = {metric: {"value": float(found_N.mean())} for metric, found_N in found.items()}
        if name == base:
            continue
        for metric, found_N in found.items():
            base_N = figures[base][metric]
            if base_N.any():
                rows[name][metric] |= paired_difference(found_N, base_N, users_N)._asdict()
    return {"cases": len(users_N), "variants": rows}


def format_variants(found: dict[str, Any]) -> str:
    """Returns tables as text: for each group of cases a line per variant."""
    lines = []
    for group, measured in found.items():
        lines.append(f"{measured['cases']:,} test cases ({group}); difference [95 % interval]")
        for name, figures in measured["variants"].items():
            parts = [f"{metric} {_as_text(row)}" for metric, row in figures.items()]
            lines.append(f"  {name:<32}" + "  ".join(parts))
    return "\n".join(lines)


def _as_text(row: dict[str, float]) -> str:
    if "relative" not in row:
        return f"{row['value']:.4f}"
    return f"{row['value']:.4f} ({row['relative']:+.1%} [{row['low']:+.1%}, {row['high']:+.1%}])"
