"""The report of an experiment as one self-contained HTML page, without scripts and requests."""

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
    reach = max(abs(end) for one in comparisons for end in (one.lower, one.upper)) or 1.0

    def x(value: float) -> float:
        return LABELS + (WIDTH - LABELS - MARGIN) * (value / reach + 1) / 2

    bars = [
        Bar(
            name=one.metric,
            text=f"{one.relative:+.2%} [{one.lower:+.2%}, {one.upper:+.2%}]",
            y=ROW * (position + 0.5),
            left=x(one.lower),
            middle=x(one.relative),
            right=x(one.upper),
            meaning=_meaning(one, position >= len(comparisons) - guardrails),
        )
        for position, one in enumerate(comparisons)
    ]
    ticks = [(x(value), f"{value:+.1%}") for value in (-reach, 0.0, reach)]
    return Forest(ROW * len(bars), x(0), bars, ticks)


def _forest_of(arm: ArmReport) -> Forest:
    return forest([arm.primary, *arm.secondary, *arm.guardrails], len(arm.guardrails))


def _meaning(one: Comparison, more_is_worse: bool) -> str:
    if one.lower <= 0 <= one.upper:
        return "unclear"
    return "worse" if (one.lower > 0) == more_is_worse else "better"
