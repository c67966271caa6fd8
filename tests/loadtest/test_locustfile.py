"""The load test runs against a real server, and its requests are what the server takes."""

import asyncio
import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from running_service import service

from model.data.dataset import Dataset
from service.history.store import HistoryStore

LOCUSTFILE = Path(__file__).resolve().parents[2] / "loadtest" / "locustfile.py"


def locust(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def fill(store: str, dataset: Dataset) -> None:
    """Give every user of the data set a history."""

    async def load() -> None:
        opened = HistoryStore.open(store)
        users = enumerate(dataset.user_ids)
        histories = ((u, [dataset.item_ids[row] for row in dataset.history(i)]) for i, u in users)
        await opened.load(histories)
        await opened.close()

    asyncio.run(load())


@pytest.fixture(scope="module")
def words(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Options that lead to a running service and the data set of its artifact."""
    folder = tmp_path_factory.mktemp("load")
    dataset = tiny.walks(folder)
    store = f"embedded:{folder / 'store'}"
    fill(store, dataset)
    # Threads that spin while they wait make a tiny model slow where other programs use the cores.
    with service(artifacts, store, folder, OMP_WAIT_POLICY="PASSIVE") as running:
        host = f"http://127.0.0.1:{running.port}"
        yield ["--host", host, "--data", str(folder / "data"), "--recall-k", "5", "--pause", "0"]


def test_it_runs(words: list[str], tmp_path: Path) -> None:
    ended = locust(*words, "-u", "8", "-r", "100", "-t", "5s", "--csv", str(tmp_path / "all"))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    with (tmp_path / "all_stats.csv").open() as file:
        total = {row["Name"]: row for row in csv.DictReader(file)}["Aggregated"]
    assert int(total["Request Count"]) > 0
    assert int(total["Failure Count"]) == 0
    assert ended.stdout.startswith("degraded: 0 of ")


EACH_TASK = """
import json, sys
from locust import argument_parser, events
from locust.env import Environment
from locustfile import Visitor

options = argument_parser.get_parser().parse_args()
environment = Environment(
    user_classes=[Visitor], events=events, host=options.host, parsed_options=options
)
Visitor.host = options.host
environment.create_local_runner()
events.init.fire(environment=environment, runner=environment.runner, web_ui=None)
visitor = Visitor(environment)
visitor.on_start()
Visitor.user_ids = ["nobody", Visitor.user_ids[0]]
for task in dict.fromkeys(Visitor.tasks):
    for _ in range(20):
        task(visitor)
counts = {e.name: [e.num_requests, e.num_failures] for e in environment.stats.entries.values()}
json.dump(counts | {"degraded": [Visitor.answers, Visitor.degraded]}, sys.stdout)
"""


def test_every_kind_of_request_is_answered(words: list[str]) -> None:
    command = [sys.executable, "-c", EACH_TASK, *words, "--batch-size", "3"]
    environment = os.environ | {"PYTHONPATH": str(LOCUSTFILE.parent)}
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    counts = json.loads(ended.stdout)
    answers, degraded = counts.pop("degraded")
    assert counts == {
        "/recall": [20, 0],
        "/recall (own history)": [20, 0],
        "/events": [20, 0],
        "/recall/batch": [20, 0],
    }
    assert answers == 20 + 20 + 20 * 3
    assert 0 < degraded < answers


def test_a_missing_data_set_is_said(tmp_path: Path) -> None:
    ended = locust("--host", "http://127.0.0.1:9", "--data", str(tmp_path), "-t", "1s")
    assert ended.returncode != 0
    assert "is no prepared data set" in ended.stderr
