"""The output of the benchmarks: progress on standard error, tables in the pages of docs/results."""

import sys
from pathlib import Path

from model.files import new_file


def say(text: str) -> None:
    """Prints progress to standard error."""
    print(text, file=sys.stderr, flush=True)


def number(value: float) -> str:
    """Returns a number with about three digits, and thousands apart: 0.0125, 6.53, 17,330."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def put_between_marks(file: Path, mark: str, text: str) -> None:
    """Replaces the text between the marks of that name, or appends it with marks to the file."""
    begin, end = f"<!-- begin: {mark} -->", f"<!-- end: {mark} -->"
    old = file.read_text(encoding="utf-8") if file.exists() else ""
    block = f"{begin}\n{text}\n{end}"
    if begin in old and end in old:
        before, after = old[: old.index(begin)], old[old.index(end) + len(end) :]
    else:
        before, after = f"{old.rstrip()}\n\n".lstrip(), "\n"
    with new_file(file) as beside:
        beside.write_text(before + block + after, encoding="utf-8")
