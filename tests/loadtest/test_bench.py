"""The benchmark of the service: its peers answer as they should, and its report can be written."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis_server import RedisServer

from loadtest.scale import bench_filters, bench_scale
from loadtest.serving import bench_report
from loadtest.serving.empty import asgi_app, fastapi_app
from loadtest.serving.naive import create_app
from loadtest.serving.same_answers import differ
from model.data.dataset import Dataset
from service.offline import load_histories
from service.recall.recaller import Recaller
from service.recall.types import Query


async def post(app: Any, *bodies: dict[str, Any]) -> list[httpx.Response]:
    """The answers of an app's POST /recall, in this process."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return [await client.post("/recall", json=body) for body in bodies]


def test_the_naive_service_gives_our_answers(
    artifacts: Path, dataset: Dataset, redis_server: RedisServer
) -> None:
    redis_server.flush()
    asyncio.run(load_histories(dataset, redis_server.url, overwrite=False))
    recaller, users = Recaller.load(artifacts, "cpu"), dataset.user_ids[:20]
    app = create_app(artifacts, redis_server.url)

    async def answer() -> list[httpx.Response]:
        async with app.router.lifespan_context(app):
            return await post(app, *({"user_id": user, "k": 10} for user in users))

    answers = asyncio.run(answer())
    for user, answer in enumerate(answers):
        history = [dataset.item_ids[row] for row in dataset.history(user)]
        ((ours,), _) = recaller.recall([Query(users[user], history, k=10)])
        items = [
            {"item_id": item, "score": float(score), "interest": int(interest)}
            for item, score, interest in zip(
                recaller.ids_of(ours), ours.scores, ours.interests, strict=True
            )
        ]
        assert differ(items, answer.json()["items"]) is None


@pytest.mark.parametrize("app_of", [fastapi_app, asgi_app])
def test_empty_endpoints_answer_with_the_payload(app_of: Any) -> None:
    payload = b'"' + b"x" * 98 + b'"'
    (answer,) = asyncio.run(post(app_of(payload), {"user_id": "u"}))
    assert answer.status_code == 200
    assert answer.headers["content-length"] == "100"
    assert answer.content == payload


def server(rps: float, cpu_ms: float) -> dict[str, Any]:
    """The figures of a server as `measure` returns them."""
    latency = {"p50_ms": 2.0, "p99_ms": 9.0, "p99.9_ms": 20.0}
    figures = {"rps": rps, "failed": 0, "cpu_ms_per_request": cpu_ms, "memory_mb": 100.0}
    open_loop = {s: latency | {"offered_rps": float(s) * rps} for s in ("0.25", "0.5", "0.9")}
    return figures | latency | {"open": open_loop, "interests_rps": {"1": 600.0, "4": 400.0}}


def round_of(ours_rps: float) -> dict[str, Any]:
    batch = {"us_per_request": 120.0, "floor_us": 100.0, "over_floor": 1.2}
    return {
        "naive": server(100, 4.0),
        "naive_2_workers": server(180, 4.5),
        "ours": server(ours_rps, 0.25),
        "empty_fastapi": server(1000, 0.1),
        "empty_asgi": server(2000, 0.05),
        "pipeline": {"pipeline_rps": 700.0, "one_interest_rps": 900.0, "four_rps": 500.0},
        "engine": {"batches": {"1": batch, "64": batch}},
    }


def test_the_report_compares_by_machine_and_by_cpu(tmp_path: Path) -> None:
    report = bench_report.summary([round_of(400), round_of(600), round_of(500)])
    assert report["rps"]["ours"] == 500
    assert report["ours_over"]["naive"] == {"machine": 5, "cpu": pytest.approx(16)}
    assert report["ours_over"]["naive_2_workers"]["cpu"] == pytest.approx(18)
    assert report["ours_over"]["empty_asgi"] == {"machine": 0.25, "cpu": pytest.approx(0.2)}
    assert report["four_interests_over_one"] == {"pipeline": 1.8, "http": 1.5}
    about = dict.fromkeys(("command", "machine", "python", "date", "commit"), "…")
    text = bench_report.table(report | about | {"same_answers": {"users": 256, "share": 1.0}})
    assert "| ours | 500 |  | 0.25 | 4,000 | 100 | 2.0 / 9.0 |" in text
    assert "| naive service, 1 worker | 5.00 | 16.00 |" in text
    assert "100.0% of 256 users got the same candidates" in text
    bench_report.draw(report, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").stat().st_size > 0


def test_the_scale_report_is_a_table() -> None:
    rates = {"1 threads": {"1": 120.0, "8": 160.0, "64": 450.0}}
    memory = {"engine": {"own": 690.0, "of files": 485.0}}
    text = bench_scale.table(
        {
            "items": 1_000_000,
            "users": 1000,
            "width": 64,
            "vectors": "isotropic",
            "hits": 150,
            "recall": 0.98125,
            "index": {"kind": "ivf", "parameters": {"lists": 4096, "nprobe": 298}},
            "per_second": rates,
            "exact_per_second": rates,
            "over_exact": rates,
            "export_seconds": 48.0,
            "build_peak_mb": 2400.0,
            "service": {
                "seconds_to_the_first_answer": 17.0,
                "ms_a_lone_recall": 3.0,
                f"mb_after_{bench_scale.RECALLS}_recalls": memory,
            },
            **dict.fromkeys(("command", "machine", "python", "date", "commit"), "…"),
        }
    )
    assert "The export chose ivf, lists 4,096, nprobe 298; held-out recall@150 0.9812." in text
    assert "| 1 | chosen | 120 | 160 | 450 |" in text


def test_filters_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_filters, "MANY", 80)
    monkeypatch.setattr(bench_filters, "JUDGED", 2)
    figures = bench_filters.measure(2000, 0.001)
    assert set(figures["over_unfiltered"]) == {"1", "16", "64"}
    assert figures["recall"]["farthest"]["0.5"] == 1.0
    about = {"command": "c", "machine": "m", "python": "p", "date": "d", "commit": "c"}
    assert "| 2,000 (exact) | 16 |" in bench_filters.page({"2000": figures} | about)
