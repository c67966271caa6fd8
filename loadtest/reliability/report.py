"""The report: what was measured, beside what has to hold."""

from collections.abc import Sequence
from typing import Any, NamedTuple

Figures = dict[str, Any]


class Bar(NamedTuple):
    """A figure, and the bar that it has to reach."""

    name: str
    value: str
    bar: str
    holds: bool


def table(about: Figures, title: str, bars: Sequence[Bar]) -> str:
    """Returns a section of the page: how it was measured, and the figures beside their bars."""
    words = f"{about['machine']}; Python {about['python']}; {about['date']}; "
    words += f"commit {about['commit']}. {about['seconds']:g} s a load."
    lines = [f"### {title}", "", f"`{about['command']}`", "", words, ""]
    lines += ["| | measured | bar |", "|---|---|---|"]
    lines += [
        f"| {one.name} | {one.value} | {one.bar if one.holds else f'{one.bar}: **missed**'} |"
        for one in bars
    ]
    return "\n".join(lines)
