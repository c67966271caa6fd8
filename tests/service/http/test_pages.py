import json
import random
from typing import Any

import httpx
import numpy as np
import pytest
from answers import ids, recall

from service.errors import Invalid
from service.http.pages import Page, Pages
from service.http.schemas import MAX_CURSOR
from service.recall.recaller import Recaller
from service.recall.types import EncodedCandidates

KEY = "0123456789abcdef"


def found(items: list[str]) -> EncodedCandidates:
    lines = [json.dumps({"item_id": item, "score": 1.5, "interest": 0}) for item in items]
    text = "[" + ",\n".join(lines) + "]"
    return EncodedCandidates(text.encode(), np.arange(len(items)), 3, not items)


def items_of(page: Page) -> list[str]:
    return [one["item_id"] for one in json.loads(page.json)]


def all_pages(pages: Pages, page: Page) -> list[Page]:
    given = [page]
    while given[-1].cursor:
        given.append(pages.following(given[-1].cursor))
    return given


@pytest.mark.parametrize("count", [0, 1, 5, 6, 7, 2000])
def test_pages_are_the_whole_answer_in_parts(count: int) -> None:
    items = [f"ü,\n{i}" for i in range(count)]
    pages = Pages(KEY)
    given = all_pages(pages, pages.first(found(items), 3, "v1", None))
    assert [item for page in given for item in items_of(page)] == items
    assert np.concatenate([page.rows for page in given]).tolist() == list(range(count))
    assert {len(items_of(page)) for page in given[:-1]} <= {3}
    assert {(page.version, page.unknown_items) for page in given} == {("v1", 3)}
    assert len(given) == max(1, (count + 2) // 3)


def test_hidden_items_are_left_out_and_the_next_ones_fill_the_page() -> None:
    hidden: set[str] = set()
    pages = Pages(KEY, lambda: hidden)
    page = pages.first(found([str(i) for i in range(10)]), 3, "v1", None)
    assert page.cursor
    assert items_of(pages.following(page.cursor)) == ["3", "4", "5"]
    hidden |= {"0", "4", "5"}
    second = pages.following(page.cursor)
    assert items_of(second) == ["3", "6", "7"]
    assert second.rows.tolist() == [3, 6, 7]
    assert second.cursor
    hidden |= {"8", "9"}
    assert items_of(pages.following(second.cursor)) == []


def test_front_ends_share_a_key_and_nobody_else_has_it() -> None:
    first = Pages(KEY).first(found(["a", "b"]), 1, "v1", "no_history")
    assert first.cursor
    second = Pages(KEY).following(first.cursor)
    assert (items_of(second), second.cursor, second.degraded_reason) == (["b"], None, "no_history")
    with pytest.raises(Invalid, match="not of this service"):
        Pages(KEY + "?").following(first.cursor)


def test_a_cursor_that_was_changed_is_refused() -> None:
    cursor = Pages(KEY).first(found([str(i) for i in range(50)]), 5, "v1", None).cursor
    assert cursor
    drawn = random.Random(0)
    for _ in range(300):
        at = drawn.randrange(
            len(cursor.rstrip("=")) - 1
        )  # the last may have bits that are not read
        other = drawn.choice("abcXYZ019_-")
        if other != cursor[at]:
            with pytest.raises(Invalid, match="cursor: "):
                Pages(KEY).following(cursor[:at] + other + cursor[at + 1 :])
    for odd in ("", "A", "äöü", "====", cursor[:-8], cursor * 2, "\x00"):
        with pytest.raises(Invalid, match="cursor: "):
            Pages(KEY).following(odd)


def test_a_cursor_expires() -> None:
    cursor = Pages(KEY, seconds=-5).first(found(["a", "b"]), 1, "v1", None).cursor
    assert cursor
    with pytest.raises(Invalid, match="expired"):
        Pages(KEY).following(cursor)


def test_a_cursor_is_bounded() -> None:
    drawn = random.Random(0)
    usual = [str(drawn.randrange(10**8)) for _ in range(2000)]
    cursor = Pages(KEY).first(found(usual), 1, "v1", None).cursor
    assert cursor
    assert len(cursor) < 40_000
    longest = [
        "".join(chr(drawn.randrange(0x4E00, 0x9000)) for _ in range(512)) for _ in range(900)
    ]
    with pytest.raises(Invalid, match="smaller k"):
        Pages(KEY).first(found(longest), 1, "v1", None)
    assert MAX_CURSOR < 1 << 20


@pytest.mark.anyio
async def test_pages_of_a_recall_whatever_happens_in_between(
    client: httpx.AsyncClient, recaller: Recaller
) -> None:
    asked: dict[str, Any] = {"user_id": "ann", "k": 30}
    events = [{"user_id": "ann", "item_id": item} for item in recaller.item_ids[:3]]
    await client.post("/events", json={"events": events})
    whole = await recall(client, **asked)
    page = await recall(client, **asked, page_size=7, with_metadata=True)
    assert len(ids(page)) == 7
    given = page["items"]
    while page["cursor"]:
        for item in (given[-1]["item_id"], whole["items"][-1]["item_id"]):
            events = [{"user_id": "ann", "item_id": item, "type": "like"}]
            await client.post("/events", json={"events": events})
        page = await recall(client, cursor=page["cursor"], with_metadata=True)
        assert (page["version"], page["degraded"]) == (whole["version"], False)
        given += page["items"]
    assert [one | {"metadata": {}} for one in whole["items"]] == given
    batch = {"requests": [asked | {"page_size": 5}, asked]}
    first, second = (await client.post("/recall/batch", json=batch)).json()["results"]
    assert len(ids(await recall(client, cursor=first["cursor"]))) == 5
    assert "cursor" not in second
    assert "cursor" not in whole


@pytest.mark.anyio
async def test_an_item_that_is_hidden_between_two_pages_is_on_neither(
    client: httpx.AsyncClient, recaller: Recaller
) -> None:
    asked: dict[str, Any] = {"history": recaller.item_ids[:3], "k": 12}
    whole = ids(await recall(client, **asked))
    page = await recall(client, **asked, page_size=4)
    assert (await client.put(f"/items/{whole[5]}/hidden")).status_code == 200
    second = await recall(client, cursor=page["cursor"])
    assert ids(second) == [whole[4], *whole[6:9]]
    assert (await client.delete(f"/items/{whole[5]}/hidden")).status_code == 200


@pytest.mark.anyio
async def test_bad_pages_are_refused(client: httpx.AsyncClient) -> None:
    page = await recall(client, user_id="ann", k=5, page_size=2)
    cursor = page["cursor"]
    bodies: list[tuple[str, dict[str, Any], str]] = [
        ("/recall", {"user_id": "ann", "page_size": 0}, "page_size"),
        ("/recall", {"cursor": cursor, "k": 3}, "no other field"),
        ("/recall", {"cursor": cursor[:-8]}, "cursor: it is not of this service"),
        ("/recall", {"cursor": "x" * (MAX_CURSOR + 1)}, "bytes"),
        ("/recall/batch", {"requests": [{"cursor": cursor}]}, "one by one"),
    ]
    for path, body, words in bodies:
        answer = await client.post(path, json=body)
        assert answer.status_code in (413, 422)
        assert words in answer.text


@pytest.mark.anyio
async def test_pages_outlive_their_version_without_metadata(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = await recall(client, user_id="ann", k=5, page_size=2)
    worker = client.worker  # type: ignore[attr-defined]
    monkeypatch.setattr(worker, "bundle", worker.bundle._replace(version="another"))
    assert len(ids(await recall(client, cursor=page["cursor"]))) == 2
    answer = await client.post("/recall", json={"cursor": page["cursor"], "with_metadata": True})
    assert answer.status_code == 422
    assert "not served any more" in answer.json()["detail"]
