"""The report of an experiment as one self-contained HTML page, without scripts and requests."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from model.files import new_file
from service.experiments.analysis import ArmReport, Comparison, ExperimentReport

WIDTH, LABELS, ROW = 640.0, 190.0, 30.0
"""Units of the drawing: its width, the part with the names, the height of a row."""


@dataclass(frozen=True)
class Bar:
    """An interval in the drawing."""

    name: str
    text: str
    y: float
    left: float
    middle: float
    right: float
    side: str
    """The interval lies `above` or `below` zero, or zero is `inside`."""


@dataclass(frozen=True)
class Forest:
    """The intervals of an arm's metrics, one below the other."""

    height: float
    zero: float
    bars: list[Bar]
    ticks: list[tuple[float, str]]


def write_page(report: ExperimentReport, out: Path) -> None:
    """Writes the page of a report to `out`."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    arms = [(arm, forest(_comparisons(arm))) for arm in report.arms]
    page = environment.get_template("page.html").render(report=report, arms=arms, width=WIDTH)
    with new_file(out) as beside:
        beside.write_text(page, encoding="utf-8")


def forest(comparisons: Sequence[Comparison]) -> Forest:
    """Returns the drawing of relative differences with their intervals."""
    reach = max(abs(end) for one in comparisons for end in (one.lower, one.upper)) or 1.0

    def x(value: float) -> float:
        return LABELS + (WIDTH - LABELS - 20) * (value / reach + 1) / 2

    bars = [
        Bar(
            name=one.metric,
            text=f"{one.relative:+.2%} [{one.lower:+.2%}, {one.upper:+.2%}]",
            y=ROW * (position + 0.5),
            left=x(one.lower),
            middle=x(one.relative),
            right=x(one.upper),
            side="above" if one.lower > 0 else "below" if one.upper < 0 else "inside",
        )
        for position, one in enumerate(comparisons)
    ]
    ticks = [(x(value), f"{value:+.1%}") for value in (-reach, 0.0, reach)]
    return Forest(ROW * len(bars), x(0), bars, ticks)


def _comparisons(arm: ArmReport) -> list[Comparison]:
    return [arm.primary, *arm.secondary, *arm.guardrails]
