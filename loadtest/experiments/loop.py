"""The closed loop on MovieLens 100K: serve, experiment, report, refresh, and the next version.

    python -m loadtest.experiments.loop --raw demo/raw --out build/loop

1. The oldest 70 % of each user's ratings are the log of the first version, which is trained and
   served. The next 15 % are the present: their times are spread over the last four days. The
   newest 15 % are the future, which nothing sees before the last step.
2. Users send the events of the present, and visit the service in an experiment of two arms. Their
   clicks come from the click model of `recgpt experiment simulate`, fitted on the present; in one
   arm they click more often by a planted factor, and the report has to find it.
3. `recgpt refresh` trains the next version on the log and the stream. If the gate lets it pass, the
   running service changes over.
4. Both versions recall 100 items for each user, from the history that the store has now. The
   figure is the share of the items of the future among them.

A call that was stopped is continued. It needs a redis-server, and takes ten minutes on two cores.
"""

import argparse
import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import polars as pl
import redis

from loadtest.results import say
from loadtest.serving.servers import python_server, recgpt_serve, redis_server
from loadtest.stopping import stop_by_exit
from model.artifact.versions import served_version
from model.evaluation.bootstrap import paired_difference
from service.experiments.simulation import post
from service.recall.recaller import Recaller
from service.recall.types import Query

PAST, PRESENT = 0.7, 0.85
DAYS = 4
K, PLANTED, LIFT = 100, "planted", 1.5
EXPERIMENTS = f"[lists.arms.usual]\n[lists.arms.{PLANTED}]\n"
CHUNK = 100
START_S = 900.0
"""Events of one request."""


