"""Text with quoted fields → a Parquet copy with bare fields, one row a record.

Strict, and a quote that never closes costs its own line only: what it would have swallowed is read
again. If it closes at another stray quote, nothing but the look of the swallowed lines tells: such
records are read as the format says, and a warning names the first of them.

In TSV a line that has the right number of fields as it stands is taken so, and the quotes around
whole fields are undone: many files have plain quotes in titles, and few have tabs in quoted fields.
Only a quote that stays open in the last field may take in further lines, if none of them is a row.
"""

import csv
import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import polars as pl

log = logging.getLogger(__name__)

FIELD_LIMIT = 1 << 20
"""Characters of a quoted field."""
BATCH = 50_000
"""Records that are held in memory before they are written."""
LINES = 10_000
"""Lines that are read at a time."""
EXAMPLE = 100
"""Characters of a row that are kept to show it if it is malformed."""
NOT_UTF_8 = "not UTF-8, or U+FFFD in place of what was not"


Record = tuple[int, str | None, str, list[str]]
"""Number of the first line (from 1), problem (None: usable), text, fields.

A malformed record has its first line as text, or its fields joined."""


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
    doubtful: list[int] = []
    limit = csv.field_size_limit(FIELD_LIMIT)
    with path.open(encoding="utf-8-sig", errors="replace", newline="\n") as source:
        records = read_records(source, separator, width)
        next(records, None)  # the header
        while True:
            # One flat list: rows are objects that the garbage collector looks through repeatedly.
            flat: list[str | int | None] = []
            for line, problem, text, fields in islice(records, BATCH):
                flat += (line, problem, text[:EXAMPLE], *(nothing if problem else fields))
                if "\n" in text and all(_look_like_rows(text, separator, width)):
                    doubtful.append(line)
            if not flat and files:
                break
            columns = {name: flat[at :: len(schema)] for at, name in enumerate(schema)}
            files.append(scratch / f"unquoted-{len(files):06}.parquet")
            pl.DataFrame(columns, schema=schema).write_parquet(files[-1], compression="lz4")
    csv.field_size_limit(limit)
    if doubtful:
        log.warning(
            "%s:%d: a quoted field goes on over lines that look like rows, which are read as its "
            "text: is a quote missing, or one too many? Records of this look: %d",
            path,
            doubtful[0],
            len(doubtful),
        )
    return files


def read_records(source: Iterator[str], separator: str, width: int) -> Iterator[Record]:
    """Yields all records of the lines, the header among them."""
    lines = _Lines(source)
    reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=separator == ",")
    while (first := lines.first()) is not None:
        problem = None
        fields = first.rstrip("\r\n").split(separator)
        as_it_stands = separator == "\t" and len(fields) == width
        if '"' in first and as_it_stands and not _stays_open(fields[-1]):
            fields = [_bare(field) for field in fields]
        elif '"' in first:
            lines.give_back(0)
            try:
                read = next(reader)
                if lines.taken > 1 and _mismatched(read, separator, width, as_it_stands):
                    problem = "quotes that do not match"
            except csv.Error as error:
                problem = _reason(str(error))
            if not problem:
                fields = read
            else:
                lines.give_back(1)
                fields = [_bare(f) for f in fields] if as_it_stands else [first.rstrip("\r\n")]
                problem = None if as_it_stands else problem
        text = separator.join(fields)
        if problem is None and (len(fields) != width or not text or "\ufffd" in text):
            problem = _problem(fields, text, width)
        yield lines.number, problem, text, fields


def _stays_open(field: str) -> bool:
    """Returns whether the field begins with a quote that does not end in it."""
    return field.startswith('"') and field.count('"') % 2 == 1


def _mismatched(fields: list[str], separator: str, width: int, as_it_stands: bool) -> bool:
    """Returns whether a record takes in several lines because of stray quotes.

    `as_it_stands`: its first line would be a row of TSV on its own.
    """
    if len(fields) != width:
        return True
    _, *further = _look_like_rows(separator.join(fields), separator, width)
    return as_it_stands and any(further)


def _look_like_rows(text: str, separator: str, width: int) -> list[bool]:
    """Returns of each line whether it has as many fields as a row."""
    return [line.count(separator) == width - 1 for line in text.split("\n")]


def _reason(error: str) -> str:
    """Returns the reason that the reader gives, in words of ours."""
    if "field limit" in error:
        return (
            f"a quoted field longer than {FIELD_LIMIT:,} characters, or a quote that never closes"
        )
    if "new-line" in error:
        return "a carriage return within the line"
    return "quotes that do not match"


def _problem(fields: list[str], text: str, width: int) -> str | None:
    if not text.strip():
        return "blank line"
    if "\ufffd" in text:
        return NOT_UTF_8
    if len(fields) != width:
        return "too few fields" if len(fields) < width else "too many fields"
    return None


def _bare(field: str) -> str:
    """Returns the field without the quotes around it, and quotes within it no longer doubled."""
    inner = field[1:-1]
    whole = len(field) > 1 and field[0] == field[-1] == '"'
    if not whole or '"' in inner.replace('""', ""):
        return field
    return inner.replace('""', '"')


class _Lines(Iterator[str]):
    """Lines that can be given back: a quote that never closes must not swallow what follows it."""

    def __init__(self, source: Iterator[str]) -> None:
        self._source = source
        self._lines: list[str] = []
        self._at = self._start = 0
        self._dropped = 0

    @property
    def number(self) -> int:
        """The number of the record's first line, from 1."""
        return self._dropped + self._start + 1

    @property
    def taken(self) -> int:
        """The number of lines that the record has taken."""
        return self._at - self._start

    def __next__(self) -> str:
        if self._at == len(self._lines):
            self._lines += islice(self._source, LINES)
        try:
            line = self._lines[self._at]
        except IndexError:
            raise StopIteration from None
        self._at += 1
        return line

    def first(self) -> str | None:
        """Takes the first line of a new record; returns None at the end."""
        if self._at > LINES:
            del self._lines[: self._at]
            self._dropped += self._at
            self._at = 0
        self._start = self._at
        return next(self, None)

    def give_back(self, kept: int) -> None:
        """Keeps that number of the record's lines; the others are read again."""
        self._at = self._start + kept
