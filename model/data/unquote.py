"""CSV with quoted fields → a copy without quotes, one record a line, numbered as in the original.

Strict, and a quote that never closes costs its own line only: what it would have swallowed is read
again.
"""

import csv
from collections import deque
from collections.abc import Iterator
from pathlib import Path

UNIT = "\x1f"
"""Between the fields of the copy: ASCII's own unit separator."""
RECORD = "\x1e"
"""In the copy, a line break within a field."""


def has_quotes(path: Path) -> bool:
    """Whether the file has a quote at all; most logs have none and need no copy."""
    with path.open("rb") as file:
        return any(b'"' in chunk for chunk in iter(lambda: file.read(1 << 20), b""))


def unquote(path: Path, copy: Path) -> None:
    """Write one line a record: its line number (negative: broken quotes) and its bare fields."""
    with (
        path.open(encoding="utf-8-sig", errors="replace", newline="") as source,
        copy.open("w", encoding="utf-8", newline="\n") as target,
    ):
        lines = _Lines(source)
        reader = csv.reader(lines, strict=True)
        while True:
            number = lines.start_record()
            try:
                fields = next(reader) or [""]
            except StopIteration:
                return
            except csv.Error:
                number, fields = -number, [lines.give_back().rstrip("\r\n")]
            record = UNIT.join((str(number), *fields))
            target.write(record.replace("\r\n", "\n").replace("\n", RECORD) + "\n")


class _Lines(Iterator[str]):
    """Lines that can be given back: a quote that never closes must not swallow what follows it."""

    def __init__(self, source: Iterator[str]) -> None:
        self._source = source
        self._taken: list[str] = []
        self._waiting: deque[str] = deque()
        self._before = 0

    def __next__(self) -> str:
        self._taken.append(self._waiting.popleft() if self._waiting else next(self._source))
        return self._taken[-1]

    def start_record(self) -> int:
        """The number, from 1, of the line that comes next."""
        self._before += len(self._taken)
        self._taken.clear()
        return self._before + 1

    def give_back(self) -> str:
        """Return the first line of the record; the others will be read again."""
        first, *others = self._taken
        self._waiting.extendleft(reversed(others))
        self._taken = [first]
        return first
