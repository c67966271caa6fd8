"""Users, events, scenarios and pages through the whole service: two front ends over Redis."""

from dataclasses import replace
from pathlib import Path

import httpx
from redis_server import RedisServer
from running_service import Service, service

from service.recall.recaller import Recaller
from service.recall.types import Query

DAY_SECONDS = 86_400


def asked_often(running: Service, body: dict[str, object]) -> list[dict[str, object]]:
    """Answers over connections of their own, which the kernel deals out to both front ends."""
    url = f"http://127.0.0.1:{running.port}/recall"
    answers = [httpx.post(url, json=body, timeout=60) for _ in range(16)]
    assert {answer.status_code for answer in answers} == {200}, answers[0].text
    return [answer.json() for answer in answers]


def items(answer: dict[str, object]) -> list[str]:
    found = answer["items"]
    assert isinstance(found, list)
    return [one["item_id"] for one in found]


def test_settings_reach_all_front_ends(
    artifacts: Path, redis_server: RedisServer, tmp_path: Path
) -> None:
    redis_server.flush()
    scenarios, types = tmp_path / "scenarios.toml", tmp_path / "types.toml"
    scenarios.write_text("[home]\nk = 9\npage_size = 4\n")
    types.write_text(
        "[dismiss]\nhistory = false\nexclude_days = inf\nweight = 0\n[impression]\noffer = true\n"
    )
    recaller = Recaller.load(artifacts, "cpu")
    item_ids = recaller.item_ids
    options = {
        "RECGPT_HTTP_WORKERS": "2",
        "RECGPT_SCENARIOS": str(scenarios),
        "RECGPT_EVENT_TYPES": str(types),
        "RECGPT_HISTORY_DAYS": "10",
        "RECGPT_POPULAR_HALF_LIFE_DAYS": "7",
        "RECGPT_DEADLINE_MS": "60000",
    }
    with service(artifacts, redis_server.url, tmp_path, **options) as running:
        events = [
            {"user_id": "ann", "item_id": item_ids[0]},
            {"user_id": "ann", "item_id": item_ids[1], "type": "dismiss"},
        ]
        answer = running.client.post("/events", json={"events": events})
        assert answer.json() == {"accepted": 2, "stored": 2}
        assert 9 * DAY_SECONDS < int(redis_server.command("TTL", "h:ann")) <= 10 * DAY_SECONDS
        answers = asked_often(running, {"user_id": "ann", "k": 40})
        assert all(set(items(one)) == set(item_ids[2:]) for one in answers)
        shown = item_ids[20:22]
        events = [{"user_id": "ann", "item_id": one, "type": "impression"} for one in shown]
        assert running.client.post("/events", json={"events": events}).json()["stored"] == 2
        assert 9 * DAY_SECONDS < int(redis_server.command("TTL", "o:{h:ann}")) <= 10 * DAY_SECONDS
        told = Query("ann", item_ids[:1], item_ids[1:2], k=15, offers=shown[::-1])
        (expected,), _ = recaller.recall([told])
        for one in asked_often(running, {"user_id": "ann", "k": 15}):
            assert items(one) == recaller.ids_of(expected)
        (untold,), _ = recaller.recall([replace(told, offers=())])
        assert recaller.ids_of(untold) != recaller.ids_of(expected)
        whole = items(asked_often(running, {"user_id": "ann", "k": 9})[0])
        first = asked_often(running, {"user_id": "ann", "scenario": "home"})
        assert all(items(one) == whole[:4] for one in first)
        for page in asked_often(running, {"cursor": first[0]["cursor"]}):
            assert items(page) == whole[4:8]
        assert running.client.delete("/users/ann").json() == {"deleted": True}
        assert redis_server.command("KEYS", "*") == "popular:7"
        for one in asked_often(running, {"user_id": "ann", "k": 3}):
            assert one["degraded_reason"] == "no_history"
        popular = item_ids[0]  # now: not so in the data, and nobody's history any more
        everything = recaller.recall([Query("ann", [], k=40)])[0][0]
        assert item_ids[everything.rows[0]] != popular
        running.wait_until(lambda: items(running.recall(user_id="ann", k=3))[0] == popular)
    assert "ann" not in running.log.read_text()
