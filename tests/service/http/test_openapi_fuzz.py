"""Requests that are made from the OpenAPI document, fit for it or nearly: no answer is a 5xx.

`make fuzz` tries many more (RECGPT_FUZZ_EXAMPLES for each operation).
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from mutations import Record
from running_service import service
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

EXAMPLES = int(os.environ.get("RECGPT_FUZZ_EXAMPLES", "8"))


def no_error_of_the_service(context: Any, response: Any, case: Any) -> None:
    """Only a client that asks for it is told that its time is over."""
    if response.status_code >= 500:
        assert response.status_code == 504, response.text
        assert "x-deadline-ms" in (case.headers or {}), response.text


CHECKS = [
    no_error_of_the_service,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]


@pytest.fixture(scope="module")
def api(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("fuzz")
    options = {"RECGPT_EXPLORER": "true", "RECGPT_DEADLINE_MS": "60000"}
    with service(artifacts, f"embedded:{folder / 'store'}", folder, **options) as running:
        yield schemathesis.openapi.from_url(f"{running.client.base_url}/openapi.json")
        assert running.process.poll() is None
        assert '"level": "ERROR"' not in running.log.read_text()


def test_no_request_ends_in_an_error_of_the_service(api: Any, record_property: Record) -> None:
    cases = 0
    for found in api.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy())
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=EXAMPLES < 100,
            suppress_health_check=list(HealthCheck),
        )
        def check(case: Any) -> None:
            nonlocal cases
            cases += 1
            case.call_and_validate(checks=CHECKS)

        check()
    record_property("cases", cases)


def test_the_document_is_complete(api: Any) -> None:
    paths = httpx.get(api.location).json()["paths"]
    assert {"/recall", "/recall/batch", "/events", "/users/{user_id}"} <= set(paths)
