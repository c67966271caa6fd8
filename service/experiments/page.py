"""The report of an experiment as one self-contained HTML page, without scripts and requests."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.reports.page import write_page
from service.experiments.analysis import ArmReport, Comparison, ExperimentReport

WIDTH, LABELS, MARGIN, ROW = 640.0, 170.0, 50.0, 30.0
"""Units of the drawing: its width, the part with the names, what is free at the right, a row."""


@dataclass(frozen=True)
class Bar:
    """An interval in the drawing."""

    name: str
    text: str
    y: float
    left: float
    middle: float
    right: float
    meaning: str
    """The difference is `better` or `worse` beyond chance, or neither: `unclear`."""


@dataclass(frozen=True)
class Forest:
    """The intervals of an arm's metrics, one below the other."""

    tone: str
    """The colour of the verdict: `good`, `bad`, or neither: `unclear`."""
    height: float
    zero: float
    bars: list[Bar]
    ticks: list[tuple[float, str]]


def write_experiment_page(report: ExperimentReport, out: Path) -> None:
    """Writes the page of a report to `out`."""
    template = Path(__file__).with_name("page.html")
    arms = [(arm, _forest_of(arm)) for arm in report.arms]
    write_page(template, out, report=report, arms=arms, width=WIDTH)


def forest(comparisons: Sequence[Comparison], guardrails: int = 0) -> Forest:
    """Returns the drawing of relative differences with their intervals.

    The last ones may be guardrails, of which more is worse.
    """
    ends = [abs(end) for one in comparisons for end in (one.lower, one.upper)]
    reach = max((end for end in ends if math.isfinite(end)), default=0.0) or 1.0

    def x(value: float) -> float:
        share = value / reach if math.isfinite(value) else 0.0  # there is no interval
        return LABELS + (WIDTH - LABELS - MARGIN) * (share + 1) / 2

    bars = [
        Bar(
            name=one.metric,
            text=f"{one.relative:+.1%} [{one.lower:+.1%}, {one.upper:+.1%}]",
            y=ROW * (position + 0.5),
            left=x(one.lower),
            middle=x(one.relative),
            right=x(one.upper),
            meaning=_meaning(one, position >= len(comparisons) - guardrails),
        )
        for position, one in enumerate(comparisons)
    ]
    ticks = [(x(-reach), f"{-reach:+.1%}"), (x(0), "no difference"), (x(reach), f"{reach:+.1%}")]
    return Forest(_tone(bars, guardrails), ROW * len(bars), x(0), bars, ticks)


def _forest_of(arm: ArmReport) -> Forest:
    return forest([arm.primary, *arm.secondary, *arm.guardrails], len(arm.guardrails))


def _tone(bars: Sequence[Bar], guardrails: int) -> str:
    """Returns the colour of a verdict: the first bar decides, and a guardrail may break."""
    broken = any(bar.meaning == "worse" for bar in bars[len(bars) - guardrails :])
    if bars[0].meaning == "better":
        return "bad" if broken else "good"
    return "bad" if bars[0].meaning == "worse" else "unclear"


def _meaning(one: Comparison, more_is_worse: bool) -> str:
    if not (one.lower > 0 or one.upper < 0):
        return "unclear"
    return "worse" if (one.lower > 0) == more_is_worse else "better"
