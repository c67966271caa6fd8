"""Interleaved experiments in the service: answers, pages, and what the log tells of them."""

import asyncio
import json
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from answers import ids
from in_process_worker import InProcessWorker, client_of

from cli.main import main
from service.experiments.assignment import Assignment
from service.experiments.config import Arm, Experiments
from service.experiments.export import export_log
from service.history.store import HistoryStore
from service.http.app import create_app
from service.http.drafts import Draft, Side
from service.http.schemas import RecallRequest
from service.recall.recaller import Recaller
from service.recall.served_bundle import ServedBundle
from service.recall.types import EncodedCandidates, FilterResult, VarietyResult
from service.settings import ServeSettings
from service.waiting import Answer

pytestmark = pytest.mark.anyio

FILE = """
[mix]
interleave = true
users = { qa = "three" }

[mix.arms.one]
recall = { interests = 1 }

[mix.arms.three]
recall = { interests = 3 }
"""
HISTORY = [f"i{row}" for row in range(5)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "experiments.toml"
    file.write_text(FILE)
    return file


@pytest.fixture
async def client(
    recaller: Recaller, bundle: ServedBundle, tmp_path: Path, file: Path
) -> AsyncIterator[httpx.AsyncClient]:
    settings = ServeSettings(artifacts=tmp_path, store="", deadline_ms=60_000, experiments=file)
    store = HistoryStore.open(f"embedded:{tmp_path / 'histories'}")
    app = create_app(settings, InProcessWorker(recaller, bundle=bundle), store)
    async with client_of(app) as client:
        client.store = store  # type: ignore[attr-defined]
        yield client


async def recall(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    found: dict[str, Any] = (await client.post("/recall", json=body)).raise_for_status().json()
    return found


async def test_an_answer_is_a_draft_of_both_lists(client: httpx.AsyncClient) -> None:
    about = {"history": HISTORY, "k": 12}
    lists = {
        arm: ids(await recall(client, interests=interests, **about))
        for arm, interests in (("one", 1), ("three", 3))
    }
    found = await recall(client, user_id="ann", with_metadata=True, **about)
    assert found["experiments"] == [{"experiment": "mix", "arm": "interleaved"}]
    assert len(set(ids(found))) == 12
    for arm, items in lists.items():
        team = [one["item_id"] for one in found["items"] if one["team"] == arm]
        assert len(team) == 6
        assert team == [item for item in items if item in team]  # in the order of its list
    assert "metadata" in found["items"][0]
    again = await recall(client, user_id="ann", **about)
    assert len({tuple(ids(again)), tuple(ids(found))}) in (1, 2)  # each recall has its own coins


def answer(*items: str) -> Answer:
    lines = ",\n".join(f'{{"item_id":"{item}","score":1.0,"interest":0}}' for item in items)
    found = EncodedCandidates(
        f"[{lines}]".encode(),
        np.arange(len(items)),
        0,
        cold=False,
        filter=FilterResult(matched=9, exhausted=len(items) < 4, unknown_values=0),
        variety=VarietyResult(1.0, 2.0, exhausted=len(items) < 4),
    )
    return Answer(found, None, None, {})


@pytest.mark.parametrize(("others", "exhausted"), [("abcd", False), ("ad", True), ("cd", False)])
def test_a_draft_of_k_items_is_not_exhausted(others: str, exhausted: bool) -> None:
    arms = (Assignment("mix", name, Arm()) for name in ("one", "three"))
    control, treatment = (Side(arm, RecallRequest(user_id="ann", k=4)) for arm in arms)
    found = Draft((control, treatment), []).of([answer("a", "b"), answer(*others)], "seed").found
    assert len(found.rows) == len(set("ab" + others))
    assert found.filter == FilterResult(9, exhausted, 0)
    assert found.variety == VarietyResult(1.0, 2.0, exhausted)


async def test_pages_go_on_with_the_same_draft(client: httpx.AsyncClient) -> None:
    pages = [await recall(client, user_id="ann", history=HISTORY, k=12, page_size=5)]
    while pages[-1]["cursor"]:
        pages.append(await recall(client, cursor=pages[-1]["cursor"]))
    items = [one for page in pages for one in page["items"]]
    assert len({one["item_id"] for one in items}) == 12
    teams = [one["team"] for one in items]
    assert teams.count("one") == teams.count("three") == 6
    for first, second in zip(teams[::2], teams[1::2], strict=True):
        assert first != second  # a pick of each in every round, over the ends of pages


async def test_fixed_users_batches_and_explanations_have_one_arm_or_none(
    client: httpx.AsyncClient,
) -> None:
    fixed = await recall(client, user_id="qa", history=HISTORY, k=9)
    assert fixed["experiments"] == [{"experiment": "mix", "arm": "three"}]
    assert "team" not in fixed["items"][0]
    batch = {"requests": [{"user_id": "ann", "history": HISTORY}]}
    (one,) = (await client.post("/recall/batch", json=batch)).raise_for_status().json()["results"]
    assert "experiments" not in one


async def test_the_report_credits_the_team_of_each_event(
    client: httpx.AsyncClient, tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for user in (f"u{number}" for number in range(12)):
        first = await recall(client, user_id=user, history=HISTORY, k=12, page_size=6)
        second = await recall(client, cursor=first["cursor"])
        page = second if user == "u3" else first
        taken = next(one["item_id"] for one in page["items"] if one["team"] == "three")
        event = {"user_id": user, "item_id": taken, "request_id": page["request_id"]}
        (await client.post("/events", json={"events": [event]})).raise_for_status()
    store: HistoryStore = client.store  # type: ignore[attr-defined]
    async with asyncio.timeout(60):
        while await store._client.xlen("exposures") < 24:
            await asyncio.sleep(0.01)
    log = tmp_path / "log"
    await export_log(store, log)
    teams = pl.read_parquet(log / "exposures" / "*.parquet")["teams"][0]
    assert {arm: len(items) for arm, items in json.loads(teams).items()} == {"one": 3, "three": 3}
    words = ["experiment", "report", "--experiments", str(file), "--name", "mix"]
    words += ["--exposures", str(log / "exposures"), "--events", str(log / "events")]
    await asyncio.to_thread(main, [*words, "--out", str(tmp_path / "report.html")])
    assert "Users prefer three in click (12 users to 0, p = " in capsys.readouterr().out
    assert "three gets 100.0% of the votes" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("interests = 1 }", "interests = 1, k = 5 }"), "both arms share k, which one sets"),
        (("[mix.arms.one]", "[mix.arms.one]\nweight = 2"), "two arms are drafted"),
        (
            (
                "[mix]",
                "[other]\nlayer = 'x'\ninterleave = true\n[other.arms.a]\n[other.arms.b]\n[mix]",
            ),
            "one layer",
        ),
    ],
)
async def test_what_cannot_be_drafted_is_refused(
    file: Path, change: tuple[str, str], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        Experiments.model_validate(tomllib.loads(FILE.replace(*change)))
