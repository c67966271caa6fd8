"""The real server in a process of its own, over real sockets."""

import asyncio
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis_server import RedisServer
from running_service import Service, service

from model.data.dataset import Dataset


@pytest.fixture(params=["1", "2"])
def http_workers(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def total(metrics: str, name: str, **labels: str) -> float:
    """The sum of the samples that have these labels."""
    families = text_string_to_metric_families(metrics)
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(s.value for s in samples if labels.items() <= s.labels.items())


def metrics_after(running: Service, recalls: int) -> str:
    """The metrics once so many recalls are counted: a moment after they are answered."""
    for _ in range(200):
        text = running.client.get("/metrics").text
        if total(text, "recgpt_requests_total", route="/recall", status="200") == recalls:
            return text
        time.sleep(0.05)
    raise AssertionError(text)


async def queued(client: httpx.AsyncClient, url: str) -> float:
    """The recalls that wait in the queues of all front ends."""
    return total((await client.get(f"{url}/metrics")).text, "recgpt_queue_length")


def test_sigterm_drains_and_ends_well(
    artifacts: Path, dataset: Dataset, tmp_path: Path, redis_server: RedisServer, http_workers: str
) -> None:
    """Requests that were under way when the signal came are all answered."""
    patient = {"RECGPT_DEADLINE_MS": "30000", "RECGPT_QUEUE_LIMIT": "4096"}
    patient["RECGPT_HTTP_WORKERS"] = http_workers
    with service(artifacts, redis_server.url, tmp_path, **patient) as running:
        body = {"user_id": "u0", "history": dataset.item_ids[:3], "k": 20}
        engine = psutil.Process(running.process.pid)

        async def load() -> list[int]:
            url = f"http://127.0.0.1:{running.port}"
            async with httpx.AsyncClient(timeout=60) as client:
                engine.suspend()  # so that nothing is answered before the signal
                some = {"requests": [body] * 100}
                posts = [
                    asyncio.create_task(client.post(f"{url}/recall/batch", json=some))
                    for _ in range(20)
                ]
                while await queued(client, url) <= 1900:  # until all 20 bodies are read
                    await asyncio.sleep(0.01)
                engine.terminate()
                engine.resume()
                return [answer.status_code for answer in await asyncio.gather(*posts)]

        assert asyncio.run(load()) == [200] * 20
        assert running.process.wait(timeout=60) == 0
        assert "drained" in [record["message"] for record in running.records()]
        assert not [r for r in running.records() if r["level"] in ("ERROR", "CRITICAL")]


def test_an_acknowledged_event_survives_kill_9(
    artifacts: Path, dataset: Dataset, tmp_path: Path
) -> None:
    store = f"embedded:{tmp_path / 'store'}"
    item = dataset.item_ids[7]
    with service(artifacts, store, tmp_path) as running:
        event = {"user_id": "ann", "item_id": item}
        assert running.client.post("/events", json={"events": [event]}).status_code == 200
        assert running.stop(signal.SIGKILL) == -signal.SIGKILL
    with service(artifacts, store, tmp_path) as running:
        answer = running.recall(user_id="ann", k=2000)
        assert not answer["degraded"]
        items = answer["items"]
        assert isinstance(items, list)
        assert item not in [found["item_id"] for found in items]


def test_redis_may_be_absent_and_come_and_go(
    artifacts: Path, dataset: Dataset, tmp_path: Path, http_workers: str
) -> None:
    redis = RedisServer(tmp_path)
    history = dataset.item_ids[:3]
    event = {"events": [{"user_id": "ann", "item_id": history[0]}]}
    patient = {"RECGPT_STORE_TIMEOUT_MS": "2000", "RECGPT_DEADLINE_MS": "30000"}
    patient["RECGPT_HTTP_WORKERS"] = http_workers
    with service(artifacts, redis.url, tmp_path, **patient) as running:
        for _ in range(2):
            assert running.ready() == 503
            assert running.recall(user_id="ann")["degraded_reason"] == "store_unavailable"
            assert not running.recall(user_id="ann", history=history)["degraded"]
            refused = running.client.post("/events", json=event)
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            redis.start()
            assert running.ready() == 200
            assert running.client.post("/events", json=event).status_code == 200
            time.sleep(0.6)  # the store is left alone for a moment after it failed
            assert not running.recall(user_id="ann")["degraded"]
            redis.stop()
        assert not [r for r in running.records() if r["level"] == "ERROR"]


def test_a_body_of_ten_megabytes_is_refused(artifacts: Path, tmp_path: Path) -> None:
    with service(artifacts, f"embedded:{tmp_path / 'store'}", tmp_path) as running:
        for content in (b"a" * 10_000_000, iter([b"a" * 100_000] * 100)):  # known length, chunked
            answer = running.client.post("/recall", content=content)
            assert answer.status_code == 413
            assert answer.headers["content-type"] == "application/problem+json"
        assert running.recall(user_id="ann")["degraded"]


def test_clients_that_leave_are_no_errors_of_ours(artifacts: Path, tmp_path: Path) -> None:
    head = b"POST /recall HTTP/1.1\r\nHost: test\r\nContent-Length: 16\r\n\r\n"
    with service(artifacts, f"embedded:{tmp_path / 'store'}", tmp_path) as running:
        for content in (b'{"user', b'{"user_id":"ann"}'[:16], b'{"user_id":"a"} '):
            with socket.create_connection(("127.0.0.1", running.port)) as client:
                client.sendall(head + content)
        assert running.recall(user_id="ann")["degraded"]
        with socket.create_connection(("127.0.0.1", running.port)) as client:
            client.sendall(head + b'{"user_id":"a"} ')  # and one that stays is answered
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert running.stop() == 0
        assert not [r for r in running.records() if r["level"] in ("ERROR", "CRITICAL")]


def test_front_ends_count_together(
    artifacts: Path, dataset: Dataset, tmp_path: Path, redis_server: RedisServer
) -> None:
    """Whoever answers /metrics tells what all of them did, and what one did that has ended."""
    redis_server.flush()
    with service(artifacts, redis_server.url, tmp_path, RECGPT_HTTP_WORKERS="2") as running:
        url = f"http://127.0.0.1:{running.port}"
        assert len(psutil.Process(running.process.pid).children()) == 2
        body = {"user_id": "u0", "history": dataset.item_ids[:3]}
        for _ in range(30):  # every one has a connection of its own: some for each front end
            assert httpx.post(f"{url}/recall", json=body, timeout=60).status_code == 200
        metrics = metrics_after(running, recalls=30)
        assert total(metrics, "recgpt_request_seconds_count", route="/recall") == 30
        assert total(metrics, "recgpt_request_seconds_bucket", route="/recall", le="+Inf") == 30
        assert total(metrics, "recgpt_queue_length") == 0
        assert total(metrics, "recgpt_artifact_info") == 1


def test_a_front_end_that_dies_is_started_again(
    artifacts: Path, tmp_path: Path, redis_server: RedisServer
) -> None:
    with service(artifacts, redis_server.url, tmp_path, RECGPT_HTTP_WORKERS="1") as running:
        running.recall(user_id="ann")
        metrics_after(running, recalls=1)
        engine = psutil.Process(running.process.pid)
        (first,) = engine.children()
        first.kill()
        running.client.close()
        running.client = httpx.Client(base_url=running.client.base_url, timeout=60)
        running.recall(user_id="ann")
        (second,) = engine.children()
        assert second.pid != first.pid
        metrics_after(running, recalls=2)
        assert [r for r in running.records() if "started again" in str(r["message"])]


def test_the_service_ends_with_its_engine(
    artifacts: Path, dataset: Dataset, tmp_path: Path, redis_server: RedisServer
) -> None:
    """Whoever supervises it sees an error, and can start it again on the same port at once."""
    patient = {"RECGPT_DEADLINE_MS": "300000", "RECGPT_DRAIN_SECONDS": "300"}
    patient["RECGPT_HTTP_WORKERS"] = "2"
    body = {"user_id": "u0", "history": dataset.item_ids[:3], "k": 20}
    with service(artifacts, redis_server.url, tmp_path, **patient) as running:
        engine = psutil.Process(running.process.pid)
        front_ends = engine.children()
        assert len(front_ends) == 2
        url = f"http://127.0.0.1:{running.port}/recall/batch"

        async def under_way() -> None:
            """The connection stays open, and recalls are on their way, when the engine ends."""
            async with httpx.AsyncClient(timeout=60) as client:
                engine.suspend()
                asking = asyncio.create_task(client.post(url, json={"requests": [body] * 10}))
                await asyncio.sleep(0.5)
                engine.kill()
                with suppress(httpx.TransportError):
                    assert (await asking).status_code == 500

        asyncio.run(under_way())
        assert running.process.wait(timeout=60) == -signal.SIGKILL
        _, staying = psutil.wait_procs(front_ends, timeout=60)  # not the deadline, nor the drain's
        assert not staying
        lost = [r for r in running.records() if r["level"] == "CRITICAL"]
        assert [r["message"] for r in lost] == ["the engine's process is gone"] * 2
        socket.create_server(("127.0.0.1", running.port)).close()


def test_logs_are_json_with_request_ids(artifacts: Path, tmp_path: Path) -> None:
    with service(artifacts, f"embedded:{tmp_path / 'store'}", tmp_path) as running:
        answer = running.recall(user_id="private-user")
        assert running.stop() == 0
        records = running.records()
    assert answer["request_id"] in [record.get("request_id") for record in records]
    assert "private-user" not in running.log.read_text()


def start(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", "serve", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_taken_port_is_said(
    artifacts: Path, tmp_path: Path, redis_server: RedisServer, workers: str
) -> None:
    with service(artifacts, redis_server.url, tmp_path, RECGPT_HTTP_WORKERS=workers) as running:
        words = ("--artifacts", str(artifacts), "--store", redis_server.url)
        second = start(*words, "--port", str(running.port), "--http-workers", workers)
    assert second.returncode == 1
    assert "choose another --port" in second.stderr
    assert "Traceback" not in second.stderr


def test_an_unusable_artifact_is_said(artifacts: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "artifacts"
    bundle.mkdir()
    for file in (artifacts / "current").iterdir():
        (bundle / file.name).write_bytes(file.read_bytes())
    damaged = bundle / "item_vectors.npy"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    ended = start("--artifacts", str(bundle), "--store", f"embedded:{tmp_path / 'store'}")
    assert ended.returncode == 1
    assert "item_vectors.npy" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("store", ["memcached://x", "embedded:"])
def test_an_unusable_store_is_said(artifacts: Path, store: str) -> None:
    ended = start("--artifacts", str(artifacts), "--store", store)
    assert ended.returncode == 1
    assert "--store" in ended.stderr


def test_an_embedded_store_has_one_writer(artifacts: Path, tmp_path: Path) -> None:
    words = ("--artifacts", str(artifacts), "--store", f"embedded:{tmp_path / 'store'}")
    ended = start(*words, "--http-workers", "2")
    assert ended.returncode == 1
    assert "--http-workers" in ended.stderr
