"""Any text that data preparation accepts as an id comes back equal from all that knows it."""

import asyncio
import csv
import json
from collections.abc import Sequence
from pathlib import Path

import httpx
import polars as pl
import pytest
import tiny
from appending import PATIENT
from hypothesis import example, given, settings
from hypothesis import strategies as st
from id_strategies import IDS, WRAPPED, is_id
from in_process_worker import InProcessWorker
from redis_server import RedisServer
from served import served_bundle
from stored import items_of

from model.artifact.bundle import load_artifact
from model.artifact.config import AddConfig
from model.data.config import PrepareConfig
from model.data.dataset import Dataset
from model.data.prepare import prepare
from service.history.store import HistoryStore
from service.http.app import create_app
from service.offline import add_items, export_bundle, load_histories
from service.recall.recaller import Recaller
from service.recall.types import Query
from service.settings import ServeSettings

Rows = Sequence[tuple[str, str]]


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    users=st.lists(IDS, min_size=2, max_size=4, unique=True),
    items=st.lists(IDS, min_size=6, max_size=12, unique=True),
    new=st.lists(IDS, min_size=2, max_size=4, unique=True),
)
@example(users=WRAPPED[:2], items=WRAPPED, new=["new"])
@example(users=WRAPPED, items=["new"], new=WRAPPED)
def test_ids_come_back_equal(
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: RedisServer,
    users: list[str],
    items: list[str],
    new: list[str],
) -> None:
    folder = tmp_path_factory.mktemp("ids")
    users = [*users, *{"ann", "bob"}.difference(users)]
    items = [*items, *{"tea", "rye", "jam"}.difference(items)]
    rows = [(user, item) for user in users for item in items]
    dataset = prepared_from_parquet(folder, rows)
    prepared_from_csv(folder, rows)
    artifacts = folder / "artifacts"
    model = tiny.gpt(catalogue=dataset.catalogue, users=dataset.users)
    bundle = export_bundle(artifacts, dataset, model, tiny.RECALL, {})
    artifact = load_artifact(bundle)
    assert artifact.items["item_id"].to_list() == dataset.item_ids
    assert artifact.user_rows
    assert [artifact.user_rows.get(one) for one in dataset.user_ids] == [*range(dataset.users)]
    recaller = Recaller.load(artifacts, "cpu")
    check_recaller(recaller, dataset)
    redis_server.flush()
    for url in (redis_server.url, f"embedded:{folder / 'histories'}"):
        asyncio.run(check_service(recaller, dataset, url, folder))
    check_added_items(folder, artifacts, dataset, new)


def prepared_from_parquet(folder: Path, rows: Rows) -> Dataset:
    """Returns the data set of the rows after checking that it holds every id as it stands."""
    log = folder / "log.parquet"
    pl.DataFrame(rows, schema=["user", "item"], orient="row").write_parquet(log)
    dataset = prepared(log)
    accepted = [(user, item) for user, item in rows if is_id(user) and is_id(item)]
    found = [
        (user, dataset.item_ids[row])
        for number, user in enumerate(dataset.user_ids)
        for row in dataset.history(number)
    ]
    assert sorted(found) == sorted(accepted)
    histories = {user: [i for u, i in accepted if u == user] for user in dataset.user_ids}
    assert found == [(user, item) for user, history in histories.items() for item in history]
    return dataset


def prepared_from_csv(folder: Path, rows: Rows) -> None:
    """Checks that CSV gives the same ids, but without blanks and tabs around them."""
    log = folder / "log.csv"
    with log.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("user", "item"), *rows])
    dataset = prepared(log)
    bare = [(user.strip(" \t"), item.strip(" \t")) for user, item in rows]
    accepted = [(user, item) for user, item in bare if is_id(user) and is_id(item)]
    assert set(dataset.user_ids) == {user for user, _ in accepted}
    assert set(dataset.item_ids) == {item for _, item in accepted}


