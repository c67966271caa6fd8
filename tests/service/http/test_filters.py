"""Filters over HTTP: the fields of the answer, and what is refused."""

import json
from typing import Any

import httpx
import pytest

from model.kinds import Kind
from service.errors import Invalid
from service.http.filters import MAX_CONDITIONS, MAX_VALUES, Filter, checked_form
from service.recall.filters.form import canonical_form
from service.recall.served_bundle import ServedBundle

KINDS: dict[str, Kind] = {
    "genres": "categories",
    "brand": "category",
    "price": "number",
    "day": "time",
    "new": "flag",
}


def parsed(**groups: Any) -> Filter:
    return Filter.model_validate_json(json.dumps(groups))


@pytest.mark.parametrize(
    ("condition", "plain"),
    [
        ({"field": "genres", "in": ["b", "a", "b"]}, {"in": ["a", "b"]}),
        ({"field": "brand", "in": [""]}, {"in": [""]}),
        ({"field": "price", "in": [1, 2.5]}, {"in": [1.0, 2.5]}),
        ({"field": "price", "lt": 3}, {"lt": 3.0}),
        ({"field": "price", "in": [4], "gte": 3}, {"in": [4.0], "gte": 3.0}),
        ({"field": "new", "in": [True]}, {"in": [True]}),
        ({"field": "day", "gt": 86400}, {"gt": 86400.0}),
        ({"field": "day", "lte": "1970-01-02"}, {"lte": 86400.0}),
        ({"field": "day", "lte": "1970-01-02T01:00:00+01:00"}, {"lte": 86400.0}),
    ],
)
def test_conditions_that_suit_the_attribute(
    condition: dict[str, Any], plain: dict[str, Any]
) -> None:
    form = checked_form(parsed(none=[condition]), KINDS)
    assert form == canonical_form({"none": [{"field": condition["field"], **plain}]})


@pytest.mark.parametrize(
    ("condition", "where", "words"),
    [
        ({"field": "colour", "in": ["x"]}, "field", "has brand, day, genres, new, price"),
        ({"field": "genres", "in": [1]}, "in", "is a categories: give strings"),
        ({"field": "brand", "gt": 1}, "gt", "has no order: give `in`"),
        ({"field": "price", "in": ["1"]}, "in", "is a number: give numbers"),
        ({"field": "price", "in": [True]}, "in", "is a number: give numbers"),
        ({"field": "price", "lt": "2020-01-01"}, "lt", "is a number: give a number"),
        ({"field": "new", "in": [1]}, "in", "is a flag: give true or false"),
        ({"field": "day", "in": [1]}, "in", "is a time: give bounds"),
    ],
)
def test_conditions_that_do_not_are_named(
    condition: dict[str, Any], where: str, words: str
) -> None:
    fine = {"field": "price", "lt": 1}
    with pytest.raises(Invalid) as error:
        checked_form(parsed(any=[fine, condition]), KINDS, "requests.3.")
    (field,) = error.value.fields
    assert field.where == f"requests.3.filter.any.1.{where}"
    assert words in field.problem


@pytest.fixture
def filterable(client: httpx.AsyncClient, bundle: ServedBundle) -> httpx.AsyncClient:
    """A service that believes its items to have attributes; none has a value."""
    client.worker.bundle = bundle._replace(attributes=KINDS)  # type: ignore[attr-defined]
    return client


pytestmark = pytest.mark.anyio
COMEDY = {"all": [{"field": "genres", "in": ["Comedy"]}]}
NO_COMEDY = {"none": [{"field": "genres", "in": ["Comedy"]}]}


async def test_the_answer_tells_the_effect(filterable: httpx.AsyncClient) -> None:
    body = {"user_id": "u0", "history": ["i1"], "k": 5}
    plain = (await filterable.post("/recall", json=body)).json()
    assert "filter" not in plain
    none = (await filterable.post("/recall", json=body | {"filter": COMEDY})).json()
    assert (none["items"], none["filter"]) == ([], {"matched": 0, "exhausted": True})
    every = (await filterable.post("/recall", json=body | {"filter": NO_COMEDY})).json()
    assert every["items"] == plain["items"]
    assert every["filter"] == {"matched": 40, "exhausted": False}
    requests = [body, body | {"filter": COMEDY}, body | {"filter": NO_COMEDY, "k": 60}]
    together = await filterable.post("/recall/batch", json={"requests": requests})
    effects = [one.get("filter") for one in together.json()["results"]]
    assert effects == [None, none["filter"], {"matched": 40, "exhausted": True}]


async def test_stored_histories_are_filtered(filterable: httpx.AsyncClient) -> None:
    events = {"events": [{"user_id": "ann", "item_id": "i3"}]}
    assert (await filterable.post("/events", json=events)).status_code == 200
    answer = await filterable.post("/recall", json={"user_id": "ann", "filter": COMEDY})
    assert answer.json()["filter"] == {"matched": 0, "exhausted": True}


async def test_filters_are_counted(filterable: httpx.AsyncClient) -> None:
    for given, k in ((COMEDY, 5), (NO_COMEDY, 5), (NO_COMEDY, 60)):
        body = {"user_id": "u0", "history": ["i1"], "k": k, "filter": given}
        await filterable.post("/recall", json=body)
    text = (await filterable.get("/metrics")).text
    for result in ("full", "exhausted", "no_match"):
        assert f'recgpt_filtered_recalls_total{{result="{result}"}} 1.0' in text
    assert "recgpt_filter_unknown_values_total 0.0" in text


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "1 to 16 conditions"),
        ({"all": []}, "1 to 16 conditions"),
        ({"all": [{"field": "genres", "in": ["x"]}] * 9, "any": COMEDY["all"] * 8}, "1 to 16"),
        ({"all": COMEDY["all"] * (MAX_CONDITIONS + 1)}, "at most 16 items"),
        ({"all": [{"field": "genres"}]}, "needs `in` or a bound"),
        ({"all": [{"field": "genres", "in": []}]}, "at least 1 item"),
        ({"all": [{"field": "genres", "in": ["x"] * (MAX_VALUES + 1)}]}, "at most 256 items"),
        ({"all": [{"field": "genres", "in": ["x" * 513]}]}, "at most 512 characters"),
        ({"all": [{"field": "genres", "in": [None]}]}, "filter.all.0.in.0"),
        ({"all": [{"field": "genres", "equals": "x"}]}, "filter.all.0.equals: Extra inputs"),
        ({"every": []}, "filter.every: Extra inputs"),
        ({"all": [{"field": "colour", "in": ["x"]}]}, "has brand, day, genres, new, price"),
        ([], "filter"),
    ],
)
async def test_other_filters_are_refused(
    filterable: httpx.AsyncClient, given: Any, words: str
) -> None:
    body = {"user_id": "u0", "history": ["i1"], "filter": given}
    answer = await filterable.post("/recall", json=body)
    assert answer.status_code == 422, answer.text
    assert words in answer.json()["detail"]
    assert answer.json()["errors"]
    batch = await filterable.post("/recall/batch", json={"requests": [body]})
    assert batch.status_code == 422
    assert batch.json()["errors"][0]["where"].startswith("requests.0.filter")


async def test_a_bundle_without_attributes_says_so(client: httpx.AsyncClient) -> None:
    answer = await client.post("/recall", json={"user_id": "u0", "filter": COMEDY})
    assert answer.status_code == 422
    assert "this bundle has none" in answer.json()["detail"]
