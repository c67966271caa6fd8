"""The operations on one item, over the embedded store and an engine in the same process."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import httpx
import polars as pl
import pytest
from in_process_worker import InProcessWorker, client_of
from prometheus_client.parser import text_string_to_metric_families
from served import served_bundle
from tiny import RECALL

from model.data.dataset import Dataset
from model.network.gpt import GPT
from service.catalogue.state import CatalogueState
from service.history.store import HistoryStore
from service.http.app import create_app
from service.offline import export_bundle
from service.recall.recaller import Recaller
from service.settings import ServeSettings

pytestmark = pytest.mark.anyio

ODD = "a/b ü?#"


@pytest.fixture(scope="module")
def catalogue(dataset: Dataset) -> Dataset:
    """With attributes, and an id that paths must escape."""
    ids = [ODD, *dataset.item_ids[1:]]
    items = dataset.items.with_columns(item_id=pl.Series(ids)).with_columns(
        title=pl.format("Item {}", "item_id"),
        price=pl.int_range(pl.len()) / 10,
        stock=pl.lit(True),
        tags=pl.concat_list(pl.lit("a"), pl.lit("b")),
    )
    kinds = {"title": "text", "price": "number", "stock": "flag", "tags": "categories"}
    return replace(dataset, item_ids=ids, items=items, kinds=kinds)


@pytest.fixture(scope="module")
def recaller(catalogue: Dataset, model: GPT, tmp_path_factory: pytest.TempPathFactory) -> Recaller:
    folder = tmp_path_factory.mktemp("attributes")
    export_bundle(folder, catalogue, model, RECALL, {})
    recaller = Recaller.load(folder, "cpu")
    recaller.warm_up()  # compiles, which on a busy machine may take longer than any deadline
    return recaller


@pytest.fixture
async def client(recaller: Recaller, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    settings = ServeSettings(artifacts=tmp_path, store="", deadline_ms=60_000)
    store = HistoryStore.open(f"embedded:{tmp_path / 'histories'}")
    bundle, state = served_bundle(recaller, tmp_path), CatalogueState()
    state.listen(lambda change: recaller.update_items(*bundle.items.take(*change)))
    app = create_app(settings, InProcessWorker(recaller, bundle=bundle), store, catalogue=state)
    async with client_of(app) as client:
        client.store = store  # type: ignore[attr-defined]
        client.app = app  # type: ignore[attr-defined]
        yield client
    recaller.update_items([], {})


async def recalled(client: httpx.AsyncClient, catalogue: Dataset) -> list[dict[str, object]]:
    body = {"user_id": "x", "history": catalogue.item_ids[3:6], "k": 20, "with_metadata": True}
    answer = await client.post("/recall", json=body)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, object]] = answer.json()["items"]
    return items


async def test_an_item_is_returned_as_the_bundle_has_it(client: httpx.AsyncClient) -> None:
    answer = await client.get(f"/items/{quote(ODD, safe='')}")
    assert answer.status_code == 200
    about = answer.json()
    assert about.pop("version").startswith("walks-")
    assert about == {
        "item_id": ODD,
        "hidden": False,
        "attributes": {"title": f"Item {ODD}", "price": 0.0, "stock": True, "tags": ["a", "b"]},
        "changed": [],
        "ignored": [],
    }


async def test_a_hidden_item_is_in_no_answer_at_once(
    client: httpx.AsyncClient, catalogue: Dataset
) -> None:
    first = (await recalled(client, catalogue))[0]["item_id"]
    path = f"/items/{first}"
    for _ in range(2):
        hidden = await client.put(f"{path}/hidden")
        assert (hidden.status_code, hidden.json()["hidden"]) == (200, True)
    assert first not in [item["item_id"] for item in await recalled(client, catalogue)]
    assert (await client.get(path)).json()["hidden"] is True
    for _ in range(2):
        shown = await client.delete(f"{path}/hidden")
        assert (shown.status_code, shown.json()["hidden"]) == (200, False)
    assert (await recalled(client, catalogue))[0]["item_id"] == first


async def test_changed_attributes_are_in_answers_until_they_are_taken_back(
    client: httpx.AsyncClient, catalogue: Dataset
) -> None:
    first = (await recalled(client, catalogue))[0]
    path = f"/items/{first['item_id']}"
    new = {"price": 3.99, "stock": False, "tags": ["c"], "title": "New"}
    changed = (await client.patch(path, json=new)).json()
    assert changed["attributes"] == new
    assert changed["changed"] == sorted(new)
    assert (await client.get(path)).json() == changed
    assert (await recalled(client, catalogue))[0]["metadata"] == new
    back = (await client.patch(path, json=dict.fromkeys(new))).json()
    assert back["attributes"] == first["metadata"]
    assert back["changed"] == []
    assert (await recalled(client, catalogue))[0] == first


async def test_a_page_leaves_out_items_that_were_hidden_meanwhile(
    client: httpx.AsyncClient, catalogue: Dataset
) -> None:
    ids = [item["item_id"] for item in await recalled(client, catalogue)]
    body = {"user_id": "x", "history": catalogue.item_ids[3:6], "k": 20, "page_size": 10}
    first = (await client.post("/recall", json=body)).json()
    await client.put(f"/items/{quote(str(ids[12]), safe='')}/hidden")
    second = await client.post("/recall", json={"cursor": first["cursor"]})
    found = [item["item_id"] for page in (first, second.json()) for item in page["items"]]
    assert found == [*ids[:12], *ids[13:]]
    await client.delete(f"/items/{quote(str(ids[12]), safe='')}/hidden")


async def test_filters_read_changed_attributes(
    client: httpx.AsyncClient, catalogue: Dataset
) -> None:
    item = catalogue.item_ids[20]
    body = {"user_id": "x", "history": catalogue.item_ids[3:6], "k": 5}
    body["filter"] = {"all": [{"field": "price", "gte": 100}]}

    async def allowed() -> list[str]:
        answer = (await client.post("/recall", json=body)).json()
        return [one["item_id"] for one in answer["items"]]

    assert await allowed() == []
    await client.patch(f"/items/{item}", json={"price": 150})
    assert await allowed() == [item]
    await client.put(f"/items/{item}/hidden")
    assert await allowed() == []
    await client.delete(f"/items/{item}/hidden")
    await client.patch(f"/items/{item}", json={"price": None})
    assert await allowed() == []


@pytest.mark.parametrize(
    ("body", "where", "problem"),
    [
        ({"prize": 3}, "prize", "is no attribute; the bundle has: title, price, stock, tags"),
        ({"item_id": "x"}, "item_id", "is no attribute"),
        ({"price": "3"}, "price", "must be a number (kind: number)"),
        ({"stock": 1}, "stock", "must be true or false (kind: flag)"),
        ({"tags": "a"}, "tags", "must be a list of strings (kind: categories)"),
        ({"title": ["a"]}, "title", "must be a string (kind: text)"),
        ({"title": "x" * 10_001}, "title", "has more than 10,000 characters (kind: text)"),
        ({"price": 1e400}, "price", "is no finite number (kind: number)"),
    ],
)
async def test_a_wrong_value_is_named_and_changes_nothing(
    client: httpx.AsyncClient, body: dict[str, object], where: str, problem: str
) -> None:
    content = json.dumps({"price": 5} | body).replace("Infinity", "1e400")
    refused = await client.patch("/items/i3", content=content)
    assert refused.status_code == 422, refused.text
    (error,) = refused.json()["errors"]
    assert error["where"] == where
    assert problem in error["problem"]
    assert (await client.get("/items/i3")).json()["changed"] == []


@pytest.mark.parametrize(
    ("content", "status"),
    [
        ("{}", 422),
        ("[]", 422),
        (json.dumps({f"field {n}": 1 for n in range(65)}), 422),
        ("{", 400),
        ('{"title": "\\ud800"}', 400),
        ('{"price": ' + "9" * 400 + "}", 422),
        ('{"price": ' + "9" * 5000 + "}", 400),
    ],
)
async def test_other_bodies_are_refused(
    client: httpx.AsyncClient, content: str, status: int
) -> None:
    refused = await client.patch("/items/i3", content=content)
    assert refused.status_code == status, refused.text
    assert refused.headers["content-type"] == "application/problem+json"


async def test_an_item_that_the_bundle_lacks_is_not_found(client: httpx.AsyncClient) -> None:
    path = "/items/nobody"
    answers = [
        await client.get(path),
        await client.patch(path, json={"price": 3}),
        await client.put(f"{path}/hidden"),
        await client.delete(f"{path}/hidden"),
    ]
    for answer in answers:
        assert answer.status_code == 404
        assert "has no item of this id" in answer.json()["detail"]
    assert (await client.get(f"/items/{'x' * 513}")).status_code == 422
    assert not await client.store._client.smembers("hidden")  # type: ignore[attr-defined]


async def test_keys_of_another_type_are_a_conflict_that_says_what_to_do(
    client: httpx.AsyncClient,
) -> None:
    redis = client.store._client  # type: ignore[attr-defined]
    await redis.set("i:i3", "something else")
    await redis.set("hidden", "something else")
    changed = await client.patch("/items/i3", json={"price": 3})
    assert (changed.status_code, changed.json()["detail"]) == (
        409,
        "the key i:i3 has another type: delete it",
    )
    assert (await client.put("/items/i3/hidden")).status_code == 409


async def test_the_number_of_hidden_items_is_bounded(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.http.item_routes.MAX_HIDDEN", 1)
    assert (await client.put("/items/i3/hidden")).status_code == 200
    refused = await client.put("/items/i4/hidden")
    assert refused.status_code == 409
    assert "1 items are hidden, and no more can be" in refused.json()["detail"]
    assert (await client.put("/items/i3/hidden")).status_code == 200, "it stays hidden"


async def test_values_that_a_job_wrote_wrong_are_ignored_and_shown(
    client: httpx.AsyncClient, catalogue: Dataset
) -> None:
    redis = client.store._client  # type: ignore[attr-defined]
    await redis.hset("i:i3", mapping={"price": "cheap", "prise": "3", "stock": "no"})
    await client.patch("/items/i3", json={"tags": ["z"]})
    about = (await client.get("/items/i3")).json()
    assert about["changed"] == ["stock", "tags"]
    assert about["ignored"] == [
        "price is no finite number",
        "prise is no attribute of the bundle",
    ]
    await recalled(client, catalogue)


async def test_metrics_tell_of_hidden_and_changed_items(client: httpx.AsyncClient) -> None:
    redis = client.store._client  # type: ignore[attr-defined]
    await redis.sadd("hidden", "unknown")
    await redis.hset("i:i4", mapping={"price": "cheap"})
    await client.patch("/items/i4", json={"stock": False})
    await client.put("/items/i3/hidden")
    text = (await client.get("/metrics")).text
    families = text_string_to_metric_families(text)
    found = {s.name: s.value for family in families for s in family.samples if not s.labels}
    assert found["recgpt_hidden_items"] >= 1
    assert found["recgpt_changed_items"] == 1
    assert found["recgpt_ignored_attributes"] == 1
    assert 0 <= found["recgpt_items_age_seconds"] < 60
    assert 'recgpt_item_changes_total{kind="attributes"} 1.0' in text
    assert 'route="/items/{item_id}"' in text
    assert 'route="/items/{item_id}/hidden"' in text


async def test_the_operations_are_described_with_examples_that_work(
    client: httpx.AsyncClient,
) -> None:
    paths = client.app.openapi()["paths"]  # type: ignore[attr-defined]
    assert {*paths["/items/{item_id}"]} == {"get", "patch"}
    assert {*paths["/items/{item_id}/hidden"]} == {"put", "delete"}
    schemas = client.app.openapi()["components"]["schemas"]  # type: ignore[attr-defined]
    assert set(schemas["ItemResponse"]["example"]) == set(schemas["ItemResponse"]["properties"])
    assert schemas["ItemPatch"]["example"] == {"price": 3.99, "in_stock": True}