def prepared(log: Path) -> Dataset:
    config = PrepareConfig(
        input=log,
        out=log.parent / f"data-{log.suffix[1:]}",
        in_order=True,
        min_user_events=0,
        min_item_events=0,
        name="ids",
    )
    prepare(config)
    return Dataset.load(config.out)


def check_recaller(recaller: Recaller, dataset: Dataset) -> None:
    """Every item is found in a history and in `exclude`, and every other item is a candidate."""
    known, size = set(dataset.item_ids), dataset.catalogue
    assert recaller.item_ids == dataset.item_ids
    queries = [
        Query(dataset.user_ids[0], [item], exclude, size)
        for number, item in enumerate(dataset.item_ids)
        for exclude in ([], [dataset.item_ids[number - 1]])
    ]
    answers, _ = recaller.recall(queries)
    encoded, _ = recaller.recall_json(queries)
    for query, answer, written in zip(queries, answers, encoded, strict=True):
        assert (answer.unknown_items, answer.cold) == (0, False)
        found = recaller.ids_of(answer)
        assert len(found) == len(set(found))
        assert set(found) == known - {*query.history, *query.exclude}
        assert [candidate["item_id"] for candidate in json.loads(written.json)] == found


async def check_service(recaller: Recaller, dataset: Dataset, url: str, folder: Path) -> None:
    """Events are stored for their users, and recalls leave out what these users have seen."""
    store = HistoryStore.open(url, timeout_ms=PATIENT)
    bundle = served_bundle(recaller, folder)
    options = ServeSettings(artifacts=recaller.bundle, store="", deadline_ms=60_000)
    app = create_app(options, InProcessWorker(recaller, bundle=bundle), store)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        seen = {
            user: [dataset.item_ids[(number + at) % dataset.catalogue] for at in range(2)]
            for number, user in enumerate(dataset.user_ids)
        }
        events = [
            {"user_id": user, "item_id": item} for user, history in seen.items() for item in history
        ]
        answer = await client.post("/events", json={"events": events})
        assert answer.json() == {"accepted": len(events), "stored": len(events)}
        assert await items_of(store, dataset.user_ids) == list(seen.values())
        requests = [
            {"user_id": user, "k": dataset.catalogue, "exclude": [item]}
            for user in seen
            for item in dataset.item_ids
        ]
        # in ASCII with escapes, unlike the events
        body = json.dumps({"requests": requests}, ensure_ascii=True)
        answer = await client.post("/recall/batch", content=body)
        assert answer.status_code == 200, answer.text
        for request, result in zip(requests, answer.json()["results"], strict=True):
            assert (result["unknown_items"], result["degraded"]) == (0, False)
            found = {candidate["item_id"] for candidate in result["items"]}
            left_out = {*seen[request["user_id"]], *request["exclude"]}
            assert found == set(dataset.item_ids) - left_out
    assert await load_histories(dataset, url, overwrite=True) == dataset.users
    store = HistoryStore.open(url, timeout_ms=PATIENT)
    whole = [[dataset.item_ids[r] for r in dataset.history(u)] for u in range(dataset.users)]
    assert await items_of(store, dataset.user_ids) == whole
    await store.close()


def check_added_items(folder: Path, artifacts: Path, dataset: Dataset, new: list[str]) -> None:
    """Every new id is added behind the others, and is known from then on."""
    new = [*new, "brand new"]
    table = folder / "new.parquet"
    neighbours = [[dataset.item_ids[number % dataset.catalogue]] for number in range(len(new))]
    pl.DataFrame({"item_id": new, "neighbours": neighbours}).write_parquet(table)
    add_items(AddConfig(artifacts=artifacts, items=table))
    recaller = Recaller.load(artifacts, "cpu")
    added = [item for item in new if is_id(item) and item not in dataset.item_ids]
    assert recaller.item_ids == [*dataset.item_ids, *added]
    queries = [Query("ann", [item], k=recaller.catalogue_size) for item in added]
    answers, _ = recaller.recall(queries)
    for item, answer in zip(added, answers, strict=True):
        assert answer.unknown_items == 0
        assert set(recaller.ids_of(answer)) == {*recaller.item_ids} - {item}
