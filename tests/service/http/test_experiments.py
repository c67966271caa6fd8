"""Experiments in the service: arms set fields of recalls, and the log tells what was shown."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from answers import ids, sample
from in_process_worker import InProcessWorker, client_of

from model.kinds import Kind
from service.experiments.export import export_log
from service.experiments.totals import read_events, read_exposures
from service.history.store import HistoryStore
from service.http.app import create_app
from service.http.experiments import LiveExperiments
from service.http.scenarios import Scenarios
from service.http.schemas import RecallRequest
from service.recall.recaller import Recaller
from service.recall.served_bundle import ServedBundle
from service.settings import ServeSettings

pytestmark = pytest.mark.anyio

FILE = """
[length]
users = { ann = "short", bob = "long" }
slice = [0.0, 0.0001]

[length.arms.short]
recall = { k = 3 }

[length.arms.long]
recall = { k = 9, interests = 2 }
"""


def written(folder: Path, text: str = FILE) -> Path:
    file = folder / "experiments.toml"
    file.write_text(text)
    return file


@pytest.fixture
async def client(
    recaller: Recaller, bundle: ServedBundle, tmp_path: Path
) -> AsyncIterator[httpx.AsyncClient]:
    scenarios = tmp_path / "scenarios.toml"
    scenarios.write_text("[home]\nk = 5\nwith_metadata = true\n")
    settings = ServeSettings(
        artifacts=tmp_path,
        store="",
        deadline_ms=60_000,
        experiments=written(tmp_path),
        scenarios=scenarios,
        explorer=True,
    )
    store = HistoryStore.open(f"embedded:{tmp_path / 'histories'}")
    worker = InProcessWorker(recaller, bundle=bundle)
    app = create_app(settings, worker, store)
    async with client_of(app) as client:
        client.store = store  # type: ignore[attr-defined]
        client.worker = worker  # type: ignore[attr-defined]
        yield client


async def recall(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    found: dict[str, Any] = (await client.post("/recall", json=body)).raise_for_status().json()
    return found


async def test_an_arm_sets_what_neither_request_nor_scenario_says(
    client: httpx.AsyncClient,
) -> None:
    short = await recall(client, user_id="ann")
    assert len(short["items"]) == 3
    assert short["experiments"] == [{"experiment": "length", "arm": "short"}]
    assert len((await recall(client, user_id="bob"))["items"]) == 9
    own = await recall(client, user_id="ann", k=6)
    assert len(own["items"]) == 6
    assert own["experiments"] == [{"experiment": "length", "arm": "short"}]
    scenario = await recall(client, user_id="ann", scenario="home")
    assert len(scenario["items"]) == 3  # the arm is what is compared
    assert "metadata" in scenario["items"][0]


async def test_others_are_answered_as_without_experiments(client: httpx.AsyncClient) -> None:
    other = await recall(client, user_id="carl")
    assert "experiments" not in other
    session = await recall(client, history=["i1", "i2"], k=4)
    assert "experiments" not in session
    answer = await client.post(
        "/recall/batch", json={"requests": [{"user_id": "ann"}, {"user_id": "carl", "k": 2}]}
    )
    first, second = answer.raise_for_status().json()["results"]
    assert (len(first["items"]), len(second["items"])) == (3, 2)
    assert "experiments" in first
    assert "experiments" not in second


async def test_the_log_tells_what_was_shown_and_done(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    explained = await client.post("/explorer/recall", json={"user_id": "bob"})  # is not logged
    assert explained.json()["experiments"] == [{"experiment": "length", "arm": "long"}]
    shown = await recall(client, user_id="bob")
    events = [
        {
            "user_id": "bob",
            "item_id": ids(shown)[0],
            "type": kind,
            "timestamp": 1_780_000_000,
            "request_id": shown["request_id"],
            "value": 2.5,
        }
        for kind in ("click", "impression")
    ]
    for _ in range(2):  # sent again after an answer that was lost
        (await client.post("/events", json={"events": events})).raise_for_status()
    (await client.post("/events", json={"events": [{"user_id": "bob", "item_id": "i1"}]}))
    store: HistoryStore = client.store  # type: ignore[attr-defined]
    async with asyncio.timeout(30):
        while not await store._client.xlen("exposures"):
            await asyncio.sleep(0.01)
    out = tmp_path / "log"
    assert await export_log(store, out) == {"exposures": 1, "events": 5}
    (exposure,) = read_exposures(out / "exposures", "length").to_dicts()
    assert (exposure["arm"], exposure["user_id"]) == ("long", "bob")
    assert exposure["request_id"] == shown["request_id"]
    assert exposure["version"] == shown["version"]
    assert exposure["degraded"] is True  # the user had no history yet
    found = read_events(out / "events")
    assert sorted(found["type"].to_list()) == ["click", "click", "impression"]  # each once
    named = found.filter(found["request_id"] == shown["request_id"])
    assert named["value"].to_list() == [2.5, 2.5]


@pytest.mark.parametrize("asked", [False, True])
async def test_events_are_logged_without_experiments_if_asked(
    recaller: Recaller, bundle: ServedBundle, tmp_path: Path, asked: bool
) -> None:
    settings = ServeSettings(artifacts=tmp_path, store="", log_events=asked)
    store = HistoryStore.open(f"embedded:{tmp_path / 'histories'}")
    app = create_app(settings, InProcessWorker(recaller, bundle=bundle), store)
    async with client_of(app) as client:
        event = {"user_id": "ann", "item_id": "i1"}
        (await client.post("/events", json={"events": [event]})).raise_for_status()
        assert await store._client.xlen("events") == int(asked)


async def test_the_explorer_answers_as_any_arm_or_version(
    client: httpx.AsyncClient, recaller: Recaller, bundle: ServedBundle
) -> None:
    async def explained(where: str, **body: object) -> dict[str, Any]:
        answer = await client.post(f"/explorer/recall?{where}", json={"user_id": "bob"} | body)
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    short = await explained("arm=length/short")  # bob is in the other one
    assert len(short["items"]) == 3
    assert short["experiments"] == [{"experiment": "length", "arm": "short"}]
    assert len((await explained("arm=length/short", k=5))["items"]) == 5
    worker: InProcessWorker = client.worker  # type: ignore[attr-defined]
    worker.arms["other"] = InProcessWorker(recaller, bundle=bundle._replace(version="other"))
    assert (await explained("version=other"))["version"] == "other"
    assert (await explained(f"version={bundle.version}"))["version"] == bundle.version
    for where, words in (
        ("arm=length/tall", "the arms are: length/short, length/long"),
        ("version=gone", f"these do: {bundle.version}, other"),
    ):
        answer = await client.post(f"/explorer/recall?{where}", json={"user_id": "bob"})
        assert answer.status_code == 422
        assert words in answer.json()["detail"]
        assert answer.json()["errors"][0]["where"] == where.partition("=")[0]


async def test_answers_of_arms_are_counted(client: httpx.AsyncClient, bundle: ServedBundle) -> None:
    for user in ("ann", "bob", "bob"):
        await recall(client, user_id=user)
    store: HistoryStore = client.store  # type: ignore[attr-defined]
    async with asyncio.timeout(30):
        while await store._client.xlen("exposures") < 3:
            await asyncio.sleep(0.01)
    counted = (await client.post("/explorer/exposures?hours=1")).raise_for_status().json()
    assert counted["complete"] is True
    about = {"experiment": "length", "users": 1, "versions": {bundle.version: 2}}
    assert counted["arms"] == [
        about | {"arm": "long", "answers": 2, "degraded": 2},
        about | {"arm": "short", "answers": 1, "degraded": 1, "versions": {bundle.version: 1}},
    ]
    assert (await client.post("/explorer/exposures?hours=0")).status_code == 422
    await store._client.delete("exposures")
    await store._client.lpush("exposures", "no stream")
    assert (await client.post("/explorer/exposures")).status_code == 503


async def test_experiments_are_listed(client: httpx.AsyncClient) -> None:
    found = (await client.get("/experiments")).raise_for_status().json()
    assert found["problem"] is None
    (one,) = found["experiments"]
    assert one["arms"] == {"short": {"k": 3}, "long": {"k": 9, "interests": 2}}


async def test_a_version_is_told_while_it_is_not_loaded(
    client: httpx.AsyncClient, tmp_path: Path, recaller: Recaller, bundle: ServedBundle
) -> None:
    """A user of its arm is answered as if there were no experiment, and logged nowhere."""
    worker: InProcessWorker = client.worker  # type: ignore[attr-defined]
    text = FILE.replace("recall = {", 'version = "gone"\nrecall = {', 1)
    other = f'version = "{bundle.version}"\nrecall = {{ k = 9, interests = 2 }}'
    written(tmp_path, text.replace("recall = { k = 9, interests = 2 }", other))
    async with asyncio.timeout(30):
        while "gone" not in worker.wanted:
            await asyncio.sleep(0.01)
    worker.arm_problems["gone"] = "too large"
    listed = (await client.get("/experiments")).json()
    assert listed["versions"] == [
        {"version": "gone", "loaded": False, "problem": "too large"},
        {"version": bundle.version, "loaded": True, "problem": None},
    ]
    assert (await client.get("/versions")).json()["arms"] == listed["versions"]
    assert listed["experiments"][0]["versions"] == {"short": "gone", "long": bundle.version}
    ann = await recall(client, user_id="ann")
    assert len(ann["items"]) > 9
    assert "experiments" not in ann
    bob = await recall(client, user_id="bob")
    assert bob["experiments"] == [{"experiment": "length", "arm": "long"}]
    text = (await client.get("/metrics")).text
    assert sample(text, "recgpt_arm_fallbacks_total") == 1
    assert sample(text, "recgpt_arm_version_loaded", version="gone") == 0
    # An engine that has the version, under the same name, answers in a queue of its own.
    named = bundle._replace(version="gone")
    worker.arms["gone"] = InProcessWorker(recaller, bundle=named)
    ann = await recall(client, user_id="ann", page_size=2)
    assert (ann["version"], len(ann["items"])) == ("gone", 2)
    rest = await recall(client, cursor=ann["cursor"], with_metadata=True)
    assert (rest["version"], len(rest["items"])) == ("gone", 1)
    # Its engine ends: recalls go back to the served version.
    del worker.arms["gone"]
    await worker.on_arm_gone("gone")
    assert (await recall(client, user_id="ann"))["version"] == bundle.version
    assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize("interleave", ["", "interleave = true\n"])
async def test_an_arm_whose_fields_do_not_fit_the_bundle_refuses_nobody(
    client: httpx.AsyncClient, tmp_path: Path, interleave: str, bundle: ServedBundle
) -> None:
    """No user is to blame that a bundle generates fewer interests than an arm asks for."""
    arms = "[wide.arms.usual]\n[wide.arms.many]\nrecall = { interests = 8 }\n"
    client.worker.bundle = bundle._replace(max_interests=7)  # type: ignore[attr-defined]
    written(tmp_path, f"[wide]\n{interleave}{arms}")
    async with asyncio.timeout(30):
        while "wide" not in (await client.get("/experiments")).text:
            await asyncio.sleep(0.01)
    users = [f"u{number}" for number in range(8)]
    found = [await recall(client, user_id=user, history=["i1"], k=5) for user in users]
    batch = {"requests": [{"user_id": user, "history": ["i1"], "k": 5} for user in users]}
    answer = await client.post("/recall/batch", json=batch)
    for results in (found, answer.raise_for_status().json()["results"]):
        arms_of = [one["experiments"][0]["arm"] for one in results if "experiments" in one]
        assert set(arms_of) <= {"usual"}
        assert len(arms_of) < len(users)
        assert all(len(ids(one)) == 5 for one in results)
    text = (await client.get("/metrics")).text
    assert sample(text, "recgpt_arm_fallbacks_total") >= 2
    wrong = await client.post("/recall", json={"user_id": "u1", "interests": 8})
    assert wrong.status_code == 422  # that is the request's own


async def test_an_arm_can_be_a_scenario(client: httpx.AsyncClient, tmp_path: Path) -> None:
    written(tmp_path, FILE.replace("{ k = 3 }", '{ scenario = "home" }'))
    async with asyncio.timeout(30):
        while "scenario" not in (await client.get("/experiments")).text:
            await asyncio.sleep(0.01)
    ann = await recall(client, user_id="ann")
    assert (len(ann["items"]), ann["experiments"][0]["arm"]) == (5, "short")
    # Once the scenario is gone, the user is answered as if there were no experiment.
    (tmp_path / "scenarios.toml").write_text("[other]\nk = 2\n")
    async with asyncio.timeout(30):
        while "home" in (await client.get("/scenarios")).json()["scenarios"]:
            await asyncio.sleep(0.01)
    ann = await recall(client, user_id="ann")
    assert "experiments" not in ann
    assert len(ann["items"]) > 5


def test_the_filter_of_an_arm_is_checked_against_the_attributes(tmp_path: Path) -> None:
    cheap = '{ filter = { all = [{ field = "price", lt = 3.0 }] } }'
    file = written(tmp_path, FILE.replace("{ k = 3 }", cheap))
    kinds: dict[str, Kind] = {"price": "number"}
    live = LiveExperiments(file, Scenarios(None), attributes=lambda: kinds)
    found = live.applied_to(RecallRequest(user_id="ann"))[0].filter
    assert found
    assert found.all[0].lt == 3
    with pytest.raises(ValueError, match="field: no attribute"):
        LiveExperiments(file, Scenarios(None), attributes=lambda: {})


def test_a_field_that_no_recall_has_is_refused_at_the_start(tmp_path: Path) -> None:
    for recall, problem in (
        ("{ kk = 3 }", "length.arms.short.recall.kk: Extra inputs"),
        ("{ k = 0 }", "length.arms.short.recall.k: Input should be greater than"),
        ('{ user_id = "x" }', "length.arms.short.recall.user_id: Extra inputs"),
        ('{ scenario = "x" }', "length.arms.short.recall.scenario: --scenarios has none"),
    ):
        file = written(tmp_path, FILE.replace("{ k = 3 }", recall))
        with pytest.raises(ValueError, match=problem):
            LiveExperiments(file, Scenarios(None))
    with pytest.raises(ValueError, match="No such file"):
        LiveExperiments(tmp_path / "nothing.toml", Scenarios(None))


def test_a_changed_file_is_read_again_unless_it_is_wrong(tmp_path: Path) -> None:
    live = LiveExperiments(written(tmp_path), Scenarios(None))
    ann = RecallRequest(user_id="ann")
    assert live.applied_to(ann)[0].k == 3
    written(tmp_path, FILE.replace("k = 3", "k = 12"))
    live.file.refresh()
    assert live.applied_to(ann)[0].k == 12
    written(tmp_path, "[length")
    live.file.refresh()
    assert live.applied_to(ann)[0].k == 12
    assert "is not TOML" in str(live.file.problem)
    written(tmp_path, FILE.replace("k = 3", "k = 123"))
    live.file.refresh()
    assert live.file.problem is None
    assert live.applied_to(ann)[0].k == 123
