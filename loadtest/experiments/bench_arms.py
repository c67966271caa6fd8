"""Compares lists by simulated users: numbers of interests, popular items, and two versions.

    python -m loadtest.experiments.bench_arms --loop build/loop --out docs/results

It takes the two versions of `loadtest.experiments.loop`, and asks the running service over HTTP,
as `recgpt experiment simulate` does, without a planted difference:

1. The first version serves users whose histories end with the past. Four arms: one interest, which
   is the control, two and four interests, and popular items. Tastes are fitted on the present.
2. Both versions are interleaved for users whose histories end with the present. Tastes are fitted
   on the future, which neither version was trained on.

Simulated users like nothing but what the held-out events show: the tables tell which lists are
closer to these, and that the machinery finds it.
"""

import argparse
import json
import shutil
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from loadtest.environment import environment
from loadtest.experiments.loop import START_S, recgpt
from loadtest.results import put_between_marks, say
from loadtest.serving.servers import python_server, recgpt_serve, redis_server
from model.artifact.versions import list_versions, publish

PARTS = ("past", "present", "future")
ARMS = """
[arms.arms.one]
recall = { interests = 1 }
[arms.arms.two]
recall = { interests = 2 }
[arms.arms.four]
recall = { interests = 4 }
[arms.arms.popular]
recall = { popular = true }
"""
VERSIONS = """
[arms]
interleave = true
[arms.arms.first]
version = "{first}"
[arms.arms.second]
version = "{second}"
"""


def main() -> None:
    """Prints the tables, and writes them to the page of results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", type=Path, required=True, help="folder of a loop that ended")
    parser.add_argument("--visits", type=float, default=10, help="mean number of recalls of a user")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    work = given.loop / "arms"
    shutil.rmtree(work, ignore_errors=True)
    artifacts = work / "artifacts"
    shutil.copytree(given.loop / "artifacts", artifacts, symlinks=True)
    names = sorted((one.created, one.version) for one in list_versions(artifacts))
    first, second = names[0][1], names[-1][1]
    publish(artifacts, first)
    past, present, future = (given.loop / f"{part}.parquet" for part in PARTS)
    apart = trial(work / "apart", artifacts, ARMS, [past], present, given.visits)
    both = VERSIONS.format(first=first, second=second)
    drafted = trial(work / "drafted", artifacts, both, [past, present], future, given.visits)
    about = f"`{environment()['command']}`, {environment()['commit']}"
    text = "\n".join([*table(apart), "", drafted_words(drafted), "", about])
    print(text)
    if given.out:
        put_between_marks(given.out / "experiments.md", "arms", text)


def trial(
    work: Path, artifacts: Path, experiments: str, known: list[Path], held_out: Path, visits: float
) -> dict[str, Any]:
    """Runs an experiment on users who have these events; returns its report."""
    (work / "known").mkdir(parents=True)
    for file in known:
        shutil.copy(file, work / "known")
    none = ["--min-user-events", 0, "--min-item-events", 0]
    recgpt("data", "prepare", "--input", work / "known", "--out", work / "data", *none)
    file = work / "experiments.toml"
    file.write_text(experiments)
    with serving(artifacts, file, work / "data") as (url, store):
        simulate = ["--url", url, "--events", held_out, "--visits", visits]
        recgpt("experiment", "simulate", *simulate)
        time.sleep(2)  # exposures are written in the background
        recgpt("events", "export", "--store", store, "--out", work / "log")
    report = ["--experiments", file, "--name", "arms", "--out", work / "report.html"]
    logs = ["--exposures", work / "log/exposures", "--events", work / "log/events"]
    recgpt("experiment", "report", *report, *logs)
    found: dict[str, Any] = json.loads((work / "report.json").read_text(encoding="utf-8"))
    return found | {"recalls": pl.read_parquet(work / "log/exposures/*.parquet").height}


@contextmanager
def serving(artifacts: Path, experiments: Path, data: Path) -> Iterator[tuple[str, str]]:
    """Serves the bundles to users with the histories of a data set; yields URL and store."""
    options = ["--experiments", str(experiments)]
    with (
        redis_server() as store,
        python_server(recgpt_serve(artifacts, store, *options), START_S) as (port, _),
    ):
        recgpt("history", "load", "--data", data, "--store", store)
        url = f"http://127.0.0.1:{port}"
        wait_for_arms(url)
        yield url, store


def wait_for_arms(url: str) -> None:
    """Returns when all versions that arms name answer recalls. Exits if that takes too long."""
    give_up = time.monotonic() + START_S
    while time.monotonic() < give_up:
        with urllib.request.urlopen(f"{url}/experiments", timeout=60) as answer:
            versions = json.load(answer)["versions"]
        if all(one["loaded"] for one in versions):
            return
        time.sleep(0.2)
    raise SystemExit(f"not all versions are loaded: {versions}")


def table(report: dict[str, Any]) -> list[str]:
    """Returns the table of the arms beside the control."""
    users = report["users"]
    lines = [
        "| arm | users | clicks of a user | against one interest | 95 % interval |",
        "|---|---|---|---|---|",
    ]
    control = report["arms"][0]["primary"]["control"]
    lines.append(f"| one (control) | {users['one']} | {control:.2f} | | |")
    for arm in report["arms"]:
        found = arm["primary"]
        interval = f"{found['lower']:+.1%} to {found['upper']:+.1%}"
        figures = f"{found['treatment']:.2f} | {found['relative']:+.1%} | {interval}"
        lines.append(f"| {arm['arm']} | {users[arm['arm']]} | {figures} |")
    say("\n".join(arm["verdict"] for arm in report["arms"]))
    return [*lines, "", f"{report['recalls']:,} recalls."]


def drafted_words(report: dict[str, Any]) -> str:
    """Returns the outcome of the interleaved versions."""
    share, lower, upper = (f"{report[name]:.1%}" for name in ("share", "lower", "upper"))
    return (
        f'Two versions in one list: "{report["verdict"]}" The second one has {share} of the votes, '
        f"interval {lower} to {upper}; {report['users']} users, {report['recalls']:,} recalls."
    )


if __name__ == "__main__":
    main()
