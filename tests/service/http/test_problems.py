"""Errors and their answers."""

import pytest
from pydantic import ValidationError

from service.errors import ServiceError
from service.http.problems import ANSWERS, validation_error
from service.http.schemas import EventsRequest, RecallRequest
from service.observability.metrics import FAILURES, STATUSES


def test_every_error_has_an_answer_and_a_label() -> None:
    kinds = {ServiceError, *ServiceError.__subclasses__()}
    assert set(ANSWERS) == kinds
    assert {kind.__name__ for kind in kinds} <= set(FAILURES)
    assert {str(answer.status.value) for answer in ANSWERS.values()} <= set(STATUSES)


def told(kind: type[RecallRequest] | type[EventsRequest], body: str) -> dict[str, str]:
    with pytest.raises(ValidationError) as error:
        kind.model_validate_json(body)
    return dict(validation_error(error.value).fields)


def test_a_value_of_several_types_is_one_problem_with_the_name_of_its_field() -> None:
    event = '{"events":[{"user_id":"a","item_id":"b","timestamp":"2024-13-01"}]}'
    (where,) = fields = told(EventsRequest, event)
    assert where == "events.0.timestamp"
    number, date = fields[where].split("; or: ")
    assert number == "Input should be a valid number"
    assert date.startswith("Input should be a valid datetime")
    fields = told(RecallRequest, '{"user_id":"a","repeats":{"after_days":-1}}')
    assert fields["repeats.after_days"] == "Input should be greater than 0"
    assert fields.keys() == {"repeats", "repeats.after_days"}
    fields = told(RecallRequest, '{"user_id":"a","float":1,"int":{"K":2}}')
    assert fields.keys() == {"float", "int"}
