"""Requests that tests send to the HTTP API, and the parts of answers that they look at."""

from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families


async def recall(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await client.post("/recall", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def sample(text: str, name: str, **labels: str) -> float:
    for family in text_string_to_metric_families(text):
        for found in family.samples:
            if found.name == name and found.labels == labels:
                return float(found.value)
    raise AssertionError(f"no sample {name} {labels}")