def main() -> None:
    """Runs the loop. Exits with 1 if the planted winner is not found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw", type=Path, required=True, help="folder with ml-100k.inter")
    parser.add_argument("--out", type=Path, required=True, help="folder of all results")
    parser.add_argument("--epochs", type=int, default=30, help="epochs of either training")
    given = parser.parse_args()
    out: Path = given.out
    parts = split_ratings(given.raw / "ml-100k.inter", out)
    artifacts, training = out / "artifacts", training_options(given.epochs)
    if served_version(artifacts) is None:
        make_first_version(given.raw, out, artifacts, training)
    first = served_version(artifacts)
    (out / "experiments.toml").write_text(EXPERIMENTS)
    options = ["--experiments", str(out / "experiments.toml")]
    with (
        redis_server() as store,
        python_server(recgpt_serve(artifacts, store, *options), START_S) as (port, _),
    ):
        recgpt("history", "load", "--data", out / "data", "--store", store)
        url = f"http://127.0.0.1:{port}"
        send_events(url, parts["present"])
        verdict = experiment(url, store, out)
        code = recgpt(
            *("refresh", "--artifacts", artifacts, "--work", out / "refresh"),
            *("--log", parts["past"], "--store", store, *training),
            may_fail=True,
        )
        second = served_version(artifacts)
        if code == 0:
            wait_for(url, str(second))
            say(f"the service changed over from {first} to {second} without a restart")
        compare(artifacts, [str(first), str(second)], store, parts["future"])
    if f"Ship {PLANTED}" not in verdict:
        sys.exit(f"the planted winner was not found: {verdict}")


def split_ratings(file: Path, out: Path) -> dict[str, Path]:
    """Writes the ratings of the past, the present and the future; returns the files.

    The past ends four days ago, and the present ends now.
    """
    files = {name: out / f"{name}.parquet" for name in ("past", "present", "future")}
    if files["future"].exists():
        return files
    out.mkdir(parents=True, exist_ok=True)
    ratings = pl.read_csv(file, separator="\t").select(
        user_id=pl.col("user_id:token").cast(pl.String),
        item_id=pl.col("item_id:token").cast(pl.String),
        timestamp=pl.col("timestamp:float").cast(pl.Int64),
    )
    ordered = ratings.sort("user_id", "timestamp", maintain_order=True)
    place = (pl.int_range(pl.len()).over("user_id") + 0.5) / pl.len().over("user_id")
    ordered = ordered.with_columns(place=place)
    now = int(time.time())
    begun = now - DAYS * 86_400
    newest = pl.col("timestamp").max()
    within = (pl.col("place") - PAST) / (PRESENT - PAST)
    spread = (begun + within * DAYS * 86_400).cast(pl.Int64)
    parts = {
        "past": ordered.filter(pl.col("place") < PAST).with_columns(
            timestamp=pl.col("timestamp") - newest + begun
        ),
        "present": ordered.filter(pl.col("place").is_between(PAST, PRESENT, closed="left"))
        .with_columns(timestamp=spread)
        .sort("timestamp", maintain_order=True),
        "future": ordered.filter(pl.col("place") >= PRESENT),
    }
    for name, part in parts.items():
        part.drop("place").write_parquet(files[name])
    return files


def training_options(epochs: int) -> list[str]:
    """Returns how the demo trains, as options of the command line."""
    words = ["--pretrain.sampling", "windows", "--pretrain.batch-size", "16"]
    return [*words, "--pretrain.epochs", str(epochs)]


def make_first_version(raw: Path, out: Path, artifacts: Path, training: list[str]) -> None:
    """Prepares the past, trains on it, and publishes the first version."""
    if not (out / "data").exists():
        items = ["--items", raw / "ml-100k.item", "--genres-column", "class", "--name", "ml-100k"]
        recgpt("data", "prepare", "--input", out / "past.parquet", "--out", out / "data", *items)
    run = ["--data", out / "data", "--out", out / "run", "--resume"]
    network = ["--model.dim", "64", "--model.feed-forward", "256"]
    network += ["--model.groups", "1", "--model.heads", "2"]
    recgpt("train", *run, *network, *training)
    recgpt("export", "--run-dir", out / "run", "--artifacts", artifacts)


def send_events(url: str, file: Path) -> None:
    """Sends the events of a file, which follow from no recall."""
    events = pl.read_parquet(file).with_columns(pl.col("timestamp").cast(pl.Float64)).to_dicts()
    for start in range(0, len(events), CHUNK):
        post(url, "/events", {"events": events[start : start + CHUNK]})
    say(f"{len(events):,} events sent")


def experiment(url: str, store: str, out: Path) -> str:
    """Lets simulated users visit; returns the verdict of the report."""
    simulate = ["--url", url, "--events", out / "present.parquet", "--lift", f"{PLANTED}={LIFT}"]
    recgpt("experiment", "simulate", *simulate)
    time.sleep(2)  # exposures are written in the background
    recgpt("events", "export", "--store", store, "--out", out / "log")
    report = ["--experiments", out / "experiments.toml", "--name", "lists"]
    report += ["--exposures", out / "log/exposures", "--events", out / "log/events"]
    recgpt("experiment", "report", *report, "--out", out / "experiment.html")
    found = json.loads((out / "experiment.json").read_text(encoding="utf-8"))
    verdict: str = found["arms"][0]["verdict"]
    return verdict


def compare(artifacts: Path, versions: list[str], store: str, future: Path) -> None:
    """Prints the recall of the future by each version, from the histories of the store."""
    targets = pl.read_parquet(future).group_by("user_id", maintain_order=True).agg("item_id")
    users, wanted = targets["user_id"].to_list(), targets["item_id"].to_list()
    with redis.Redis.from_url(store) as client:
        entries = [client.lrange(f"h:{user}", 0, -1) for user in users]
    histories = [[entry.decode().split("\t")[0] for entry in reversed(own)] for own in entries]
    figures = []
    for version in versions:
        recaller = Recaller.load(artifacts / version, "cpu")
        queries = [
            Query(user_id=user, history=history, k=K)
            for user, history in zip(users, histories, strict=True)
        ]
        answers, _ = recaller.recall(queries)
        lists = [set(recaller.ids_of(answer)) for answer in answers]
        shares = pl.Series(
            [
                len(found & set(own)) / len(set(own))
                for found, own in zip(lists, wanted, strict=True)
            ]
        ).to_numpy()
        figures.append(shares)
        print(f"{version}: recall@{K} of the next days {shares.mean():.4f}")
    rows = pl.int_range(len(users), eager=True).to_numpy()
    relative, low, high = paired_difference(figures[1], figures[0], rows)
    print(
        f"difference {relative:+.1%}, 95 % interval {low:+.1%} to {high:+.1%}, {len(users)} users"
    )


def recgpt(*words: object, may_fail: bool = False) -> int:
    """Runs a command, shows it, and returns its exit code. Exits if it fails and may not."""
    command = [str(word) for word in words]
    say(f"recgpt {' '.join(command)}")
    stop_by_exit()
    code = subprocess.run([sys.executable, "-m", "cli", *command], check=False).returncode
    if code and not may_fail:
        sys.exit(code)
    return code


def wait_for(url: str, version: str, patience_s: float = START_S) -> None:
    """Returns when the service serves the version. Exits if it takes too long."""
    give_up = time.monotonic() + patience_s
    while time.monotonic() < give_up:
        with urllib.request.urlopen(f"{url}/versions", timeout=30) as answer:
            if json.load(answer)["serving"] == version:
                return
        time.sleep(0.2)
    sys.exit(f"{url} does not serve {version}")


if __name__ == "__main__":
    main()
