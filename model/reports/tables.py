"""Figures of several models as the report shows them: one row per metric, one column per model.

Recall of lists of several lengths is drawn as a chart, too. Beside its test figures, a run's folder
may hold further measurements, one JSON file each: interests, ablations, new users. They have no
fixed form: any level of the file that holds figures by name is a table.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from model.evaluation.metrics import Figures
from model.reports.charts import Chart, Line, chart

QUALITY = ("HR@", "NDCG@", "recall@")
"""Beginnings of the names of metrics of which more is better."""


@dataclass(frozen=True)
class Row:
    """One metric of every model; `best` is the column of the best, if more is better."""

    metric: str
    values: list[float | None]
    best: int | None


@dataclass(frozen=True)
class Table:
    """Figures of several models."""

    title: str
    models: list[str]
    rows: list[Row]
    depth: Chart | None


def as_table(title: str, figures: Figures) -> Table:
    """Returns the table of `figures`, with metrics in the order in which they first occur."""
    metrics = dict.fromkeys(metric for of in figures.values() for metric in of)
    lines = [Line(model, _depths(of)) for model, of in figures.items()]
    lengths = sorted({k for line in lines for k, _ in line.points})
    return Table(
        title=title,
        models=list(figures),
        rows=[_row(metric, [of.get(metric) for of in figures.values()]) for metric in metrics],
        depth=chart("recall@K", "K", lines, x_at=lengths, from_zero=True),
    )


def read_figures_table(file: Path) -> Table | None:
    """Returns the test figures that `recgpt train` writes, None if there are none yet."""
    if not file.exists():
        return None
    try:
        return as_table("Test figures", TypeAdapter(Figures).validate_json(file.read_bytes()))
    except ValidationError as error:
        raise ValueError(
            f"{file} is damaged: {error}; delete it, and go on with `recgpt train … --resume`"
        ) from error


def read_tables(file: Path) -> list[Table]:
    """Returns all tables of a file of measurements. Raises ValueError if it is not JSON."""
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}; measure again, or delete it") from error
    return list(_tables(file.stem, content))


def _tables(title: str, content: Any) -> Iterator[Table]:
    """Yields the tables: a dict of dicts of numbers is one, and any dict may hold some."""
    if not isinstance(content, dict):
        return
    figures = {name: _numbers(of) for name, of in content.items() if isinstance(of, dict)}
    figures = {name: of for name, of in figures.items() if of}
    if figures:
        yield as_table(title, figures)
    for name, of in content.items():
        yield from _tables(f"{title}: {name}", of)


def _numbers(content: dict[str, Any]) -> dict[str, float]:
    return {name: float(v) for name, v in content.items() if type(v) in (int, float)}


def _row(metric: str, values: list[float | None]) -> Row:
    known = [value for value in values if value is not None]
    ranked = metric.startswith(QUALITY) and len(known) > 1
    return Row(metric, values, values.index(max(known)) if ranked else None)


def _depths(metrics: dict[str, float]) -> list[tuple[float, float]]:
    """Returns (K, recall@K) of one model, shortest list first."""
    found = ((name.removeprefix("recall@"), v) for name, v in metrics.items() if "recall@" in name)
    return sorted((int(k), value) for k, value in found if k.isdigit())
