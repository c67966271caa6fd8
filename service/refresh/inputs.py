"""The input of a refresh: a site's log and the stream of events, brought into one form.

FOLDER/events/log.parquet       the events of the log
FOLDER/events/stream.parquet    the events of the stream that the log does not have
FOLDER/recalled.parquet         the events that follow from a recall, if there is a stream
FOLDER/items.parquet            attributes of the served version, unless --items names others

Events have user_id, item_id and timestamp (seconds), and action, what the user did, if the network
reads feedback or recalls are for an outcome. Events that follow from a recall are told from all
others because the served version chose what its users could click, so that clicks on its answers
are no fair test of another version.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from model.artifact.bundle import Artifact
from model.artifact.manifest import Manifest
from model.artifact.registry import RegistryConfig
from model.data.clean import Columns, clean_logs
from model.data.logs import log_files
from model.data.times import whole_seconds
from service.experiments.export import parts
from service.experiments.totals import read_events
from service.history.event_types import load_event_types
from service.refresh.config import RefreshConfig

RECALLED = "recalled.parquet"
ROW = ["user_id", "item_id", "timestamp"]


def options_of(config: RefreshConfig) -> str:
    """Returns a hash of the options that a round may not change while it is under way.

    The address of the store, which is one of them, may hold a password.
    """
    free = {"artifacts", "work", "device", *RegistryConfig.model_fields}
    names = set(RefreshConfig.model_fields) - free
    return hashlib.sha256(config.model_dump_json(include=names).encode()).hexdigest()


def needs_actions(manifest: Manifest) -> bool:
    """Returns whether training has to know what users did with items."""
    return manifest.model.feedback != "none" or manifest.recall.outcome is not None


def digest_of(config: RefreshConfig, stream: Path | None) -> str:
    """Returns a hash of all that a refresh depends on but the served version.

    A file counts by its name, size and time of change.
    """
    files = [*_files(config), *(parts(stream) if stream else [])]
    if config.items:
        files.append(config.items)
    digest = hashlib.sha256(options_of(config).encode())
    for file in files:
        about = file.stat()
        digest.update(f"\0{file}\0{about.st_size}\0{about.st_mtime_ns}".encode())
    return digest.hexdigest()


def write_inputs(
    config: RefreshConfig, stream: Path | None, artifact: Artifact, folder: Path
) -> dict[str, int]:
    """Writes the files; returns the numbers of `rows` read, `malformed` ones and `events`.

    Raises ValueError if the log or the stream cannot be read, or has no event with a time.
    """
    counts = {"rows": 0, "malformed": 0, "events": 0}
    events = folder / "events"
    events.mkdir()
    with_actions = needs_actions(artifact.manifest)
    if config.log:
        counts = _write_log(config, events, with_actions)
    if stream:
        found = _stream(config, stream, artifact.manifest.actions)
        if not with_actions:
            found = found.drop("action")
        found.filter("recalled").select(ROW).write_parquet(folder / RECALLED)
        found = found.drop("recalled")
        if config.log:
            logged = pl.scan_parquet(events / "log.parquet").select(ROW)
            found = found.lazy().join(logged, on=ROW, how="anti").collect(engine="streaming")
        counts["rows"] += found.height
        counts["events"] += found.height
        if found.height:
            found.write_parquet(events / "stream.parquet")
    if not counts["events"]:
        raise ValueError("there is no event in the log and none in the stream: nothing to train on")
    if config.items is None:
        artifact.items.drop("count").write_parquet(folder / "items.parquet")
    return counts


def _files(config: RefreshConfig) -> list[Path]:
    return [path for path, _ in log_files(config.log, config.format)] if config.log else []


def _write_log(config: RefreshConfig, folder: Path, with_actions: bool) -> dict[str, int]:
    assert config.log is not None
    if with_actions and config.action_column is None:
        raise ValueError(
            "the served version is trained with what users did, which --log does not tell: name "
            "its column with --action-column, or train on the stream alone"
        )
    files = log_files(config.log, config.format)
    if files[0][1] in ("lines", "gaps"):
        raise ValueError(
            f"{config.log} has no times that can be compared between users, which a refresh needs: "
            "give a log with a column of times"
        )
    columns = Columns(
        config.user_column,
        config.item_column,
        config.time_column,
        in_order=False,
        action=config.action_column if with_actions else None,
        like_from=config.like_from,
    )
    scratch = folder / ".scratch"
    scratch.mkdir()
    clean = clean_logs(files, columns, scratch)
    rows = clean.events.sort("order").select(
        user_id="user",
        item_id="item",
        timestamp=whole_seconds(clean.events),
        **({"action": pl.col("action")} if with_actions else {}),
    )
    rows.sink_parquet(folder / "log.parquet")
    for file in scratch.iterdir():
        file.unlink()
    scratch.rmdir()
    account = clean.account
    return {
        "rows": account.rows,
        "malformed": account.rows - account.usable,
        "events": account.usable,
    }


def _stream(config: RefreshConfig, folder: Path, actions: Sequence[str]) -> pl.DataFrame:
    """Returns the events of the stream that enter histories, each once, and whether recalled.

    A network that reads feedback reads events of all its `actions`, such as a dislike, too.
    """
    events = read_events(folder)
    if "item_id" not in events.columns:
        raise ValueError(f"{folder} has no column item_id: write it with `recgpt events export`")
    types = load_event_types(config.event_types)
    names = events["type"].drop_nulls().unique().to_list()
    training = [name for name in names if types.of(name).history or name in actions]
    return (
        events.filter(pl.col("type").is_in(training))
        .drop_nulls(["user_id", "item_id", "at"])
        .sort("at", maintain_order=True)
        .select(
            "user_id",
            "item_id",
            timestamp=pl.col("at").dt.epoch("s"),
            recalled=pl.col("request_id").is_not_null(),
            action="type",
        )
    )
