"""The client against the service itself, and against the document of its API."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import recgpt_client
import tiny
from preparing import run, write
from recgpt_client import (
    AsyncClient,
    AsyncEventSender,
    Client,
    Event,
    EventSender,
    Policy,
    ServiceError,
    ServiceUnavailable,
)
from recgpt_client.requests import AfterDays, Cap, Condition, Filter, Fresh, RecallFields, Seed
from running_service import Service, service

from service.offline import export_bundle

ROOT = Path(__file__).resolve().parents[3]
SECRET = "0123456789abcdef"
PATIENT = Policy(timeout=60)
SCHEMAS = json.loads((ROOT / "docs/openapi.json").read_text())["components"]["schemas"]
pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of ten films, half of them comedies, that asks for a key."""
    folder = tmp_path_factory.mktemp("films")
    lines = [f"u{user},i{(user + step) % 10},{step}" for user in range(20) for step in range(6)]
    log = write(folder / "log.csv", "user,item,time\n" + "\n".join(lines) + "\n")
    genres = ["Comedy" if item % 2 else "Drama" for item in range(10)]
    rows = [f"i{item},{genre}" for item, genre in enumerate(genres)]
    items = write(folder / "items.csv", "item,genres\n" + "\n".join(rows) + "\n")
    _, dataset = run(log, items=items)
    model = tiny.gpt(catalogue=dataset.catalogue, users=dataset.users)
    artifacts = folder / "artifacts"
    export_bundle(artifacts, dataset, model, tiny.RECALL, {})
    settings = {
        "RECGPT_API_KEYS": f"test:read+write+admin:{SECRET}",
        "RECGPT_DEADLINE_MS": "60000",
        "RECGPT_STORE_TIMEOUT_MS": "20000",
    }
    with service(artifacts, f"embedded:{folder / 'store'}", folder, **settings) as started:
        yield started


@pytest.fixture
def client(running: Service) -> Iterator[Client]:
    with Client(f"http://127.0.0.1:{running.port}", api_key=SECRET, policy=PATIENT) as client:
        yield client


def test_recalls(client: Client) -> None:
    recall = client.recall(
        history=["i1"],
        k=3,
        with_metadata=True,
        filter={"all": [{"field": "genres", "in": ["Comedy"]}]},
    )
    assert len(recall.items) == 3
    assert recall.filter is not None
    assert recall.filter.matched == 5
    assert recall.variety is None
    capped = client.recall(
        history=["i1"], k=4, caps=[{"field": "genres", "per_value": 2}], diversity=0.5
    )
    assert capped.variety is not None
    assert not capped.variety.exhausted
    assert not recall.degraded
    metadata = recall.items[0].metadata
    assert metadata is not None
    assert metadata["genres"] == "Comedy"
    first, second = client.recall_batch([{"user_id": "nobody", "k": 2}, {"history": ["i1"]}])
    assert (first.degraded_reason, len(first.items)) == ("no_history", 2)
    assert second.degraded_reason is None


def test_pages_are_the_parts_of_the_list(client: Client) -> None:
    whole = client.recall(history=["i1"], k=7).item_ids
    pages = list(client.pages(history=["i1"], k=7, page_size=3))
    assert [len(page.items) for page in pages] == [3, 3, 1]
    assert [item for page in pages for item in page.item_ids] == whole


def test_events_histories_and_their_deletion(client: Client) -> None:
    with EventSender(client) as events:
        for number in range(5):
            events.add(Event("reader", f"i{number}", timestamp=float(number + 1)))
        events.add(Event("reader", "i9", type="purchase", timestamp=9.0, value=2.5))
        assert events.flush(60)
    assert (events.failed, events.dropped) == (0, 0)
    stored = client.history("reader")
    assert [event.item_id for event in stored] == ["i0", "i1", "i2", "i3", "i4", "i9"]
    assert (stored[-1].type, stored[-1].value) == ("purchase", 2.5)
    assert "i9" not in client.recall(user_id="reader").item_ids
    assert client.delete_user("reader")
    assert not client.delete_user("reader")


def test_items(client: Client) -> None:
    assert client.item("i3").attributes == {"genres": "Comedy"}
    assert client.hide("i3").hidden
    assert not client.show("i3").hidden
    assert client.change_item("i3", {"genres": "Drama"}).changed == ("genres",)
    assert client.change_item("i3", {"genres": None}).changed == ()
    assert client.ready().store == "available"


def test_refusals_say_what_is_wrong(client: Client, running: Service) -> None:
    with pytest.raises(ServiceError, match=r"422: .* k: ") as refused:
        client.recall(user_id="u", k=0)
    assert [error.where for error in refused.value.errors] == ["k"]
    with pytest.raises(ServiceError, match="404"):
        client.item("no such item")
    with (
        Client(f"http://127.0.0.1:{running.port}", policy=PATIENT) as stranger,
        pytest.raises(ServiceError, match="401"),
    ):
        stranger.recall(user_id="u")


