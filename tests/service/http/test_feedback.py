"""Feedback by HTTP: events become actions that the network reads, and recalls ask for outcomes."""

from pathlib import Path

import acted
import httpx
import numpy as np
import pytest
from answers import ids, recall

from model.data.dataset import Dataset
from model.evaluation.metrics import Histories
from model.evaluation.reference import DenseRecall
from model.network.gpt import GPT
from service.history.store import HistoryStore, StoreProblem
from service.offline import load_histories

pytestmark = pytest.mark.anyio

EVENTS = [("i1", "like"), ("i2", "dislike"), ("i3", "view"), ("i4", "like")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return acted.world(tmp_path_factory.mktemp("acted"))


@pytest.fixture(scope="module")
def model_and_artifacts(
    world: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[GPT, Path]:
    folder = tmp_path_factory.mktemp("bundle")
    return acted.bundle(folder, world)[0], folder


@pytest.fixture(scope="module")
def artifacts(model_and_artifacts: tuple[GPT, Path]) -> Path:
    return model_and_artifacts[1]


async def tell(client: httpx.AsyncClient, user: str, events: list[tuple[str, str]]) -> None:
    body = {
        "events": [
            {"user_id": user, "item_id": item, "type": kind, "timestamp": 1764000000 + at}
            for at, (item, kind) in enumerate(events)
        ]
    }
    answer = await client.post("/events", json=body)
    assert answer.status_code == 200, answer.text


def expected(world: Dataset, model: GPT, events: list[tuple[str, str]], wanted: str) -> list[str]:
    """The trainer's own recall of that history."""
    rows = {item: row for row, item in enumerate(world.item_ids)}
    codes = {name: code for code, name in enumerate(world.action_names)}
    histories = Histories([np.array([rows[item] for item, _ in events])])
    histories.actions = [np.array([codes.get(kind, -1) for _, kind in events])]
    reference = DenseRecall(model, acted.RECALL, world.action_code(wanted))
    found = reference(histories, np.array([-1]), (10,))[0][0]
    return [world.item_ids[row] for row in found.tolist()]


async def test_stored_events_are_read_with_their_types(
    client: httpx.AsyncClient, world: Dataset, model_and_artifacts: tuple[GPT, Path]
) -> None:
    model, _ = model_and_artifacts
    await tell(client, "ann", EVENTS)
    answers = {}
    for wanted in ("like", "dislike"):
        answers[wanted] = ids(await recall(client, user_id="ann", k=10, outcome=wanted))
        assert answers[wanted] == expected(world, model, EVENTS, wanted)
    default = await recall(client, user_id="ann", k=10)
    assert ids(default) == answers["like"]  # as the bundle says
    others = [(item, "like" if kind == "dislike" else kind) for item, kind in EVENTS]
    await tell(client, "bob", others)
    found = await recall(client, user_id="bob", k=10)
    assert ids(found) == expected(world, model, others, "like")
    assert found["items"] != default["items"]  # in their scores at least


async def test_a_history_in_the_request_may_have_types(
    client: httpx.AsyncClient, world: Dataset, model_and_artifacts: tuple[GPT, Path]
) -> None:
    model, _ = model_and_artifacts
    told = [
        item if kind == "view" else {"item_id": item, "type": kind}  # which the bundle never saw
        for item, kind in EVENTS
    ]
    for wanted in ("like", "dislike"):
        found = await recall(client, history=told, k=10, outcome=wanted)
        assert ids(found) == expected(world, model, EVENTS, wanted)
    untold = await recall(client, history=[item for item, _ in EVENTS], k=10)
    assert untold["items"] != (await recall(client, history=told, k=10))["items"]
    seeded = await recall(client, history=told, seeds=["i9"], k=10)
    rows = [*EVENTS, ("i9", "")]
    assert ids(seeded) == expected(world, model, rows, "like")
    answer = await client.post("/recall", json={"history": [{"item_id": "i1"}]})
    assert answer.status_code == 422
    assert any(one["where"].startswith("history.0") for one in answer.json()["errors"])


async def test_a_history_loaded_from_a_data_set_keeps_its_actions(
    world: Dataset, tmp_path: Path
) -> None:
    url = f"embedded:{tmp_path / 'histories'}"
    assert await load_histories(world, url, overwrite=False) == world.users
    store = HistoryStore.open(url)
    (entries,) = await store.read(world.user_ids[:1])
    await store.close()
    assert not isinstance(entries, StoreProblem)
    first = slice(0, world.offsets[1])
    assert world.actions is not None
    kinds = [(*world.action_names, "click")[code] for code in world.actions[first]]
    told = [entry.decode().split("\t") for entry in entries][::-1]
    items = [world.item_ids[row] for row in world.events[first]]
    times = [str(time) for time in range(acted.EVENTS)]
    assert told == [list(event) for event in zip(items, kinds, times, strict=True)]


async def test_an_outcome_that_cannot_be_asked_for_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post("/recall", json={"user_id": "ann", "outcome": "buy"})
    assert answer.status_code == 422
    assert "it can be for dislike, like" in answer.text
    assert answer.json()["errors"][0]["where"] == "outcome"
    batch = {"requests": [{"user_id": "ann"}, {"user_id": "ann", "outcome": "buy"}]}
    answer = await client.post("/recall/batch", json=batch)
    assert (answer.status_code, answer.json()["errors"][0]["where"]) == (422, "requests.1.outcome")
    answer = await client.post("/recall", json={"user_id": "ann", "outcome": "Buy!"})
    assert answer.status_code == 422
