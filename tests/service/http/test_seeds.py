from typing import Any

import httpx
import pytest
from answers import ids, recall

from service.recall.recaller import Recaller

pytestmark = pytest.mark.anyio


async def test_seeds_alone_are_a_session(client: httpx.AsyncClient, recaller: Recaller) -> None:
    a, b, c = recaller.item_ids[:3]
    by_seeds = await recall(client, seeds=[a, b, c], k=10)
    assert not by_seeds["degraded"]
    assert by_seeds["items"] == (await recall(client, history=[a, b, c], k=10))["items"]
    nobody = await recall(client, user_id="nobody", seeds=[a, b, c], k=10)
    assert nobody["items"] == by_seeds["items"]


async def test_seeds_continue_a_history(client: httpx.AsyncClient, recaller: Recaller) -> None:
    a, b, c, d = recaller.item_ids[:4]
    events = [{"user_id": "ann", "item_id": item} for item in (a, b)]
    await client.post("/events", json={"events": events})
    expected = await recall(client, user_id="ann", history=[a, b, c, d], k=10)
    assert (await recall(client, user_id="ann", seeds=[c, d], k=10))["items"] == expected["items"]
    given = await recall(client, user_id="ann", history=[a, b], seeds=[c, d], k=10)
    assert given["items"] == expected["items"]
    alone = await recall(client, user_id="ann", history=[], seeds=[c, d], k=10)
    assert alone["items"] == (await recall(client, user_id="ann", history=[c, d], k=10))["items"]


async def test_the_heaviest_seed_is_the_newest(
    client: httpx.AsyncClient, recaller: Recaller
) -> None:
    a, b, c = recaller.item_ids[:3]
    seeds: list[Any] = [{"item_id": a, "weight": 2.5}, {"item_id": b, "weight": 0.5}, c]
    weighed = await recall(client, seeds=seeds, k=10)
    assert weighed["items"] == (await recall(client, history=[b, c, a], k=10))["items"]


async def test_seeds_are_never_returned(client: httpx.AsyncClient, recaller: Recaller) -> None:
    everything, seeds = set(recaller.item_ids), recaller.item_ids[:3]
    history = recaller.item_ids[2:6]
    answer = await recall(client, history=history, seeds=seeds, repeats="allow", k=40)
    assert set(ids(answer)) == everything - set(seeds)


async def test_unknown_seeds_are_counted(client: httpx.AsyncClient) -> None:
    answer = await recall(client, seeds=["a", "b"], k=5)
    assert (answer["degraded_reason"], answer["unknown_items"]) == ("unknown_items", 2)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "give a user_id, a history or seeds"),
        ({"user_id": None}, "give a user_id"),
        ({"seeds": []}, "give a user_id"),
        ({"seeds": ["a"] * 51}, "at most 50"),
        ({"seeds": [{"item_id": "a", "weight": 0}]}, "greater than 0"),
        ({"seeds": [{"weight": 1}]}, "required"),
        ({"seeds": [7]}, "seeds.0"),
    ],
)
async def test_bad_seeds_are_refused(
    client: httpx.AsyncClient, fields: dict[str, Any], words: str
) -> None:
    for path, body in (("/recall", fields), ("/recall/batch", {"requests": [fields]})):
        answer = await client.post(path, json=body)
        assert answer.status_code == 422
        assert words in answer.text
