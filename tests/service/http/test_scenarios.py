import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from answers import ids, recall
from in_process_worker import InProcessWorker

from model.kinds import Kind
from service.errors import Invalid
from service.history.store import HistoryStore
from service.http.app import create_app
from service.http.scenarios import Scenarios
from service.http.schemas import AfterDays, RecallRequest
from service.recall.recaller import Recaller
from service.recall.served_bundle import ServedBundle
from service.settings import ServeSettings

FILE = """
[homepage]
k = 7
interests = 2

[watch-again]
k = 40
repeats = "allow"

[groceries]
repeats = {after_days = 7}
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "scenarios.toml"
    beside = folder / "beside"
    beside.write_text(text)
    beside.replace(file)  # another file, whatever the clock's resolution
    return file


def request(**fields: Any) -> RecallRequest:
    return RecallRequest.model_validate({"user_id": "ann"} | fields)


def test_a_request_overrides_its_scenario(tmp_path: Path) -> None:
    scenarios = Scenarios(write(tmp_path, FILE))
    plain = request()
    assert scenarios.applied_to(plain) is plain
    found = scenarios.applied_to(request(scenario="homepage"))
    assert (found.k, found.interests, found.repeats, found.user_id) == (7, 2, "never", "ann")
    found = scenarios.applied_to(request(scenario="homepage", k=9, repeats="allow"))
    assert (found.k, found.interests, found.repeats) == (9, 2, "allow")
    found = scenarios.applied_to(request(scenario="groceries"))
    assert found.repeats == AfterDays(after_days=7)
    assert found.k == 100


def test_an_unknown_scenario_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="homepage, watch-again, groceries"):
        Scenarios(write(tmp_path, FILE)).applied_to(request(scenario="home"))
    with pytest.raises(Invalid, match="--scenarios"):
        Scenarios(None).applied_to(request(scenario="home"))


BAD = [
    ("[a]\nk = 0", "a.k: "),
    ("[a]\nkk = 5", "a.kk: "),
    ("[a]\nuser_id = 'ann'", "a.user_id: "),
    ("[a]\nscenario = 'b'", "a.scenario: "),
    ("[a]\nrepeats = 'always'", "a.repeats"),
    ("a = 3", "a: "),
    ("['A B']\nk = 3", "A B"),
    ("[a", "scenarios.toml: "),
]


@pytest.mark.parametrize(("text", "words"), BAD)
def test_a_bad_file_is_refused_at_the_start_by_name(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=r"--scenarios: .*scenarios\.toml") as refused:
        Scenarios(write(tmp_path, text))
    assert words in str(refused.value)


@pytest.mark.parametrize(("text", "words"), BAD)
def test_a_bad_file_changes_nothing_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, words: str
) -> None:
    scenarios = Scenarios(write(tmp_path, FILE))
    write(tmp_path, text)
    for _ in range(3):
        scenarios.file.refresh()
    assert scenarios.applied_to(request(scenario="homepage")).k == 7
    assert scenarios.file.problem is not None
    assert words in scenarios.file.problem
    assert caplog.text.count("so what was read before stays") == 1
    write(tmp_path, "[homepage]\nk = 8")
    scenarios.file.refresh()
    assert scenarios.applied_to(request(scenario="homepage")).k == 8
    assert scenarios.file.problem is None


def test_a_file_that_is_gone_changes_nothing(tmp_path: Path) -> None:
    file = write(tmp_path, FILE)
    scenarios = Scenarios(file)
    os.remove(file)
    scenarios.file.refresh()
    assert scenarios.applied_to(request(scenario="homepage")).k == 7
    assert "No such file" in str(scenarios.file.problem)
    write(tmp_path, FILE)
    scenarios.file.refresh()
    assert scenarios.file.problem is None


VARIED = """
[mixed]
diversity = 0.3
caps = [{field = "genres", per_value = 3}]
fresh = {field = "price", gte = 5, share = 0.2}
"""


def test_rules_of_variety_are_checked_when_the_attributes_are_known(tmp_path: Path) -> None:
    attributes: dict[str, Kind] = {"genres": "categories", "price": "number"}
    scenarios = Scenarios(write(tmp_path, VARIED), lambda: attributes)
    found = scenarios.applied_to(request(scenario="mixed"))
    assert (found.diversity, found.caps[0].per_value) == (0.3, 3)
    assert found.fresh
    assert found.fresh.share == 0.2
    for field, other in (("genres", "price"), ("price", "genres")):
        write(tmp_path, VARIED.replace(f'"{field}"', f'"{other}"'))
        scenarios.file.refresh()
        assert "mixed." in str(scenarios.file.problem)
        assert scenarios.applied_to(request(scenario="mixed")) == found


FILTERED = """
[comedies]
filter = {all = [{field = "genres", in = ["Comedy"]}, {field = "price", lte = 20}]}
"""


def test_filters_are_checked_when_the_attributes_are_known(tmp_path: Path) -> None:
    attributes: dict[str, Kind] = {"genres": "categories", "price": "number"}
    known: list[dict[str, Kind]] = []
    scenarios = Scenarios(write(tmp_path, FILTERED), lambda: known[-1] if known else None)
    known.append(attributes)
    scenarios.file.refresh()
    assert scenarios.file.problem is None
    given = scenarios.applied_to(request(scenario="comedies")).filter
    asked = request(
        filter={"all": [{"field": "genres", "in": ["Comedy"]}, {"field": "price", "lte": 20}]}
    )
    assert given == asked.filter
    listed = asyncio.run(scenarios.listed()).scenarios
    assert listed["comedies"]["filter"]["all"][0] == {"field": "genres", "in": ["Comedy"]}
    write(tmp_path, FILTERED.replace("price", "prize"))
    scenarios.file.refresh()
    assert "comedies.filter" in str(scenarios.file.problem)
    assert "prize" in str(scenarios.file.problem) or "price" in str(scenarios.file.problem)
    assert scenarios.applied_to(request(scenario="comedies")).filter == given
    write(tmp_path, FILTERED)
    scenarios.file.refresh()
    assert scenarios.file.problem is None
    known.append({"genres": "categories"})  # of another bundle
    scenarios.file.refresh()
    assert scenarios.file.problem is not None


@pytest.fixture
async def client(
    recaller: Recaller, bundle: ServedBundle, tmp_path: Path
) -> AsyncIterator[httpx.AsyncClient]:
    """A service with a file of scenarios."""
    settings = ServeSettings(
        artifacts=tmp_path, store="", deadline_ms=60_000, scenarios=write(tmp_path, FILE)
    )
    store = HistoryStore.open(f"embedded:{tmp_path / 'histories'}")
    app = create_app(settings, InProcessWorker(recaller, bundle=bundle), store)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        yield client


@pytest.mark.anyio
async def test_recalls_by_scenario(
    client: httpx.AsyncClient, recaller: Recaller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.http.watched_file.LOOK_SECONDS", 0.01)
    asked: dict[str, Any] = {"user_id": "ann", "history": recaller.item_ids[:3]}
    assert len(ids(await recall(client, **asked, scenario="homepage"))) == 7
    again = await recall(client, **asked, scenario="watch-again")
    assert set(ids(again)) == set(recaller.item_ids)
    batch = {"requests": [asked | {"scenario": "homepage"}, asked | {"k": 5}]}
    results = (await client.post("/recall/batch", json=batch)).json()["results"]
    assert [len(ids(one)) for one in results] == [7, 5]
    assert (await client.get("/scenarios")).json() == {
        "scenarios": {
            "homepage": {"k": 7, "interests": 2},
            "watch-again": {"k": 40, "repeats": "allow"},
            "groceries": {"repeats": {"after_days": 7.0}},
        },
        "problem": None,
    }
    unknown = await client.post("/recall", json=asked | {"scenario": "home"})
    assert unknown.status_code == 422
    assert unknown.json()["errors"][0]["where"] == "scenario"
    write(tmp_path, "[homepage]\nk = 2000")
    async with asyncio.timeout(60):
        while "watch-again" in (await client.get("/scenarios")).json()["scenarios"]:
            await asyncio.sleep(0.01)
    batch = {"requests": [asked | {"scenario": "homepage"}] * 13}
    refused = await client.post("/recall/batch", json=batch)
    assert refused.status_code == 422
    assert "sum of k" in refused.text
