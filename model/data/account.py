"""An account of the rows that were read: every row that can't be used is counted and shown."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl
from pydantic import BaseModel

EXAMPLES = 5
"""Malformed rows shown for each reason."""


class Malformed(BaseModel, frozen=True):
    """Rows left out for one reason."""

    count: int
    examples: list[str]
    """`file:line: content` of the first of them; content cut to 100 characters."""


@dataclass
class Account:
    """The number of rows seen so far, and the malformed ones by reason."""

    rows: int = 0
    malformed: dict[str, Malformed] = field(default_factory=dict)

    @property
    def usable(self) -> int:
        """The number of rows that are not malformed."""
        return self.rows - sum(bad.count for bad in self.malformed.values())

    def add(self, name: str, rows: pl.LazyFrame) -> None:
        """Counts the rows of the file `name`: problem (null: well-formed), line, text."""
        found = rows.group_by("problem").len().collect(engine="streaming")
        self.rows += int(found["len"].sum())
        for reason, count in sorted(found.drop_nulls().rows()):
            before = self.malformed.get(reason, Malformed(count=0, examples=[]))
            wanted = EXAMPLES - len(before.examples)
            shown = rows.filter(pl.col("problem") == reason).select("line", "text").head(wanted)
            examples = [f"{name}:{line}: {text}" for line, text in shown.collect().rows()]
            self.malformed[reason] = Malformed(
                count=before.count + count, examples=before.examples + examples
            )


def count_lines(malformed: Mapping[str, Malformed]) -> dict[str, int]:
    """Returns the lines of a table of figures: a label and the number of rows for each reason."""
    return {f"  left out: {reason}": bad.count for reason, bad in malformed.items()}


def example_lines(malformed: Mapping[str, Malformed], what: str = "malformed") -> list[str]:
    """Returns a line for each reason, and below it the examples."""
    lines = []
    for reason, bad in malformed.items():
        lines += [f"{what}, {reason}:", *(f"  {example}" for example in bad.examples)]
    return lines
