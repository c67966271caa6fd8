"""The report: what was measured, beside what has to hold."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Figures = dict[str, Any]


class Bar(NamedTuple):
    """A figure, and the bar that it has to reach."""

    name: str
    value: str
    bar: str
    holds: bool


def table(about: Figures, parts: Mapping[str, Sequence[Bar]]) -> str:
    """Returns the part of the page that a run replaces."""
    lines = [
        f"`{about['command']}`",
        "",
        f"{about['machine']}; Python {about['python']}; {about['date']}; commit {about['commit']}. "
        f"{about['seconds']:g} s a load.",
    ]
    for title, bars in parts.items():
        lines += ["", f"### {title}", "", "| | measured | bar |", "|---|---|---|"]
        lines += [
            f"| {one.name} | {one.value} | {one.bar if one.holds else f'{one.bar}: **missed**'} |"
            for one in bars
        ]
    return "\n".join(lines)
