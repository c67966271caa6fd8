"""One seed on one data set from the raw file to the figures, beside docs/results/quality.json.

    python -m loadtest.quality.bench_quality --set Toys --source ../shared/data

Prepares, trains with the shipped recipe, exports, evaluates the bundle with the service's own
recall code, and prints the differences. Fails where a figure is lower than the recorded mean by
more than --tolerance. Without the raw file it does nothing, and says so. Options that it doesn't
know are passed on to `recgpt train`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from loadtest.quality.quality_table import BSAREC, METRICS, OWN, Entry, Quality

FILES = {
    "Beauty": "Beauty.txt",
    "Sports": "Sports_and_Outdoors.txt",
    "Toys": "Toys_and_Games.txt",
    "Yelp": "Yelp.txt",
}


def main() -> None:
    """Run the commands, print the comparison, exit with 1 where it is worse."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--set", choices=FILES, default="Toys")
    parser.add_argument("--source", type=Path, default=Path("../shared/data"))
    parser.add_argument("--recipes", type=Path, default=Path("model/recipes"))
    parser.add_argument("--recorded", type=Path, default=Path("docs/results/quality.json"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tolerance", type=float, default=0.003)
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
        print(f"nothing to compare with: {options.recorded} does not tell of {options.set}")
    elif lower := worse(figures, entry, options.tolerance):
        sys.exit(f"lower than recorded by more than {options.tolerance}: {', '.join(lower)}")


def measure(source: Path, recipe: Path, seed: int, out: Path, more: Sequence[str]) -> list[float]:
    """The figures in the order of METRICS; `more`: further options of `recgpt train`."""
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
    """Run a command as a user does. Ends this program where it fails."""
    words = [*command.split(), *map(str, options)]
    print(f"$ recgpt {' '.join(words)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "cli", *words], check=False).returncode
    if code:
        sys.exit(f"recgpt {command} failed")


def compare(place: str, figures: Sequence[float], entry: Entry | None) -> list[str]:
    """A line a metric: found here, recorded with its spread, published."""
    lines = [f"{place:<10}{'here':>10}{'recorded':>10}{'sd':>10}{'difference':>12}{'BSARec':>10}"]
    for at, (metric, found) in enumerate(zip(METRICS, figures, strict=True)):
        recorded = f"{'-':>10}{'-':>10}{'-':>12}"
        if entry:
            mean, sd = entry["mean"][at], entry["sd"][at]
            recorded = f"{mean:>10.4f}{sd:>10.4f}{found - mean:>+12.4f}"
        lines.append(f"{metric:<10}{found:>10.4f}{recorded}{BSAREC[place][at]:>10.4f}")
    return lines


def worse(figures: Sequence[float], entry: Entry, tolerance: float) -> list[str]:
    """Metrics that are lower than the recorded mean by more than the tolerance."""
    return [
        metric
        for metric, found, mean in zip(METRICS, figures, entry["mean"], strict=True)
        if found < mean - tolerance
    ]


if __name__ == "__main__":
    main()
