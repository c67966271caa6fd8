"""`kill -9` at random moments during training, export and serving: nothing may be lost.

    python -m loadtest.reliability.crash --times 5
    python -m loadtest.reliability.crash --times 5 --parts publish swap

Training that is killed and resumed ends with the figures of one that was left alone. After an
export, a publication, a refresh or a prune is killed, every version in the store is whole, and the
served one is the one before, or the new one. After a service is killed with all its processes,
every event that it acknowledged is in its embedded store. An export of events that is killed again
and again has every event once in the end. While versions change under kills, every answer is of one
of the two, and the published one is served in the end. Exits with 1 at the first difference.
"""

import argparse
import json
import random
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from loadtest.reliability.children import (
    START_SECONDS,
    kill_group,
    run,
    run_and_kill,
    start,
    wait_until_ready,
)
from loadtest.reliability.crash_versions import (
    kill_events_export,
    kill_prune,
    kill_publish,
    kill_refresh,
    kill_swaps,
    two_bundles,
)
from loadtest.results import say
from model.artifact.bundle import load_artifact
from model.artifact.versions import find_bundle

TRAINING = (
    *("--model.dim", "16", "--model.layers", "1", "--model.feed-forward", "32"),
    *("--model.max-history", "20", "--pretrain.epochs", "4", "--tune.epochs", "2"),
    *("--device", "cpu", "--seed", "1"),
)
WORST_KILL_SECONDS = 3.0
"""Time after the readiness of a service within which it is killed."""


def main() -> None:
    """Runs the parts, and says how often something was killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=50, help="kills of each kind")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, chance)
        told = [PARTS[part](folder, chance, options.times) for part in options.parts]
    say(f"{options.times} kills each: {'; '.join(told)}")


def prepare(folder: Path, chance: random.Random) -> None:
    """Writes a synthetic log, prepares it, and trains on it once."""
    rows = ["user_id,item_id,timestamp"]
    for user in range(300):
        item = chance.randrange(100)
        for step in range(20):
            item = (item + chance.choice((1, 1, 2, 7))) % 100
            rows.append(f"u{user},i{item},{1_700_000_000 + user * 1000 + step}")
    (folder / "log.csv").write_text("\n".join(rows) + "\n")
    run("data", "prepare", "--input", str(folder / "log.csv"), "--out", str(folder / "data"))
    run("train", "--data", str(folder / "data"), *TRAINING, "--out", str(folder / "run"))


def kill_training(folder: Path, chance: random.Random, times: int) -> str:
    """Trains in peace, then again under kills, and compares the figures."""
    data = ("--data", str(folder / "data"))
    seconds = run("train", *data, *TRAINING, "--out", str(folder / "peace"))
    expected = json.loads((folder / "peace" / "metrics.json").read_text())
    again = folder / "again"
    words = ("train", *data, *TRAINING, "--out", str(again), "--resume")
    for kill in range(times):
        if run_and_kill(words, chance.uniform(0.2, 1.1) * seconds):
            figures = json.loads((again / "metrics.json").read_text())
            assert figures == expected, f"{figures} is not {expected}"
            shutil.rmtree(again)
        say(f"training: {kill + 1} of {times}")
    while not run_and_kill(words, START_SECONDS):
        pass
    figures = json.loads((again / "metrics.json").read_text())
    assert figures == expected, f"{figures} is not {expected}"
    return "same figures of training"


def kill_export(folder: Path, chance: random.Random, times: int) -> str:
    """Exports under kills; the served version is verified after each."""
    artifacts = str(folder / "artifacts")
    words = ["export", "--run-dir", str(folder / "run"), "--artifacts", artifacts]
    seconds = run(*words)
    for kill in range(times):
        run_and_kill(words, chance.uniform(0.3, 1.1) * seconds)
        load_artifact(find_bundle(Path(artifacts)))  # raises ArtifactError
        say(f"export: {kill + 1} of {times}")
    run("doctor", "--artifacts", artifacts)
    return "whole bundles"


def kill_service(folder: Path, chance: random.Random, times: int) -> str:
    """Serves under kills; tells the number of acknowledged events, all of which were kept."""
    run("export", "--run-dir", str(folder / "run"), "--artifacts", str(folder / "artifacts"))
    acknowledged: dict[str, list[str]] = {}
    count = 0
    for kill in range(times + 1):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        words = ["serve", "--artifacts", str(folder / "artifacts"), "--port", str(port)]
        words += ["--store", f"embedded:{folder / 'store' / 'histories'}"]
        child = start(words, folder / "service.log")
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                wait_until_ready(client, child, folder / "service.log")
                compare(client, acknowledged)
                if kill < times:
                    end = time.monotonic() + chance.uniform(0.1, WORST_KILL_SECONDS)
                    while time.monotonic() < end:
                        count = post(client, acknowledged, count)
        finally:
            kill_group(child)
        say(f"serving: {kill} of {times}, {count:,} events acknowledged")
    return f"{count:,} events kept"


def post(client: httpx.Client, acknowledged: dict[str, list[str]], count: int) -> int:
    """Sends one event, notes it once it is acknowledged, and returns the new count."""
    user, item = f"u{count % 50}", f"e{count}"
    event = {"user_id": user, "item_id": item, "timestamp": 1_700_000_000 + count}
    answer = client.post("/events", json={"events": [event]})
    assert answer.status_code == 200, answer.text
    acknowledged.setdefault(user, []).append(item)
    return count + 1


def compare(client: httpx.Client, acknowledged: dict[str, list[str]]) -> None:
    """Raises AssertionError if an acknowledged event is missing."""
    for user, items in acknowledged.items():
        events = client.get(f"/users/{user}/history").json()["events"]
        stored = {event["item_id"] for event in events}
        missing = [item for item in items[-900:] if item not in stored]
        assert not missing, f"{user} lacks {missing}"


PARTS: dict[str, Callable[[Path, random.Random, int], str]] = {
    "training": kill_training,
    "export": kill_export,
    "service": kill_service,
    "publish": lambda folder, *rest: kill_publish(folder, two_bundles(folder), *rest),
    "prune": lambda folder, *rest: kill_prune(folder, two_bundles(folder)[0], *rest),
    "refresh": lambda folder, *rest: kill_refresh(folder, two_bundles(folder)[0], *rest),
    "events": kill_events_export,
    "swap": lambda folder, *rest: kill_swaps(folder, two_bundles(folder), *rest),
}
"""The parts by name; each kills something, and returns what it has shown."""


if __name__ == "__main__":
    main()
