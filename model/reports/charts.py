"""Line charts as coordinates, which the report's template draws as inline SVG.

Unlike a picture, an inline SVG follows the colours of the page: light, dark or print.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 420.0, 250.0  # of the drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 52.0, 408.0, 12.0, 208.0  # of the plot within the drawing


@dataclass(frozen=True)
class Line:
    """One line of a chart: its name, its (x, y) points in order, the x of a marked point."""

    name: str
    points: Sequence[tuple[float, float]]
    marked: float | None = None


@dataclass(frozen=True)
class Tick:
    """A value on an axis: its place in the drawing, and its text."""

    at: float
    label: str


@dataclass(frozen=True)
class Drawn:
    """A line in the drawing's units; `tips` are texts with the values of its points."""

    name: str
    points: list[tuple[float, float]]
    tips: list[str]
    marked: tuple[float, float] | None

    @property
    def path(self) -> str:
        """The points in the form of SVG."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


@dataclass(frozen=True)
class Chart:
    """All that the template needs to draw one chart."""

    title: str
    x_label: str
    lines: list[Drawn]
    x_ticks: list[Tick]
    y_ticks: list[Tick]


def chart(
    title: str,
    x_label: str,
    lines: Sequence[Line],
    x_at: Sequence[float] = (),
    from_zero: bool = False,
) -> Chart | None:
    """Lays out a chart; None if no line has two points. `x_at` places the ticks of the x axis."""
    lines = [line for line in lines if len(line.points) > 1]
    if not lines:
        return None
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    x_low, x_high = min(xs), max(xs)
    y_values = MaxNLocator(nbins=5).tick_values(0 if from_zero else min(ys), max(ys))
    x_values = x_at or [
        value
        for value in MaxNLocator(nbins=7, integer=True).tick_values(x_low, x_high)
        if x_low <= value <= x_high
    ]
    y_low, y_high = y_values[0], y_values[-1]

    def across(x: float) -> float:
        return LEFT + (RIGHT - LEFT) * (x - x_low) / ((x_high - x_low) or 1)

    def down(y: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (y - y_low) / ((y_high - y_low) or 1)

    def drawn(line: Line) -> Drawn:
        return Drawn(
            name=line.name,
            points=[(across(x), down(y)) for x, y in line.points],
            tips=[f"{line.name}, {x_label} {x:g}: {y:.4f}" for x, y in line.points],
            marked=next(((across(x), down(y)) for x, y in line.points if x == line.marked), None),
        )

    return Chart(
        title=title,
        x_label=x_label,
        lines=[drawn(line) for line in lines],
        x_ticks=[Tick(across(x), f"{x:g}") for x in x_values],
        y_ticks=[Tick(down(y), f"{y:g}") for y in y_values],
    )
