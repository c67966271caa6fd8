"""Long runs of the fuzzers, and of `kill -9`: how many cases there were, and that nothing broke.

    python -m loadtest.reliability.counts --out docs/results requests bundles logs
    python -m loadtest.reliability.counts --out docs/results training --times 50

A fuzzer is a test that is given many more examples, and says how many cases it has tried. A part
that finds something ends this program with 1, and is not recorded. The record keeps the other parts
of earlier runs, each with its commit; without any part the table is written anew.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from loadtest.environment import environment
from loadtest.reliability import crash
from loadtest.results import put_between_marks, say
from model.files import write_json


class Fuzzer(NamedTuple):
    """A test that tries as many examples as it is told."""

    title: str
    file: str
    examples: int  # for each operation of the API, or for each way of damage
    bar: int  # cases in all
    shown: str


FUZZERS = {
    "requests": Fuzzer(
        "requests made from the OpenAPI document",
        "tests/service/http/test_openapi_fuzz.py",
        500,
        5000,
        "no 5xx, every answer as documented",
    ),
    "bundles": Fuzzer(
        "damaged bundles",
        "tests/model/artifact/test_bundle_fuzz.py",
        1700,
        10_000,
        "each refused by name or loaded as exported",
    ),
    "logs": Fuzzer(
        "damaged logs",
        "tests/model/data/test_ingestion_fuzz.py",
        1700,
        10_000,
        "each prepared or refused in words",
    ),
}
MIN_KILLS = 50
KILLED_TOGETHER = (
    ("training", "export", "service"),
    ("publish", "prune", "refresh", "events", "swap"),
)
"""Parts that have this many kills together."""


def main() -> None:
    """Runs the parts one after another, and writes counts.json and the table of the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(titles())}")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--times", type=int, default=20, help="kills of each kind")
    parser.add_argument("--examples", type=int, help="examples of each kind that a fuzzer tries")
    options = parser.parse_args()
    if unknown := sorted(set(options.parts) - titles().keys()):
        parser.error(f"no part is named {unknown[0]}; there are {', '.join(titles())}")
    options.out.mkdir(parents=True, exist_ok=True)
    record = options.out / "counts.json"
    figures = json.loads(record.read_text()) if record.exists() else {}
    for part in options.parts:
        say(f"part {part}")
        started = time.monotonic()
        if part in FUZZERS:
            found = fuzz(FUZZERS[part], options.examples or FUZZERS[part].examples)
        else:
            found = kill(part, options.times)
        figures[part] = found | {"seconds": round(time.monotonic() - started)} | environment()
        write_json(record, figures)
    text = table(figures)
    print(text)
    put_between_marks(options.out / "reliability.md", "counts", text)


def titles() -> dict[str, str]:
    """Returns what each part is called on the page."""
    kills = {part: f"`kill -9`, {part}" for part in crash.PARTS}
    return {part: one.title for part, one in FUZZERS.items()} | kills


def fuzz(fuzzer: Fuzzer, examples: int) -> dict[str, Any]:
    """Runs the tests of a file, and returns the number of cases. Exits if a test fails."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", fuzzer.file, f"--junitxml={report}"]
        done = subprocess.run(
            [*command, "-o", "junit_family=xunit1"],
            env=os.environ | {"RECGPT_FUZZ_EXAMPLES": str(examples)},
            stdout=sys.stderr,
            check=False,
        )
        if done.returncode:
            raise SystemExit(1)
        return {"cases": count_cases(report), "shown": fuzzer.shown}


def count_cases(report: Path) -> int:
    """Returns the sum of the cases that the tests of a JUnit report have recorded."""
    found = ElementTree.parse(report).iterfind(".//property[@name='cases']")
    return sum(int(one.attrib["value"]) for one in found)


def kill(part: str, times: int) -> dict[str, Any]:
    """Kills as `loadtest.reliability.crash` does, and returns what that has shown."""
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        crash.prepare(Path(folder), chance)
        shown = crash.PARTS[part](Path(folder), chance, times)
    return {"cases": times, "shown": shown}


def table(figures: Mapping[str, Any]) -> str:
    """Returns the part of the page that a run replaces."""
    lines = ["| | cases | bar | shown | minutes | date | commit |", "|---|---|---|---|---|---|---|"]
    for part, title in titles().items():
        if found := figures.get(part):
            words = [title, f"{found['cases']:,}", _bar(part, figures), found["shown"]]
            words += [f"{found['seconds'] / 60:.0f}", found["date"], found["commit"]]
            lines.append(f"| {' | '.join(words)} |")
    return "\n".join(lines)


def _bar(part: str, figures: Mapping[str, Any]) -> str:
    """Returns how many cases there have to be of a part, and whether there are fewer."""
    if part in FUZZERS:
        bar, count, kind = FUZZERS[part].bar, figures[part]["cases"], ""
    else:
        together = next(parts for parts in KILLED_TOGETHER if part in parts)
        bar, count = MIN_KILLS, sum(figures[one]["cases"] for one in together if one in figures)
        kind = f" of {len(together)} kinds"
    return f"≥ {bar:,}{kind}{'' if count >= bar else ': **missed**'}"


if __name__ == "__main__":
    main()
