"""A refresh: stream and log → data set → training → gate → a new served version.

WORK/log/              the exported stream (`recgpt events export`)
WORK/round/            the round under way; it goes on where a killed one stopped
    round.json         its input and options, written first
    input/ data/ run/  events, data set, training run
    bundles/           the new version, which nothing serves yet
WORK/last.json         the outcome of the last finished round
WORK/reports/          a page and JSON for each finished round
WORK/.lock             held by the refresh that runs

Every step appears complete or not at all, and is not repeated once it is there. A round that was
begun with other options, or from a version that is no longer served, is begun anew.
"""

import asyncio
import fcntl
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from model.artifact.bundle import Artifact, load_artifact
from model.artifact.registry import publisher
from model.artifact.versions import (
    check_publishable,
    find_bundle,
    publish_bundle,
    served_version,
)
from model.data.config import PrepareConfig
from model.data.dataset import Dataset
from model.data.prepare import prepare
from model.evaluation.config import ProtocolConfig
from model.files import new_folder, write_json
from model.training.config import TrainConfig
from model.training.run import load_run, read_figures, train
from service.experiments.export import export_log
from service.history.store import HistoryStore, StoreUnavailable
from service.offline import export_bundle
from service.refresh.config import RefreshConfig
from service.refresh.gate import Check, Measured, check_data, check_quality, failed, measure
from service.refresh.inputs import (
    RECALLED,
    digest_of,
    needs_actions,
    options_of,
    write_inputs,
)
from service.refresh.page import write_refresh_page

log = logging.getLogger(__name__)

REPORTS = 100
"""Reports that are kept, those of the newest rounds."""


class RefreshLocked(ValueError):
    """Another refresh with the same folder runs."""


class Outcome(BaseModel, frozen=True):
    """The end of a round."""

    result: Literal["published", "refused", "nothing new"]
    sentence: str
    round: str
    """The time at which the round began, which names its report."""
    digest: str
    """The input and the options that it had."""
    base: str
    """The version that was served."""
    version: str | None
    """The new version; None if it was refused before the training."""
    counts: dict[str, int]
    """Rows of log and stream: `rows` read, `malformed`, `events`."""
    checks: list[Check]
    measured: Measured | None


class Round(BaseModel, frozen=True):
    """The input and the options of a round."""

    round: str
    digest: str
    base: str
    options: str
    """A hash of them."""
    counts: dict[str, int]


def refresh(config: RefreshConfig) -> Outcome:
    """Trains on all events, and publishes the new version if it passes the gate.

    Without a new event since the last finished round, it does nothing, and says what that one said.
    Raises RefreshLocked if another refresh runs, ValueError if the input or the store is unusable.
    """
    if not (config.log or config.store or config.events):
        raise ValueError("nothing says where events come from: name --log, --store or --events")
    if config.store and config.events:
        raise ValueError("--events is an export, and --store is exported first: name one of them")
    point = publisher(config)  # first: a training would be wasted if it cannot be had
    config.work.mkdir(parents=True, exist_ok=True)
    with _locked(config.work):
        for half in config.work.glob(".round.*.part"):  # of a call that was killed
            shutil.rmtree(half)
        stream = _exported(config)
        last = _read_last(config.work)
        about = _unfinished(config, last)
        if about is None:
            digest = digest_of(config, stream)
            if last and last.digest == digest:
                return _again(last)
            about = _begin(config, stream, digest)
        return _finish(config, about, point)


def _begin(config: RefreshConfig, stream: Path | None, digest: str) -> Round:
    """Writes the input of a new round."""
    artifact = load_artifact(find_bundle(config.artifacts))
    with new_folder(config.work / "round") as folder:
        (folder / "input").mkdir()
        about = Round(
            round=f"{datetime.now(UTC):%Y%m%d-%H%M%S}",
            digest=digest,
            base=artifact.manifest.version,
            options=options_of(config),
            counts=write_inputs(config, stream, artifact, folder / "input"),
        )
        write_json(folder / "round.json", about)
    return about


def _unfinished(config: RefreshConfig, last: Outcome | None) -> Round | None:
    """Returns the round to go on with; one that is finished or no longer fits is deleted."""
    folder = config.work / "round"
    if not (folder / "round.json").exists():
        return None
    about = Round.model_validate_json((folder / "round.json").read_text(encoding="utf-8"))
    fits = about.options == options_of(config) and served_version(config.artifacts) in (
        about.base,
        served_version(folder / "bundles"),
    )
    if fits and not (last and last.round == about.round):
        log.info("going on with the round of %s", about.round)
        return about
    shutil.rmtree(folder)
    return None


