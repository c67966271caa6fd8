import time

import httpx
import pytest
from answers import ids, recall

from service.history.events import DAY_SECONDS
from service.recall.recaller import Recaller

pytestmark = pytest.mark.anyio


async def test_repeats_of_a_history_in_the_request(
    client: httpx.AsyncClient, recaller: Recaller
) -> None:
    history, exclude = recaller.item_ids[:5], recaller.item_ids[3:8]
    asked = {"user_id": "ann", "history": history, "exclude": exclude, "k": 40}
    everything = set(recaller.item_ids)
    allowed = await recall(client, **asked, repeats="allow")
    assert set(ids(allowed)) == everything - set(exclude)
    assert not allowed["degraded"]
    for repeats in ("never", {"after_days": 0.001}):  # the items have no times
        never = await recall(client, **asked, repeats=repeats)
        assert set(ids(never)) == everything - set(exclude) - set(history)


async def test_repeats_of_a_stored_history(client: httpx.AsyncClient, recaller: Recaller) -> None:
    old, new, bad, *others = recaller.item_ids
    events = [
        {
            "user_id": "ann",
            "item_id": item,
            "type": kind,
            "timestamp": time.time() - days * DAY_SECONDS,
        }
        for item, kind, days in ((old, "purchase", 40), (bad, "dislike", 39), (new, "view", 3))
    ]
    await client.post("/events", json={"events": events})
    expected = {
        "never": set(others),
        "allow": {old, new, *others},
    }
    for repeats, items in expected.items():
        answer = await recall(client, user_id="ann", k=40, repeats=repeats)
        assert set(ids(answer)) == items
    after_a_month = await recall(client, user_id="ann", k=40, repeats={"after_days": 30})
    assert set(ids(after_a_month)) == {old, *others}
    at_once = await recall(client, user_id="ann", k=40, repeats={"after_days": 1})
    assert set(ids(at_once)) == {old, new, *others}


@pytest.mark.parametrize("repeats", ["always", {"after_days": 0}, {"days": 3}, {}, 3, None])
async def test_other_repeats_are_refused(client: httpx.AsyncClient, repeats: object) -> None:
    answer = await client.post("/recall", json={"user_id": "ann", "repeats": repeats})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["where"].startswith("repeats")
