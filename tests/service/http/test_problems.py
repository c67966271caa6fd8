"""Errors and their answers."""

from service.errors import ServiceError
from service.http.problems import ANSWERS
from service.observability.metrics import FAILURES, STATUSES


def test_every_error_has_an_answer_and_a_label() -> None:
    kinds = {ServiceError, *ServiceError.__subclasses__()}
    assert set(ANSWERS) == kinds
    assert {kind.__name__ for kind in kinds} <= set(FAILURES)
    assert {str(answer.status.value) for answer in ANSWERS.values()} <= set(STATUSES)