def _finish(config: RefreshConfig, about: Round, point: Callable[[Path, str], None]) -> Outcome:
    """Runs the steps of a round that are not done yet, and records its outcome.

    `point` makes a version the served one. Raises ValueError if another version has been published
    meanwhile, which the new one was not compared with.
    """
    folder = config.work / "round"
    check_publishable(config.artifacts)
    served = load_artifact(config.artifacts / about.base)
    dataset = _dataset(config, folder, served)
    protocol = ProtocolConfig(split="temporal", test_days=config.test_days)
    recalled = folder / "input" / RECALLED
    checks = check_data(config.gate, about.counts, dataset, protocol, served, recalled)
    version, measured = None, None
    if not failed(checks):
        bundle = _bundle(config, folder, served, protocol)
        version = bundle.name
        measured = measure(config.gate, dataset, protocol, served, bundle, recalled)
        checks += check_quality(config.gate, measured)
    if version and not failed(checks):
        _publish(config, about, folder / "bundles" / version, point)
    outcome = Outcome(
        result="refused" if failed(checks) else "published",
        sentence=_sentence(about, version, checks),
        round=about.round,
        digest=about.digest,
        base=about.base,
        version=version,
        counts=about.counts,
        checks=checks,
        measured=measured,
    )
    _record(config.work, outcome)
    return outcome


def _publish(
    config: RefreshConfig, about: Round, bundle: Path, point: Callable[[Path, str], None]
) -> None:
    """Makes the new version the served one, unless a call that was killed has done so."""
    now = served_version(config.artifacts)
    if now == about.base:
        publish_bundle(config.artifacts, bundle, point)
    elif now != bundle.name:
        raise ValueError(
            f"{now} has been published since this round began from {about.base}, and stays the "
            "served version: call refresh again, which begins from it"
        )


def _dataset(config: RefreshConfig, folder: Path, served: Artifact) -> Dataset:
    if not (folder / "data" / "dataset.json").exists():
        items = {"items": config.items} if config.items else _served_items(folder, served)
        about = config.model_dump(
            include={
                *("item_id_column", "title_column", "genres_column", "item_kinds"),
                *("min_user_events", "min_item_events"),
            }
        )
        report = prepare(
            PrepareConfig(
                **about | items,
                input=folder / "input" / "events",
                out=folder / "data",
                action_column="action" if needs_actions(served.manifest) else None,
                name=config.name or served.manifest.dataset["name"],
            ),
            [] if config.full else served.manifest.actions,
        )
        log.info("%s", report)
    return Dataset.load(folder / "data")


def _served_items(folder: Path, served: Artifact) -> dict[str, object]:
    return {"items": folder / "input" / "items.parquet", "item_kinds": served.kinds}


def _bundle(
    config: RefreshConfig, folder: Path, served: Artifact, protocol: ProtocolConfig
) -> Path:
    """Returns the folder of the new version, trained and exported."""
    run, bundles = folder / "run", folder / "bundles"
    if not (run / "metrics.json").exists():
        training = TrainConfig(
            data=folder / "data",
            out=run,
            stages=config.stages,
            warm_start=None if config.full else served.folder.resolve(),
            resume=True,
            seed=config.seed,
            device=config.device,
            protocol=protocol,
            model=served.manifest.model,
            recall=served.manifest.recall,
            pretrain=config.pretrain,
            tune=config.tune,
        )
        train(training)
    if not (bundles / "current").exists():
        trained, dataset, model = load_run(run)
        figures = read_figures(run)
        export_bundle(bundles, dataset, model, trained.recall, figures, protocol=protocol)
    return find_bundle(bundles)


def _sentence(about: Round, version: str | None, checks: list[Check]) -> str:
    problems = failed(checks)
    if not problems:
        *_, recall, coverage = (check.explanation for check in checks)
        return f"{version} is the served version now: {recall}; {coverage}."
    kept = "; ".join(check.explanation for check in problems)
    return f"{about.base} stays the served version: {kept}."


def _record(work: Path, outcome: Outcome) -> None:
    """Writes the report and the outcome, and deletes the round."""
    reports = work / "reports"
    write_refresh_page(outcome.model_dump(), reports / f"{outcome.round}.html")
    write_json(reports / f"{outcome.round}.json", outcome)
    for old in sorted(reports.glob("*.*"))[: -2 * REPORTS]:
        old.unlink()
    write_json(work / "last.json", outcome)
    shutil.rmtree(work / "round")


def _again(last: Outcome) -> Outcome:
    """Returns the outcome of a call that finds the input of the last round."""
    if last.result == "refused":
        return last
    sentence = f"there is no new event since the round of {last.round}, which made {last.version}"
    return last.model_copy(update={"result": "nothing new", "sentence": f"{sentence}."})


def _read_last(work: Path) -> Outcome | None:
    file = work / "last.json"
    if not file.exists():
        return None
    return Outcome.model_validate_json(file.read_text(encoding="utf-8"))


def _exported(config: RefreshConfig) -> Path | None:
    """Returns the folder of the stream's events, after the export of what is new in the store."""
    if not config.store:
        return config.events / "events" if config.events else None
    asyncio.run(_export(config.store, config.work / "log"))
    folder = config.work / "log" / "events"
    return folder if folder.is_dir() else None


async def _export(url: str, out: Path) -> None:
    store = HistoryStore.open(url, timeout_ms=10_000)
    try:
        await export_log(store, out)
    except StoreUnavailable as error:
        raise ValueError(str(error)) from error
    finally:
        await store.close()


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Keeps other refreshes out. Raises RefreshLocked if one runs."""
    with (work / ".lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RefreshLocked(f"another refresh runs in {work}: wait until it ends") from None
        yield
