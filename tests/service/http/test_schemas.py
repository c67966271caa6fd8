"""The largest and smallest bodies that are accepted; test_app covers those that are refused."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from model.ids import MAX_ID_LENGTH
from service.http.schemas import (
    MAX_BATCH,
    MAX_ITEMS,
    BatchRequest,
    EventsRequest,
    RecallRequest,
)

ID = "x" * MAX_ID_LENGTH
EVENT = {"user_id": "ann", "item_id": "a"}


@pytest.mark.parametrize(
    "fields",
    [
        {"k": 1},
        {"k": MAX_ITEMS},
        {"history": []},
        {"history": [ID] * 1000, "exclude": [ID] * 1000},
        {"interests": 1},
        {"interests": 8},
        {"history": None, "interests": None},
    ],
)
def test_recalls_at_the_bounds_are_accepted(fields: dict[str, Any]) -> None:
    body = {"user_id": ID} | fields
    taken = RecallRequest.model_validate_json(json.dumps(body))
    assert taken.model_dump(include=body.keys()) == body


def test_defaults_of_a_recall() -> None:
    taken = RecallRequest.model_validate_json('{"user_id":"ann"}')
    assert (taken.k, taken.history, taken.exclude, taken.interests) == (100, None, [], None)
    assert not taken.with_metadata


def test_a_full_batch_of_default_recalls_is_accepted() -> None:
    body = json.dumps({"requests": [{"user_id": "ann"}] * MAX_BATCH})
    assert len(BatchRequest.model_validate_json(body).requests) == MAX_BATCH


def test_a_thousand_events_are_accepted_as_clicks() -> None:
    taken = EventsRequest.model_validate_json(json.dumps({"events": [EVENT] * 1000}))
    assert {event.type for event in taken.events} == {"click"}


@pytest.mark.parametrize(
    "time", [0, 1.7e9, 1700000000, "2026-01-02T03:04:05Z", "2026-01-02T03:04:05.5+01:00"]
)
def test_times_are_seconds_or_iso_8601(time: float | str) -> None:
    body = json.dumps({"events": [EVENT | {"timestamp": time}]})
    assert EventsRequest.model_validate_json(body).events[0].timestamp is not None


@pytest.mark.parametrize(
    ("time", "words"),
    [
        (1700000000000, "looks like milliseconds: give seconds since 1970, divide it by 1e3"),
        (1.7e15, "looks like microseconds"),
        (1.7e18, "looks like nanoseconds"),
        (1e300, "is not a time"),
        (-1, "is not a time"),
    ],
)
def test_times_in_other_units_are_refused_by_name(time: float, words: str) -> None:
    body = json.dumps({"events": [EVENT | {"timestamp": time}]})
    with pytest.raises(ValidationError, match=words):
        EventsRequest.model_validate_json(body)


@pytest.mark.parametrize("kind", [RecallRequest, EventsRequest])
def test_the_documented_example_is_accepted(
    kind: type[RecallRequest] | type[EventsRequest],
) -> None:
    kind.model_validate_json(json.dumps(kind.model_json_schema()["example"]))
