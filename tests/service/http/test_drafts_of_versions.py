"""Interleaved versions: one list of two catalogues, whose rows mean different items."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
import tiny
from answers import ids, sample
from in_process_worker import InProcessWorker, client_of
from served import served_bundle

from model.data.dataset import Dataset
from service.experiments.export import export_log
from service.history.store import HistoryStore
from service.http.app import create_app
from service.offline import export_bundle
from service.recall.recaller import Recaller
from service.recall.types import Query
from service.settings import ServeSettings

pytestmark = pytest.mark.anyio

FILE = """
[network]
interleave = true

[network.arms.old]
version = "{old}"

[network.arms.new]
version = "{new}"
recall = {{ interests = 2 }}
"""
HISTORY = [f"i{row}" for row in range(5)]


def version_of(dataset: Dataset, colour: str, folder: Path) -> InProcessWorker:
    """A worker of a bundle whose items all have this colour."""
    items = dataset.items.with_columns(colour=colour + pl.lit(" ") + pl.col("item_id"))
    coloured = replace(dataset, name=colour, items=items, kinds={"colour": "category"})
    model = tiny.gpt(catalogue=dataset.catalogue, users=dataset.users)
    export_bundle(folder, coloured, model, tiny.RECALL, {})
    recaller = Recaller.load(folder, "cpu")
    recaller.warm_up()
    (folder / "metadata").mkdir()
    return InProcessWorker(recaller, bundle=served_bundle(recaller, folder / "metadata"))


@pytest.fixture
async def client(dataset: Dataset, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    old = version_of(dataset, "old", tmp_path / "old")
    new = version_of(tiny.walks(tmp_path / "more", items=50, seed=1), "new", tmp_path / "new")
    assert old.bundle
    assert new.bundle
    experiments = tmp_path / "experiments.toml"
    experiments.write_text(FILE.format(old=old.bundle.version, new=new.bundle.version))
    settings = ServeSettings(
        artifacts=tmp_path, store="", deadline_ms=60_000, experiments=experiments
    )
    store = HistoryStore.open(f"embedded:{tmp_path / 'histories'}")
    old.arms[new.bundle.version] = new
    app = create_app(settings, old, store)
    async with client_of(app) as client:
        client.store = store  # type: ignore[attr-defined]
        client.old = old  # type: ignore[attr-defined]
        client.new = new  # type: ignore[attr-defined]
        yield client


async def recall(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    found: dict[str, Any] = (await client.post("/recall", json=body)).raise_for_status().json()
    return found


def versions(client: httpx.AsyncClient) -> dict[str, str]:
    return {
        "old": client.old.bundle.version,  # type: ignore[attr-defined]
        "new": client.new.bundle.version,  # type: ignore[attr-defined]
    }


async def list_of(worker: InProcessWorker, interests: int | None, k: int) -> list[str]:
    recaller = worker._recaller
    assert isinstance(recaller, Recaller)
    (found,), _ = recaller.recall([Query("ann", HISTORY, k=k, interests=interests)])
    return recaller.ids_of(found)


async def test_a_draft_holds_items_of_both_catalogues_once(client: httpx.AsyncClient) -> None:
    found = await recall(client, user_id="ann", history=HISTORY, k=30, with_metadata=True)
    told = [{"experiment": "network", "arm": "interleaved", "versions": versions(client)}]
    assert found["experiments"] == told
    assert found["version"] == versions(client)["old"]
    assert len(set(ids(found))) == 30
    for team, interests in ("old", None), ("new", 2):
        own = await list_of(getattr(client, team), interests, 30)
        picked = [one for one in found["items"] if one["team"] == team]
        assert len(picked) == 15
        names = [one["item_id"] for one in picked]
        assert names == [item for item in own if item in names]  # in the order of its list
        for one in picked:  # of the version that picked it, whose row it is
            assert one["metadata"]["colour"] == f"{team} {one['item_id']}"
    assert any(int(item[1:]) >= 40 for item in ids(found))  # which the old version lacks


async def test_pages_go_on_with_both_versions(client: httpx.AsyncClient, tmp_path: Path) -> None:
    first = await recall(client, user_id="ann", history=HISTORY, k=30, page_size=10)
    second = await recall(client, cursor=first["cursor"], with_metadata=True)
    assert second["version"] == versions(client)["old"]
    for one in second["items"]:
        assert one["metadata"]["colour"] == f"{one['team']} {one['item_id']}"
    assert not {*ids(first)} & {*ids(second)}
    worker: InProcessWorker = client.old  # type: ignore[attr-defined]
    gone = worker.arms.pop(versions(client)["new"])
    third = await recall(client, cursor=second["cursor"])
    assert len(ids(third)) == 10
    answer = await client.post("/recall", json={"cursor": second["cursor"], "with_metadata": True})
    assert answer.status_code == 422
    assert "its version is not served any more" in answer.text
    worker.arms[versions(client)["new"]] = gone
    again = await recall(client, cursor=second["cursor"], with_metadata=True)
    store: HistoryStore = client.store  # type: ignore[attr-defined]
    async with asyncio.timeout(60):
        while await store._client.xlen("exposures") < 4:
            await asyncio.sleep(0.01)
    await export_log(store, tmp_path / "log")
    shown = pl.read_parquet(tmp_path / "log" / "exposures" / "*.parquet")
    answered = [one["request_id"] for one in (first, second, third, again)]
    assert sorted(shown["request_id"]) == sorted(answered)  # none that was refused
    assert shown["arm"].unique().to_list() == ["interleaved"]
    assert shown["teams"].str.contains('"new":').all()


async def test_without_one_of_the_versions_there_is_no_draft(client: httpx.AsyncClient) -> None:
    worker: InProcessWorker = client.old  # type: ignore[attr-defined]
    del worker.arms[versions(client)["new"]]
    found = await recall(client, user_id="ann", history=HISTORY, k=10)
    assert "experiments" not in found
    assert "team" not in found["items"][0]
    assert sample((await client.get("/metrics")).text, "recgpt_arm_fallbacks_total") >= 1


async def test_an_answer_of_another_version_than_the_arms_is_no_draft(
    client: httpx.AsyncClient,
) -> None:
    """The served version changes while a recall waits: its side would be another version's."""
    worker: InProcessWorker = client.old  # type: ignore[attr-defined]
    bundle = worker.bundle
    assert bundle
    asked = worker.recall

    async def after_a_change(queries: Any) -> Any:
        found = await asked(queries)
        return replace(found, bundle=bundle._replace(version="newest"))

    worker.recall = after_a_change  # type: ignore[method-assign]
    found = await recall(client, user_id="ann", history=HISTORY, k=10)
    assert found["version"] == "newest"
    assert "experiments" not in found
    assert "team" not in found["items"][0]
