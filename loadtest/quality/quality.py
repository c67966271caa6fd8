"""Gathers the test figures of many runs in one table, beside the best published ones.

    python -m loadtest.quality.quality --runs runs/* --out docs/results

A run's folder is named <set>-<model>-s<seed>, for example toys-sasrec-bce-s2. OUT/quality.json is
{data set: {model: {"seeds", "mean", "sd"}}}, with figures in the order of METRICS; sd is the
standard deviation over the seeds (n - 1; 0 for one seed). The table goes into OUT/quality.md
between two marks, the commands into OUT/quality-commands.md; the text around the marks is kept,
and so are the commands of rows that are not among the runs.
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
    """Gathers the runs, writes the files, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="JSON of the same form")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    measured, recipes = gather(options.runs)
    quality = merged([summary(measured), *(json.loads(f.read_text()) for f in options.also)])
    text = "\n".join(table(quality))
    write_json(options.out / "quality.json", quality)
    put_between_marks(options.out / "quality.md", MARK, text)
    file = options.out / "quality-commands.md"
    put_between_marks(file, MARK, "\n".join([*commands(recipes), *other_commands(file, recipes)]))
    print(text)


def gather(runs: Sequence[Path]) -> tuple[Measured, Recipes]:
    """Returns figures and options of the runs; unfinished ones are left out with a message.

    Raises ValueError for a folder with another name, and for a seed that comes twice.
    """
    measured: Measured = {}
    recipes: Recipes = {}
    for run in runs:
        data_set, model, seed = parse_name(run)
        try:
            figures = read_figures(run)
        except ValueError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        config = TrainConfig.recorded(run / "config.json")
        if config.seed != seed:
            raise ValueError(f"{run} was trained with seed {config.seed}: rename it")
        for name, values in by_model(model, config.peer, figures):
            of_model = measured.setdefault((data_set, name), {})
            if seed in of_model and name != "popularity":  # which is the same for every seed
                raise ValueError(f"{run}: seed {seed} of {name} on {data_set} is there already")
            of_model[seed] = values
        recipes.setdefault((data_set, model), {})[seed] = train_options(config)
    return measured, recipes


def parse_name(run: Path) -> tuple[str, str, int]:
    """Returns data set, model and seed of a run's folder. Raises ValueError for other names."""
    found = re.fullmatch(r"([^-]+)-(.+)-s(\d+)", run.resolve().name)
    if not found or found[1].lower() not in SETS:
        raise ValueError(
            f"{run}: the folder of a run is named <set>-<model>-s<seed>, and the set is one of "
            + ", ".join(SETS)
        )
    return SETS[found[1].lower()], found[2], int(found[3])


def by_model(model: str, peer: str | None, figures: Figures) -> Iterator[tuple[str, list[float]]]:
    """Yields a run's figures: its model, popularity, and for ours the first stage alone."""
    names = {peer or OWN: peer or model, "popularity": "popularity"}
    if model == OWN:
        names["pre-trained, one interest"] = f"{OWN}, pre-trained only, one interest"
    for found, name in names.items():
        if found in figures:
            yield name, [figures[found][metric] for metric in METRICS]


def train_options(config: TrainConfig) -> list[str]:
    """Returns the options of `recgpt train` that differ from today's defaults."""
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
    """Returns means and deviations over the seeds; data sets and models in a fixed order."""
    quality: Quality = {}
    order = list(dict.fromkeys(SETS.values()))
    for data_set, model in sorted(
        measured, key=lambda key: (order.index(key[0]), key[1] != OWN, key)
    ):
        by_seed = dict(sorted(measured[data_set, model].items()))
        columns = list(zip(*by_seed.values(), strict=True))
        quality.setdefault(data_set, {})[model] = Entry(
            seeds=list(by_seed),
            mean=[round(statistics.fmean(column), 6) for column in columns],
            sd=[
                round(statistics.stdev(column), 6) if len(column) > 1 else 0.0 for column in columns
            ],
        )
    return quality


def merged(parts: Sequence[Quality]) -> Quality:
    """Returns all entries. Raises ValueError if two parts have the same model."""
    whole: Quality = {}
    for part in parts:
        for data_set, entries in part.items():
            known = whole.setdefault(data_set, {})
            if twice := known.keys() & entries.keys():
                raise ValueError(
                    f"{data_set}: {', '.join(sorted(twice))} is measured twice: leave one out"
                )
            known |= entries
    return whole


def other_commands(file: Path, recipes: Recipes) -> list[str]:
    """Returns the commands of rows that `file` has from before, and that were not measured now."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    measured = tuple(f"- {data_set}, {model}, seed " for data_set, model in recipes)
    return [line for line in lines if line.startswith("- ") and not line.startswith(measured)]


def commands(recipes: Recipes) -> Iterator[str]:
    """Yields Markdown: the command of each row, with all that differs from today's defaults."""
    for (data_set, model), by_seed in recipes.items():
        for options in sorted({" ".join(options) for options in by_seed.values()}):
            seeds = [str(seed) for seed, of in sorted(by_seed.items()) if " ".join(of) == options]
            run = f"runs/{data_set.lower()}-{model}-s$SEED"
            words = f"recgpt train --data {data_set} --out {run} --seed $SEED {options}".strip()
            yield f"- {data_set}, {model}, seed {', '.join(seeds)}: `{words}`"


if __name__ == "__main__":
    main()
