"""Test figures of many runs as one table, beside the best published ones.

    python -m loadtest.quality.quality --runs runs/* --out docs/results

A run's folder is named <set>-<model>-s<seed>, for example toys-sasrec-bce-s2. OUT/quality.json gets
{data set: {model: {"seeds", "mean", "sd"}}}, figures in the order of METRICS, sd over the seeds
(n - 1; 0 of one seed). The table goes into OUT/quality.md, between two marks; the text around them
is kept.
"""

import argparse
import json
import re
import shlex
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from loadtest.quality.quality_table import (
    MARK,
    METRICS,
    OWN,
    Entry,
    Quality,
    table,
)
from loadtest.results import put_between_marks
from model.evaluation.metrics import Figures
from model.files import write_json
from model.reports.report import settings
from model.training.config import TrainConfig
from model.training.run import read_figures

SETS = {
    "beauty": "Beauty",
    "sports": "Sports",
    "sports_and_outdoors": "Sports",
    "toys": "Toys",
    "toys_and_games": "Toys",
    "yelp": "Yelp",
}
Recipes = dict[tuple[str, str], dict[int, list[str]]]
"""Options of `recgpt train` by (data set, model), then seed."""

Measured = dict[tuple[str, str], dict[int, list[float]]]
"""Figures by (data set, model), then seed."""


def main() -> None:
    """Gather the runs, write both files, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="JSON of the same form")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    measured, recipes = gather(options.runs)
    quality = merged([summary(measured), *(json.loads(f.read_text()) for f in options.also)])
    text = "\n".join([*table(quality), *commands(recipes)])
    write_json(options.out / "quality.json", quality)
    put_between_marks(options.out / "quality.md", MARK, text)
    print(text)


def gather(runs: Sequence[Path]) -> tuple[Measured, Recipes]:
    """Read the runs. One that isn't finished is left out, and that is said.

    Raises ValueError for a folder with another name, and for a seed that comes twice.
    """
    measured: Measured = {}
    recipes: Recipes = {}
    for run in runs:
        place, model, seed = parse_name(run)
        try:
            figures = read_figures(run)
        except ValueError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        config = TrainConfig.model_validate_json((run / "config.json").read_text(encoding="utf-8"))
        if config.seed != seed:
            raise ValueError(f"{run} was trained with seed {config.seed}: rename it")
        for name, values in by_model(model, config.peer, figures):
            of_model = measured.setdefault((place, name), {})
            if seed in of_model and name != "popularity":  # which is the same for every seed
                raise ValueError(f"{run}: seed {seed} of {name} on {place} is there already")
            of_model[seed] = values
        recipes.setdefault((place, model), {})[seed] = train_options(config)
    return measured, recipes


def parse_name(run: Path) -> tuple[str, str, int]:
    """Data set, model and seed of a run's folder."""
    found = re.fullmatch(r"([^-]+)-(.+)-s(\d+)", run.resolve().name)
    if not found or found[1].lower() not in SETS:
        raise ValueError(
            f"{run}: a run to gather is named <set>-<model>-s<seed>, the set one of "
            + ", ".join(SETS)
        )
    return SETS[found[1].lower()], found[2], int(found[3])


def by_model(model: str, peer: str | None, figures: Figures) -> Iterator[tuple[str, list[float]]]:
    """What a run measures: its model, the baseline, and where it is ours, the first stage alone."""
    names = {peer or OWN: peer or model, "popularity": "popularity"}
    if model == OWN:
        names["pre-trained, one interest"] = f"{OWN}, pre-trained only, one interest"
    for found, name in names.items():
        if found in figures:
            yield name, [figures[found][metric] for metric in METRICS]


def train_options(config: TrainConfig) -> list[str]:
    """The options that differ from today's defaults, as `recgpt train` takes them."""
    options = []
    for setting in settings(config):
        flag = setting.name.replace("_", "-")
        if setting.changed and flag not in ("seed", "resume", "device"):
            match setting.value:
                case "True":
                    options.append(f"--{flag}")
                case "False":
                    options.append(f"--no-{flag}")
                case value:
                    options.append(f"--{flag} {shlex.quote(value)}")
    return options


def summary(measured: Measured) -> Quality:
    """Mean and standard deviation over the seeds, data sets and models in a fixed order."""
    quality: Quality = {}
    order = list(dict.fromkeys(SETS.values()))
    for place, model in sorted(measured, key=lambda key: (order.index(key[0]), key[1] != OWN, key)):
        by_seed = dict(sorted(measured[place, model].items()))
        columns = list(zip(*by_seed.values(), strict=True))
        quality.setdefault(place, {})[model] = Entry(
            seeds=list(by_seed),
            mean=[round(statistics.fmean(column), 6) for column in columns],
            sd=[
                round(statistics.stdev(column), 6) if len(column) > 1 else 0.0 for column in columns
            ],
        )
    return quality


def merged(parts: Sequence[Quality]) -> Quality:
    """All entries. Raises ValueError where two parts tell of the same model."""
    whole: Quality = {}
    for part in parts:
        for place, entries in part.items():
            known = whole.setdefault(place, {})
            if twice := known.keys() & entries.keys():
                raise ValueError(f"{place}: {', '.join(sorted(twice))} is measured twice")
            known |= entries
    return whole


def commands(recipes: Recipes) -> Iterator[str]:
    """Markdown: the command behind each line, with all that differs from today's defaults."""
    yield "### Commands\n"
    for (place, model), by_seed in recipes.items():
        for options in sorted({" ".join(options) for options in by_seed.values()}):
            seeds = [str(seed) for seed, of in sorted(by_seed.items()) if " ".join(of) == options]
            run = f"runs/{place.lower()}-{model}-s$SEED"
            words = f"recgpt train --data {place} --out {run} --seed $SEED {options}".strip()
            yield f"- {place}, {model}, seed {', '.join(seeds)}: `{words}`"


if __name__ == "__main__":
    main()
