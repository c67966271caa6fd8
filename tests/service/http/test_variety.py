"""Caps, diversity and fresh items over HTTP: the fields of the answer, and what is refused."""

import json
import time
from typing import Any

import httpx
import pytest

from model.kinds import Kind
from service.http.schemas import RecallRequest
from service.http.variety import checked_rules
from service.recall.filters.form import canonical_form
from service.recall.served_bundle import ServedBundle
from service.recall.variety.form import Cap, Variety, unpacked

KINDS: dict[str, Kind] = {
    "genres": "categories",
    "brand": "category",
    "price": "number",
    "day": "time",
    "new": "flag",
}


def rules(**fields: Any) -> Variety | None:
    body = RecallRequest.model_validate_json(json.dumps({"user_id": "ann"} | fields))
    content = checked_rules(body.caps, body.diversity, body.fresh, KINDS)
    return None if content is None else unpacked(content)


def newer_than(field: str, gte: float) -> bytes:
    return canonical_form({"all": [{"field": field, "gte": gte}]})


def test_a_request_without_any_has_no_rules() -> None:
    assert rules() is None
    assert rules(caps=[], diversity=0) is None


def test_rules_cross_to_the_engine_as_they_are() -> None:
    caps = [{"field": "brand", "per_value": 3}, {"field": "new", "per_value": 1}]
    found = rules(caps=caps, diversity=0.5)
    assert found == Variety((Cap("brand", 3), Cap("new", 1)), 0.5)
    found = rules(fresh={"field": "price", "gte": 5, "share": 0.1})
    assert found == Variety((), 0.0, newer_than("price", 5.0), 0.1)
    found = rules(fresh={"field": "day", "gte": "1970-01-02", "share": 1})
    assert found == Variety((), 0.0, newer_than("day", 86_400.0), 1.0)


def test_days_before_now_are_counted_by_whole_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 10 * 86_400 + 5.0)
    first = rules(fresh={"field": "day", "within_days": 2, "share": 0.1})
    monkeypatch.setattr(time, "time", lambda: 10 * 86_400 + 3_599.0)
    assert rules(fresh={"field": "day", "within_days": 2, "share": 0.1}) == first
    assert first
    assert first.fresh == newer_than("day", 8 * 86_400.0)


@pytest.fixture
def varied(client: httpx.AsyncClient, bundle: ServedBundle) -> httpx.AsyncClient:
    """A service that believes its items to have attributes; none has a value."""
    client.worker.bundle = bundle._replace(attributes=KINDS)  # type: ignore[attr-defined]
    return client


pytestmark = pytest.mark.anyio
BODY = {"user_id": "u0", "history": ["i1"], "k": 5}


async def test_the_answer_tells_the_effect(varied: httpx.AsyncClient) -> None:
    plain = (await varied.post("/recall", json=BODY)).json()
    assert "variety" not in plain
    caps = [{"field": "brand", "per_value": 1}]
    capped = (await varied.post("/recall", json=BODY | {"caps": caps})).json()
    assert capped["items"] == plain["items"]  # items without a value are held back by no cap
    total = sum(item["score"] for item in plain["items"])
    assert capped["variety"]["score"] == pytest.approx(total, abs=1e-4)
    assert capped["variety"]["plain_score"] == capped["variety"]["score"]
    assert capped["variety"]["exhausted"] is False
    diverse = (await varied.post("/recall", json=BODY | {"diversity": 0.9})).json()
    assert len(diverse["items"]) == 5
    assert diverse["items"] != plain["items"]
    assert diverse["variety"]["score"] < diverse["variety"]["plain_score"]
    requests = [BODY, BODY | {"diversity": 0.9}, BODY | {"caps": caps, "k": 60}]
    answer = (await varied.post("/recall/batch", json={"requests": requests})).json()
    assert [one["items"] for one in answer["results"][:2]] == [plain["items"], diverse["items"]]
    assert [one.get("variety", {}).get("exhausted") for one in answer["results"]] == [
        None,
        False,
        True,
    ]


async def test_pages_divide_a_varied_answer(varied: httpx.AsyncClient) -> None:
    body = BODY | {"k": 12, "diversity": 0.7}
    whole = (await varied.post("/recall", json=body)).json()["items"]
    page = (await varied.post("/recall", json=body | {"page_size": 5})).json()
    found = page["items"]
    while page["cursor"]:
        page = (await varied.post("/recall", json={"cursor": page["cursor"]})).json()
        found += page["items"]
    assert found == whole


@pytest.mark.parametrize(
    ("fields", "where", "words"),
    [
        ({"caps": [{"field": "colour", "per_value": 1}]}, "caps.0.field", "brand, genres, new"),
        ({"caps": [{"field": "price", "per_value": 1}]}, "caps.0.field", "is a number"),
        ({"caps": [{"field": "brand", "per_value": 1}] * 2}, "caps.1.field", "already"),
        ({"caps": [{"field": "brand", "per_value": 0}]}, "caps.0.per_value", "greater than"),
        ({"caps": [{"field": "brand"}]}, "caps.0.per_value", "required"),
        ({"caps": [{"field": "brand", "per_value": 1}] * 9}, "caps", "at most 8"),
        ({"diversity": 1.5}, "diversity", "less than or equal to 1"),
        ({"fresh": {"field": "day", "share": 0.1}}, "fresh", "`gte` or `within_days`"),
        ({"fresh": {"field": "day", "share": 0, "gte": 1}}, "fresh.share", "greater than 0"),
        ({"fresh": {"field": "colour", "share": 0.1, "gte": 1}}, "fresh.field", "no attribute"),
        ({"fresh": {"field": "brand", "share": 0.1, "gte": 1}}, "fresh.gte", "no order"),
        ({"fresh": {"field": "price", "share": 0.1, "within_days": 3}}, "fresh.within_days", "gte"),
    ],
)
async def test_what_does_not_fit_is_refused(
    varied: httpx.AsyncClient, fields: dict[str, Any], where: str, words: str
) -> None:
    answer = await varied.post("/recall", json=BODY | fields)
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert error["where"] == where
    assert words in error["problem"]
    batch = await varied.post("/recall/batch", json={"requests": [BODY, BODY | fields]})
    assert batch.status_code == 422
    assert batch.json()["errors"][0]["where"] == f"requests.1.{where}"
