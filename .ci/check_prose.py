"""Check the rules of prose in CONTRIBUTING.md that a program can check.

    .ci/check_prose.py            print each line that breaks a rule; exit with 1 if there is one
    .ci/check_prose.py --counts   print how many lines break each rule

Prose is every comment and docstring of a Python file, every Markdown file outside of its code, and
every line of the files that configure or deploy. Paths beside the checkout are searched in code.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
CONFIGURATION = {".cff", ".cfg", ".toml", ".yaml", ".yml", ""}

HEADLESS = "docstring without a head"
RULES = {
    HEADLESS: re.compile(r"(?:What|Whatever|Whoever|So many|How many|How much|Of|Where)\b"),
    "translated phrase": re.compile(r"\b(?:how-manieth|so many|so much as|at the most)\b", re.I),
    "decimal without a zero": re.compile(r"(?<![\w.\]/])\.\d+\b"),
}
BESIDE_THE_CHECKOUT = re.compile(r"\.\./shared|/ .shared.")


class Line(NamedTuple):
    """One line of prose and where it stands; `opens` on the first line of a docstring."""

    file: str
    number: int
    text: str
    opens: bool = False


def python_prose(file: str, source: str) -> Iterator[Line]:
    """The comments and docstrings of a module, those of attributes included."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Line(file, token.start[0], token.string)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            if not isinstance(node.value.value, str):
                continue
            for offset, text in enumerate(node.value.value.splitlines()):
                yield Line(file, node.lineno + offset, text, opens=offset == 0)


def markdown_prose(file: str, source: str) -> Iterator[Line]:
    """The lines of a Markdown file without fenced blocks, inline code and the targets of links."""
    fenced = False
    for number, text in enumerate(source.splitlines(), 1):
        if text.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield Line(file, number, re.sub(r"\]\([^)]*\)", "]", text))


def prose(file: str, source: str) -> Iterator[Line]:
    """The prose of one file; none for a file that holds data."""
    suffix = Path(file).suffix
    if suffix == ".py":
        yield from python_prose(file, source)
    elif suffix == ".md":
        yield from markdown_prose(file, source)
    elif suffix in CONFIGURATION:
        yield from (Line(file, n, text) for n, text in enumerate(source.splitlines(), 1))


def broken(line: Line) -> Iterator[str]:
    """The names of the rules that a line breaks. Inline code is exempt."""
    text = re.sub(r"`[^`]*`", "`code`", line.text)
    for rule, pattern in RULES.items():
        if rule == HEADLESS:
            if line.opens and pattern.match(text.strip()):
                yield rule
        elif pattern.search(text):
            yield rule


def findings() -> Iterator[tuple[str, Line]]:
    """Each broken rule of each tracked text file, with the line that breaks it."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    for file in listed:
        path = ROOT / file
        if not path.is_file() or path.name in ("LICENSE", Path(__file__).name):
            continue
        try:
            source = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture
        for number, text in enumerate(source.splitlines(), 1):
            if BESIDE_THE_CHECKOUT.search(text):
                yield "path beside the checkout", Line(file, number, text)
        for line in prose(file, source):
            yield from ((rule, line) for rule in broken(line))


def main() -> int:
    """Prints the findings or their counts; returns the exit code."""
    found = list(findings())
    if sys.argv[1:] == ["--counts"]:
        counts = Counter(rule for rule, _ in found)
        for rule in (*RULES, "path beside the checkout"):
            print(f"{counts[rule]:5d}  {rule}")
        return 0
    for rule, line in found:
        print(f"{line.file}:{line.number}: {rule}: {line.text.strip()}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
