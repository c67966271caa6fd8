"""`kill -9` at random moments during training, export and serving: nothing may be lost.

    python -m loadtest.reliability.crash --times 5

Training that is killed and resumed ends with the figures of one that was left alone. After an
export is killed, the served version is whole: the one before, or the new one. After a service
is killed with all its processes, every event that it acknowledged is in its embedded store. Exits
with 1 at the first difference.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import httpx

from loadtest.results import say

TRAINING = (
    *("--model.dim", "16", "--model.layers", "1", "--model.feed-forward", "32"),
    *("--model.max-history", "20", "--pretrain.epochs", "4", "--tune.epochs", "2"),
    *("--device", "cpu", "--seed", "1"),
)
START_SECONDS = 300.0
WORST_KILL_SECONDS = 3.0
"""Time after the readiness of a service within which it is killed."""


def main() -> None:
    """Runs all three, and says how often something was killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=50, help="kills of each kind")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, chance)
        kill_training(folder, chance, options.times)
        kill_export(folder, chance, options.times)
        acknowledged = kill_service(folder, chance, options.times)
    say(f"{options.times} kills each; same figures, whole bundles, {acknowledged:,} events kept")


def recgpt(*words: str) -> list[str]:
    """Returns the command line of `recgpt` with these words."""
    return [sys.executable, "-m", "cli", *words]


def run(*words: str) -> float:
    """Runs `recgpt` to its end, and returns the seconds. Raises AssertionError if it fails."""
    started = time.monotonic()
    done = subprocess.run(recgpt(*words), capture_output=True, text=True)
    assert done.returncode == 0, f"recgpt {words[0]}: {done.stderr[-2000:]}"
    return time.monotonic() - started


def run_and_kill(words: Sequence[str], seconds: float) -> bool:
    """Runs `recgpt`, and kills it after that time. Returns whether it had ended before."""
    child = subprocess.Popen(
        recgpt(*words), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        _, errors = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        return False
    assert child.returncode == 0, errors.decode()[-2000:]
    return True


def prepare(folder: Path, chance: random.Random) -> None:
    """Writes a synthetic log, and prepares it."""
    rows = ["user_id,item_id,timestamp"]
    for user in range(300):
        item = chance.randrange(100)
        for step in range(20):
            item = (item + chance.choice((1, 1, 2, 7))) % 100
            rows.append(f"u{user},i{item},{1_700_000_000 + user * 1000 + step}")
    (folder / "log.csv").write_text("\n".join(rows) + "\n")
    run("data", "prepare", "--input", str(folder / "log.csv"), "--out", str(folder / "data"))


def kill_training(folder: Path, chance: random.Random, times: int) -> None:
    """Trains once in peace, then again under kills, and compares the figures."""
    data = ("--data", str(folder / "data"))
    peace = ("train", *data, *TRAINING, "--out", str(folder / "run"))
    seconds = run(*peace)
    expected = json.loads((folder / "run" / "metrics.json").read_text())
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


def kill_export(folder: Path, chance: random.Random, times: int) -> None:
    """Exports under kills; the served version is verified after each."""
    artifacts = str(folder / "artifacts")
    words = ["export", "--run-dir", str(folder / "run"), "--artifacts", artifacts]
    seconds = run(*words)
    for kill in range(times):
        run_and_kill(words, chance.uniform(0.3, 1.1) * seconds)
        run("doctor", "--artifacts", artifacts)
        say(f"export: {kill + 1} of {times}")


def kill_service(folder: Path, chance: random.Random, times: int) -> int:
    """Serves under kills; returns the number of acknowledged events, all of which were kept."""
    acknowledged: dict[str, list[str]] = {}
    count = 0
    for kill in range(times + 1):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        words = ["serve", "--artifacts", str(folder / "artifacts"), "--port", str(port)]
        words += ["--store", f"embedded:{folder / 'store' / 'histories'}"]
        with (folder / "service.log").open("wb") as log:
            child = subprocess.Popen(recgpt(*words), stdout=log, stderr=log, start_new_session=True)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                wait_until_ready(client, child, folder / "service.log")
                compare(client, acknowledged)
                if kill < times:
                    end = time.monotonic() + chance.uniform(0.1, WORST_KILL_SECONDS)
                    while time.monotonic() < end:
                        count = post(client, acknowledged, count)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        say(f"serving: {kill} of {times}, {count:,} events acknowledged")
    return count


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


def wait_until_ready(client: httpx.Client, child: subprocess.Popen[bytes], log: Path) -> None:
    """Returns once the service answers. Raises AssertionError if it ends or takes too long."""
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up:
        assert child.poll() is None, log.read_text()[-2000:]
        with suppress(httpx.TransportError):
            if client.get("/readyz").status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError(f"the service is not ready: {log.read_text()[-2000:]}")


if __name__ == "__main__":
    main()