async def test_the_async_client_does_the_same(running: Service) -> None:
    url = f"http://127.0.0.1:{running.port}"
    async with (
        AsyncClient(url, api_key=SECRET, policy=PATIENT) as client,
        AsyncEventSender(client) as events,
    ):
        assert events.add(Event("walker", "i1"))
        assert await events.flush(60)
        assert [event.item_id for event in await client.history("walker")] == ["i1"]
        pages = [page async for page in client.pages(user_id="walker", k=5, page_size=3)]
        assert [len(page.items) for page in pages] == [3, 2]
        (one,) = await client.recall_batch([{"user_id": "walker"}])
        assert one.degraded_reason is None
        assert (await client.hide("i3")).hidden
        assert not (await client.show("i3")).hidden
        assert (await client.item("i3")).changed == ()
        assert (await client.change_item("i3", {"genres": None})).item_id == "i3"
        assert (await client.ready()).ready
        assert await client.delete_user("walker")


def test_events_outlive_a_restart_of_the_service(
    artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recgpt_client.event_sender.PAUSE", 0.05)
    running = Service(artifacts, f"embedded:{tmp_path / 'store'}", tmp_path)
    running.wait_until_ready()
    port = str(running.port)
    with Client(f"http://127.0.0.1:{port}", policy=PATIENT) as client:
        events = EventSender(client, interval=0.01)
        events.add(Event("u", "i1"))
        assert events.flush(60)
        assert running.stop(signal.SIGTERM) == 0
        events.add(Event("u", "i2"))
        with pytest.raises(ServiceUnavailable):
            client.ready()
        command = [sys.executable, "-m", "cli", "serve", "--artifacts", str(artifacts)]
        command += ["--store", f"embedded:{tmp_path / 'store'}", "--port", port]
        again = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=ROOT)
        try:
            assert events.flush(300)
            assert [event.item_id for event in client.history("u")] == ["i1", "i2"]
            assert events.close()
        finally:
            again.kill()
            again.wait()


@pytest.mark.parametrize(
    ("ours", "schema"),
    [
        (recgpt_client.Recall, "RecallResponse"),
        (recgpt_client.Candidate, "Candidate"),
        (recgpt_client.FilterEffect, "FilterEffect"),
        (recgpt_client.VarietyEffect, "VarietyEffect"),
        (recgpt_client.Arm, "Arm"),
        (recgpt_client.Accepted, "EventsResponse"),
        (recgpt_client.FieldProblem, "FieldProblem"),
        (recgpt_client.StoredEvent, "UserEvent"),
        (recgpt_client.Item, "ItemResponse"),
        (recgpt_client.Ready, "Ready"),
        (recgpt_client.Event, "Event"),
    ],
)
def test_classes_have_the_fields_of_the_api(ours: Any, schema: str) -> None:
    fields = {field.name for field in dataclasses.fields(ours)}
    assert fields == set(SCHEMAS[schema]["properties"])


@pytest.mark.parametrize(
    ("ours", "schema"),
    [
        (RecallFields, "RecallRequest"),
        (Seed, "Seed"),
        (AfterDays, "AfterDays"),
        (Condition, "Condition"),
        (Filter, "Filter"),
        (Cap, "CapBody"),
        (Fresh, "Fresh"),
    ],
)
def test_requests_have_the_fields_of_the_api(ours: Any, schema: str) -> None:
    assert set(ours.__annotations__) == set(SCHEMAS[schema]["properties"])


def test_the_version_is_that_of_the_service() -> None:
    folders = (ROOT, ROOT / "deploy/client/python")
    projects = [tomllib.loads((f / "pyproject.toml").read_text())["project"] for f in folders]
    assert projects[0]["version"] == projects[1]["version"]
    assert (projects[1]["name"], projects[1]["dependencies"]) == ("recgpt-client", ["httpx>=0.27"])


@pytest.mark.parametrize("page", ["docs/client.md", "deploy/client/python/README.md"])
def test_the_examples_of_the_guide_run(page: str, running: Service) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks
    given = f'127.0.0.1:{running.port}", api_key="{SECRET}"'
    for block in blocks:
        code = re.sub(r'localhost:8000"(, api_key=None)?', given, block)
        assert code != block
        code = re.sub(r"timeout=[0-9.]+", "timeout=60", code)
        ended = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            env=os.environ | {"PYTHONPATH": str(ROOT / "deploy/client/python")},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ended.returncode == 0, block + ended.stderr
