"""Recalls of popular items: a baseline that reads the history only to leave its items out."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from answers import ids, recall

from service.history.store import HistoryStore, StoreUnavailable
from service.http.experiments import LiveExperiments
from service.http.scenarios import Scenarios
from service.http.schemas import RecallRequest

pytestmark = pytest.mark.anyio


async def popular_items(client: httpx.AsyncClient) -> list[str]:
    """All items by falling popularity, as a user without a history gets them."""
    return ids(await recall(client, user_id="nobody", k=100))


@pytest.mark.parametrize("stored", [True, False])
async def test_popular_items_that_the_user_has_not_had(
    client: httpx.AsyncClient, stored: bool
) -> None:
    popular = await popular_items(client)
    history = [popular[1], popular[3], popular[30]]
    about: dict[str, Any] = {"user_id": "ann", "popular": True, "k": 10}
    if stored:
        events = [{"user_id": "ann", "item_id": item} for item in history]
        (await client.post("/events", json={"events": events})).raise_for_status()
    else:
        about["history"] = history
    found = await recall(client, **about)
    assert ids(found) == [item for item in popular if item not in history][:10]
    assert {one["interest"] for one in found["items"]} == {-1}
    assert (found["degraded"], found["degraded_reason"]) == (False, None)
    assert ids(await recall(client, **about, repeats="allow")) == popular[:10]
    both = await recall(client, **about, seeds=[popular[0]], exclude=[popular[2]])
    assert ids(both) == [one for one in popular[4:] if one not in history][:10]
    usual = await recall(client, **about | {"popular": False})
    assert {one["interest"] for one in usual["items"]} != {-1}


async def test_without_the_store_nobody_knows_what_to_leave_out(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: HistoryStore = client.store  # type: ignore[attr-defined]
    popular = await popular_items(client)

    async def fail(users: object) -> None:
        raise StoreUnavailable("it is away")

    monkeypatch.setattr(store, "read", fail)
    found = await recall(client, user_id="ann", popular=True, seeds=[popular[0]], k=5)
    assert found["degraded_reason"] == "store_unavailable"
    assert ids(found) == popular[1:6]


def test_an_arm_can_be_popular_items(tmp_path: Path) -> None:
    file = tmp_path / "experiments.toml"
    file.write_text("[base]\nusers = { ann = 'popular' }\n[base.arms.usual]\n[base.arms.popular]\n")
    with file.open("a") as text:
        text.write("recall = { popular = true }\n")
    live = LiveExperiments(file, Scenarios(None))
    body, (arm,) = live.applied_to(RecallRequest(user_id="ann"))
    assert (body.popular, arm.arm) == (True, "popular")
