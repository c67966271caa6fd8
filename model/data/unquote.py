"""Text with quoted fields → a Parquet copy with bare fields, one row a record.

Strict, and a quote that never closes costs its own line only: what it would have swallowed is read
again. In TSV a line that has the right number of fields as it stands is taken so, and the quotes
around whole fields are undone: many files have plain quotes in titles, and few have tabs or line
breaks in quoted fields.
"""

import csv
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import polars as pl

FIELD_LIMIT = 1 << 20
"""Characters of a quoted field."""
BATCH = 50_000
"""Records that are held in memory before they are written."""
EXAMPLE = 100
"""Characters of a row that are kept to show it if it is malformed."""
NOT_UTF_8 = "not UTF-8, or U+FFFD in place of what was not"


class Record(NamedTuple):
    """One record of a file."""

    line: int
    """Number of its first line, from 1."""
    problem: str | None
    """The reason why it can't be used."""
    fields: list[str]
    """As many as there are columns; of a malformed record, its first line or its fields."""


def has_quotes(path: Path) -> bool:
    """Returns whether the file has a quote anywhere; most logs have none and need no copy."""
    with path.open("rb") as file:
        return any(b'"' in chunk for chunk in iter(lambda: file.read(1 << 20), b""))


def read_header(path: Path, separator: str) -> list[str]:
    """Returns the fields of the first record; none for an empty file."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="\n") as source:
        first = source.readline().rstrip("\r\n")
        if '"' not in first:
            return first.split(separator) if first else []
        source.seek(0)
        try:
            return next(csv.reader(source, delimiter=separator, skipinitialspace=True))
        except csv.Error:
            return first.split(separator)


def unquote(path: Path, separator: str, width: int, scratch: Path) -> list[Path]:
    """Writes the records behind the header to Parquet files in `scratch`; returns the files.

    Their columns: line, problem, text (the beginning of the record), and the fields "0", "1", …
    """
    names = [str(at) for at in range(width)]
    schema = {"line": pl.UInt32, "problem": pl.String, "text": pl.String}
    schema |= dict.fromkeys(names, pl.String)
    nothing = [None] * width
    files: list[Path] = []
    limit = csv.field_size_limit(FIELD_LIMIT)
    with path.open(encoding="utf-8-sig", errors="replace", newline="\n") as source:
        records = read_records(source, separator, width)
        next(records, None)  # the header
        while (batch := list(islice(records, BATCH))) or not files:
            rows = [
                (line, problem, separator.join(fields)[:EXAMPLE], *(nothing if problem else fields))
                for line, problem, fields in batch
            ]
            columns = zip(*rows, strict=True) if rows else [[]] * len(schema)
            table = pl.DataFrame(dict(zip(schema, columns, strict=True)), schema=schema)
            files.append(scratch / f"unquoted-{len(files):06}.parquet")
            table.write_parquet(files[-1], compression="lz4")
    csv.field_size_limit(limit)
    return files


def read_records(source: Iterator[str], separator: str, width: int) -> Iterator[Record]:
    """Yields all records of the lines, the header among them."""
    lines = _Lines(source)
    reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=separator == ",")
    while (first := lines.start_record()) is not None:
        number = lines.number
        plain = first.rstrip("\r\n").split(separator)
        if '"' not in first:
            next(lines)
            fields, problem = plain, None
        elif separator == "\t" and len(plain) == width:
            next(lines)
            fields, problem = [_bare(field) for field in plain], None
        else:
            fields, problem = _quoted(lines, reader, plain, width)
        yield Record(number, problem or _problem(fields, separator, width), fields)


def _quoted(
    lines: "_Lines", reader: Iterator[list[str]], plain: list[str], width: int
) -> tuple[list[str], str | None]:
    """Returns the fields of a record with quotes, or its first line and what is wrong with it."""
    try:
        fields = next(reader)
    except csv.Error as error:
        lines.give_back()
        return plain, _reason(str(error))
    if len(fields) != width and lines.give_back():
        return plain, "quotes that do not match"
    return fields, None


def _reason(error: str) -> str:
    """Returns what is wrong in words of ours."""
    if "field limit" in error:
        return (
            f"a quoted field longer than {FIELD_LIMIT:,} characters, or a quote that never closes"
        )
    if "new-line" in error:
        return "a carriage return within the line"
    return "quotes that do not match"


def _problem(fields: list[str], separator: str, width: int) -> str | None:
    text = separator.join(fields)
    if not text.strip():
        return "blank line"
    if "\ufffd" in text:
        return NOT_UTF_8
    if len(fields) != width:
        return "too few fields" if len(fields) < width else "too many fields"
    return None


def _bare(field: str) -> str:
    """Returns the field without the quotes around it, and quotes within it that are doubled."""
    inner = field[1:-1]
    whole = len(field) > 1 and field[0] == field[-1] == '"'
    if not whole or '"' in inner.replace('""', ""):
        return field
    return inner.replace('""', '"')


class _Lines(Iterator[str]):
    """Lines that can be given back: a quote that never closes must not swallow what follows it."""

    def __init__(self, source: Iterator[str]) -> None:
        self._source = source
        self._taken: list[str] = []
        self._waiting: deque[str] = deque()
        self.number = 1
        """The number of the line that the record starts with."""

    def __next__(self) -> str:
        self._taken.append(self._waiting.popleft() if self._waiting else next(self._source))
        return self._taken[-1]

    def start_record(self) -> str | None:
        """Returns the line that comes next, without taking it; None at the end."""
        self.number += len(self._taken)
        self._taken.clear()
        if not self._waiting:
            line = next(self._source, None)
            if line is None:
                return None
            self._waiting.append(line)
        return self._waiting[0]

    def give_back(self) -> bool:
        """Keeps the first line of the record; the others, if there are any, are read again."""
        first, *others = self._taken
        self._waiting.extendleft(reversed(others))
        self._taken = [first]
        return bool(others)
