"""The documents of the API in the project are those of the service as it is."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def documents() -> dict[str, str]:
    sys.path.insert(0, str(ROOT / ".ci"))
    try:
        from api_documents import documents  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    found: dict[str, str] = documents()
    return found


@pytest.mark.parametrize(
    "name", ["docs/openapi.json", "docs/api.md", "deploy/client/typescript/recgpt.d.ts"]
)
def test_document_is_current(name: str, documents: dict[str, str]) -> None:
    current = (ROOT / name).read_text(encoding="utf-8") == documents[name]
    assert current, f"{name} is not what the service says of itself: run `make api`"


def test_types_cover_all_schemas_and_operations(documents: dict[str, str]) -> None:
    document: dict[str, Any] = json.loads(documents["docs/openapi.json"])
    types = documents["deploy/client/typescript/recgpt.d.ts"]
    declared = set(re.findall(r"^export (?:interface|type) (\w+)", types, re.MULTILINE))
    assert declared == {*document["components"]["schemas"], "Operations"}
    for path, operations in document["paths"].items():
        for method in operations:
            assert f'"{method.upper()} {path}": {{' in types


def test_a_field_may_be_left_out_only_if_it_is_not_required(documents: dict[str, str]) -> None:
    types = documents["deploy/client/typescript/recgpt.d.ts"]
    (answer,) = re.findall(r"^export interface RecallResponse \{(.*?)^\}", types, re.M | re.S)
    assert "  items: Array<Candidate>;" in answer
    assert "  cursor?: string | null;" in answer
    assert "  slice: [number, number];" in types
