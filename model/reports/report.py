"""A training run as one self-contained HTML page, without scripts and requests.

The figures come from the run's folder (see `model.training.run`), the examples from recalls with
the run's weights. The page of an unfinished run shows what is there.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel
from safetensors import safe_open

from model.data.dataset import Dataset
from model.evaluation.protocols import splits, with_outcome
from model.network.gpt import GPT
from model.reports.charts import Chart, Line, chart
from model.reports.examples import LISTED, Example, choose_examples
from model.reports.page import write_page
from model.reports.tables import Table, read_figures_table, read_tables
from model.training.checkpoints import Progress
from model.training.config import TrainConfig
from model.training.loop import RATE
from model.training.run import ONE_INTEREST, load_run, reference_recall

OWN_FILES = ("config.json", "metrics.json", "recall.json")
STAGES = {"pretrain": "Pre-training", "tune": "Prompt-tuning"}
HEADLINES = ("HR@10", "NDCG@10", "recall@100")
CASES = {
    "leave-one-out": "Leave one out: the last item of every user",
    "next-set": "Next set: the last items of every user",
    "temporal": "One cut in time: what users met after it",
}
"""The cases that the test figures are of, by the split of the protocol."""


@dataclass(frozen=True)
class Setting:
    """One option of the run's configuration."""

    name: str
    value: str
    about: str
    changed: bool  # differs from the default


@dataclass(frozen=True)
class StageView:
    """One stage as the page shows it."""

    title: str
    summary: str
    charts: list[Chart]
    epochs: list[dict[str, float]]
    kept: int


def write_report(run: Path, out: Path) -> None:
    """Writes the page of `run` to `out`. Raises ValueError if it is no run, or damaged."""
    config = _read_config(run)
    stages = {name: _read_progress(run / name / "last.safetensors") for name in STAGES}
    progress = {name: found for name, found in stages.items() if found}
    figures = read_figures_table(run / "metrics.json")
    dataset, model, examples = None, None, list[Example]()
    if progress:
        config, dataset, model, examples = _recalled(run)
    write_page(
        Path(__file__).with_name("report.html"),
        out,
        name=run.resolve().name,
        cases=CASES[config.protocol.split],
        dataset=dataset or Dataset.load(config.data),
        config=config,
        parameters=sum(p.numel() for p in model.parameters()) if model else None,
        state=_state(config, progress, figures is not None),
        finished=figures is not None,
        updated=_updated(run),
        headlines=[(r.metric, r.values[-1]) for r in figures.rows if r.metric in HEADLINES]
        if figures
        else [],
        stages=[_stage(name, found) for name, found in progress.items()],
        figures=figures,
        measurements=list(_read_measurements(run)),
        examples=examples,
        listed=LISTED,
        settings=list(settings(config)),
    )


def _read_config(run: Path) -> TrainConfig:
    file = run / "config.json"
    if not file.exists():
        raise ValueError(f"{run} is not a run: no config.json in it. Train one: `recgpt train`")
    try:
        return TrainConfig.recorded(file)
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from error


def _read_measurements(run: Path) -> Iterator[Table]:
    """Yields the tables of further measurements in the run's folder."""
    for file in sorted(run.glob("*.json")):
        if file.name not in OWN_FILES:
            yield from read_tables(file)


def _read_progress(checkpoint: Path) -> Progress | None:
    """Returns the progress of a stage, None if it has not begun."""
    if not checkpoint.exists():
        return None
    try:
        with safe_open(checkpoint, framework="numpy") as file:
            return Progress(**json.loads(file.metadata()["progress"]))
    except Exception as error:
        raise ValueError(f"{checkpoint} is damaged: {error}; delete it and train again") from error


def _recalled(run: Path) -> tuple[TrainConfig, Dataset, GPT, list[Example]]:
    """Returns configuration, data set, network and examples, by the run's best weights so far.

    A peer recalls one interest, whatever its configuration says.
    """
    config, dataset, model = load_run(run)
    if config.peer or config.model.network != "gpt":
        one = ONE_INTEREST.model_copy(update={"outcome": config.recall.outcome})
        config = config.model_copy(update={"recall": one})
    test = with_outcome(dataset, splits(dataset, config.protocol).test, config.recall.outcome)
    recall = reference_recall(config, dataset, model)
    return config, dataset, model, choose_examples(dataset, test, recall, config.seed)


def _state(config: TrainConfig, progress: dict[str, Progress], tested: bool) -> str:
    """Returns the state of the run in words."""
    if tested:
        return "finished"
    if not progress:
        return "not finished: nothing is trained yet"
    name, last = list(progress.items())[-1]
    most = getattr(config, name).epochs
    return f"not finished: {STAGES[name].lower()}, epoch {last.epoch} of at most {most}"


def _updated(run: Path) -> str:
    """Returns the time at which the run last wrote one of its results."""
    files = [run / "metrics.json", run / "config.json"]
    files += [run / name / "last.safetensors" for name in STAGES]
    newest = max(file.stat().st_mtime for file in files if file.exists())
    return f"{datetime.fromtimestamp(newest, UTC):%d %B %Y, %H:%M} UTC"


def _stage(name: str, progress: Progress) -> StageView:
    """Returns the loss and the validation figures of a stage over its epochs."""
    points = progress.curves
    losses = [(point["epoch"], point["loss"]) for point in points if "loss" in point]
    quality = [(point["epoch"], point[progress.metric]) for point in points]
    charts = [
        chart("Training loss", "epoch", [Line("loss", losses)]),
        chart(
            f"Validation {progress.metric} (dot: kept)",
            "epoch",
            [Line(progress.metric, quality, marked=progress.best_epoch)],
        ),
    ]
    rates = sorted(point[RATE] for point in points if RATE in point)
    pace = f", {rates[len(rates) // 2]:,.0f} samples a second (median)" if rates else ""
    return StageView(
        title=STAGES[name],
        summary=f"{progress.epoch} epochs; best validation {progress.metric} {progress.best:.4f} "
        f"after epoch {progress.best_epoch}, whose weights are kept{pace}.",
        charts=[found for found in charts if found],
        epochs=points,
        kept=progress.best_epoch,
    )


def settings(
    config: BaseModel, usual: BaseModel | None = None, prefix: str = ""
) -> Iterator[Setting]:
    """Yields every option of the configuration; nested ones have a dot, as on the command line."""
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        default = getattr(usual, name) if usual else field.get_default()
        if isinstance(value, BaseModel):
            yield from settings(value, default, f"{prefix}{name}.")
        else:
            changed = value != default and not field.is_required()
            yield Setting(f"{prefix}{name}", str(value), field.description or "", changed)
