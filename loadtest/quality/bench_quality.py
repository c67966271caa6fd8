"""One seed on one data set, from the raw file to the figures, beside docs/results/quality.json.

    python -m loadtest.quality.bench_quality --set Toys --source raw

Prepares the data, trains with the shipped recipe, exports, evaluates the bundle with the service's
own recall code, and prints the differences. Fails if a figure is lower than the recorded mean by
more than three standard deviations of the recorded seeds or 2 % of the mean, whichever is larger.
If the raw file is absent it does nothing, and says so. Options that it does not know are passed on
to `recgpt train`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from loadtest.quality.quality_table import BSAREC, METRICS, OWN, Entry, Quality
from loadtest.stopping import stop_by_exit

DEVIATIONS = 3  # standard deviations over the recorded seeds that a figure may be lower
RELATIVE = 0.02  # share of the mean that it may be lower: one seed has no deviation
FILES = {
    "Beauty": "Beauty.txt",
    "Sports": "Sports_and_Outdoors.txt",
    "Toys": "Toys_and_Games.txt",
    "Yelp": "Yelp.txt",
}


def main() -> None:
    """Runs the commands, prints the comparison, and exits with 1 if a figure is too low."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--set", choices=FILES, default="Toys")
    parser.add_argument("--source", type=Path, default=published_data())
    parser.add_argument("--recipes", type=Path, default=Path("model/recipes"))
    parser.add_argument("--recorded", type=Path, default=Path("docs/results/quality.json"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder to keep everything in, and to go on in")
    options, more = parser.parse_known_args()
    source = options.source / FILES[options.set]
    if not source.exists():
        print(f"skipped: there is no {source} (the file that S3-Rec published)")
        return
    with tempfile.TemporaryDirectory() as scratch:
        recipe = options.recipes / f"{options.set.lower()}.toml"
        figures = measure(source, recipe, options.seed, options.out or Path(scratch), more)
    quality: Quality = json.loads(options.recorded.read_text()) if options.recorded.exists() else {}
    entry = quality.get(options.set, {}).get(OWN)
    print("\n".join(compare(options.set, figures, entry)))
    if entry is None:
        print(f"nothing to compare with: {options.recorded} has no figures of {options.set}")
    elif lower := too_low(figures, entry):
        sys.exit(f"lower than recorded by more than the tolerance: {', '.join(lower)}")


def published_data() -> Path:
    """Returns the folder of the public data files that $RECGPT_PUBLIC_DATA names, else `raw`."""
    return Path(os.environ.get("RECGPT_PUBLIC_DATA", "raw"))


def measure(source: Path, recipe: Path, seed: int, out: Path, more: Sequence[str]) -> list[float]:
    """Returns the figures in the order of METRICS; `more` are options of `recgpt train`."""
    data, run, artifacts, table = out / "data", out / "run", out / "artifacts", out / "table.json"
    if not (data / "dataset.json").exists():
        recgpt("data prepare", "--input", source, "--format", "lines", "--out", data)
    if not (run / "metrics.json").exists():
        recipe_and_seed = ("--config", recipe, "--seed", seed)
        recgpt("train", *recipe_and_seed, "--data", data, "--out", run, "--resume", *more)
    recgpt("export", "--run-dir", run, "--artifacts", artifacts)
    recgpt("evaluate", "--artifacts", artifacts, "--data", data, "--out", table)
    figures = json.loads(table.read_text(encoding="utf-8"))["figures"][OWN]
    return [figures[metric] for metric in METRICS]


def recgpt(command: str, *options: object) -> None:
    """Runs a command as a user does. Exits if it fails."""
    words = [*command.split(), *map(str, options)]
    print(f"$ recgpt {' '.join(words)}", flush=True)
    stop_by_exit()
    code = subprocess.run([sys.executable, "-m", "cli", *words], check=False).returncode
    if code:
        sys.exit(f"recgpt {command} failed")


def compare(data_set: str, figures: Sequence[float], entry: Entry | None) -> list[str]:
    """Returns a line per metric: found here, recorded with its spread, published."""
    lines = [
        f"{data_set:<10}{'here':>10}{'recorded':>10}{'sd':>10}{'difference':>12}{'BSARec':>10}"
    ]
    for at, (metric, found) in enumerate(zip(METRICS, figures, strict=True)):
        recorded = f"{'-':>10}{'-':>10}{'-':>12}"
        if entry:
            mean, sd = entry["mean"][at], entry["sd"][at]
            recorded = f"{mean:>10.4f}{sd:>10.4f}{found - mean:>+12.4f}"
        lines.append(f"{metric:<10}{found:>10.4f}{recorded}{BSAREC[data_set][at]:>10.4f}")
    return lines


def too_low(figures: Sequence[float], entry: Entry) -> list[str]:
    """Returns the metrics that are lower than the recorded mean by more than the tolerance."""
    recorded = zip(METRICS, figures, entry["mean"], entry["sd"], strict=True)
    return [
        metric
        for metric, found, mean, sd in recorded
        if found < mean - max(DEVIATIONS * sd, RELATIVE * mean)
    ]


if __name__ == "__main__":
    main()
