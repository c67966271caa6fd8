"""The real server in a process of its own, over real sockets."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
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
    """Returns the metrics when they count this number of recalls, soon after the answers."""
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
    patient = {"RECGPT_DEADLINE_MS": "60000", "RECGPT_QUEUE_LIMIT": "4096"}
    patient["RECGPT_ENGINE_PATIENCE_MS"] = "60000"
    patient["RECGPT_HTTP_WORKERS"] = http_workers
    with service(artifacts, redis_server.url, tmp_path, **patient) as running:
        body = {"user_id": "u0", "history": dataset.item_ids[:3], "k": 20}
        engine = running.engine()

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
                running.process.terminate()
                engine.resume()
                return [answer.status_code for answer in await asyncio.gather(*posts)]

        assert asyncio.run(load()) == [200] * 20
        assert running.process.wait(timeout=60) == 0
        assert "drained" in [record["message"] for record in running.records()]
        assert not [r for r in running.records() if r["level"] in ("ERROR", "CRITICAL")]


def test_nothing_is_lost_when_a_balancer_is_slow_to_notice(
    artifacts: Path, tmp_path: Path, redis_server: RedisServer, http_workers: str
) -> None:
    """Clients go on for a second after SIGTERM, on connections that they keep and on new ones."""
    more = {"RECGPT_GRACE_SECONDS": "4", "RECGPT_HTTP_WORKERS": http_workers}
    with service(artifacts, redis_server.url, tmp_path, **PATIENT | more) as running:

        async def ended() -> set[int]:
            load = Load(running, clients=32, body={"user_id": "ann"})
            load.marked = True
            await load.answers(100)
            assert set(load.kept) == {True}
            load.marked = False
            running.process.terminate()
            async with httpx.AsyncClient(base_url=load.url) as client:
                while (refused := await client.get("/readyz")).status_code == 200:
                    await asyncio.sleep(0.001)
                assert "going down" in refused.json()["detail"]
                assert refused.headers["connection"] == "close"
            load.kept.clear()
            load.marked = True
            await asyncio.sleep(1)  # the balancer's lag
            await load.stop()
            assert load.kept
            assert set(load.kept) == {False}
            return set(load.statuses)

        assert asyncio.run(ended()) == {200}
        assert running.process.wait(timeout=60) == 0
        assert not [r for r in running.records() if r["level"] in ("ERROR", "CRITICAL")]


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]])
def test_the_time_of_grace_can_be_ended(
    artifacts: Path, tmp_path: Path, redis_server: RedisServer, signals: list[signal.Signals]
) -> None:
    with service(artifacts, redis_server.url, tmp_path, RECGPT_GRACE_SECONDS="86400") as running:
        for name in signals:
            running.process.send_signal(name)
            running.wait_until(lambda: running.log.read_text().count("going down") == 1)
        assert running.process.wait(timeout=60) == 0


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
            running.wait_until(lambda: running.ready() == 200)
            assert running.client.post("/events", json=event).status_code == 200
            running.wait_until(lambda: not running.recall(user_id="ann")["degraded"])
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
    """Any of them reports the counts of all, those of one that has ended included."""
    redis_server.flush()
    with service(artifacts, redis_server.url, tmp_path, RECGPT_HTTP_WORKERS="2") as running:
        url = f"http://127.0.0.1:{running.port}"
        assert len(running.front_ends()) == 2
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
        (first,) = running.front_ends()
        first.kill()
        running.client.close()
        running.client = httpx.Client(base_url=running.client.base_url, timeout=60)
        running.recall(user_id="ann")
        (second,) = running.front_ends()
        assert second.pid != first.pid
        metrics_after(running, recalls=2)
        assert [r for r in running.records() if "started again" in str(r["message"])]


PATIENT = {"RECGPT_DEADLINE_MS": "120000", "RECGPT_QUEUE_LIMIT": "4096"}


class Load:
    """Clients that ask for one recall after another, until they are told to stop."""

    def __init__(self, running: Service, clients: int, body: dict[str, object]) -> None:
        self.statuses: list[int] = []
        self.marked = False
        self.kept: list[bool] = []  # for each request sent while marked: its connection was kept
        self.url = f"http://127.0.0.1:{running.port}"
        self._body = body
        self._stopping = False
        self._clients = [asyncio.create_task(self._ask()) for _ in range(clients)]

    async def _ask(self) -> None:
        async with httpx.AsyncClient(base_url=self.url, timeout=120) as client:
            while not self._stopping:
                marked = self.marked
                answer = await client.post("/recall", json=self._body)
                self.statuses.append(answer.status_code)
                if marked:
                    self.kept.append(answer.headers.get("connection") != "close")

    async def answers(self, count: int) -> None:
        """Returns after `count` further answers."""
        wanted = len(self.statuses) + count
        while len(self.statuses) < wanted:
            assert not any(client.done() for client in self._clients)
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Returns when all clients have their last answer."""
        self._stopping = True
        await asyncio.gather(*self._clients)


@pytest.mark.parametrize("harm", [signal.SIGKILL, signal.SIGSTOP])
def test_an_engine_that_dies_or_hangs_is_replaced_under_load(
    artifacts: Path,
    dataset: Dataset,
    tmp_path: Path,
    redis_server: RedisServer,
    harm: signal.Signals,
) -> None:
    """Clients wait for the next engine, within their deadline, and are told so by readiness."""
    body = {"user_id": "u0", "history": dataset.item_ids[:3], "k": 20}
    more = PATIENT | {"RECGPT_HTTP_WORKERS": "2", "RECGPT_ENGINE_PATIENCE_MS": "1000"}
    with service(artifacts, redis_server.url, tmp_path, **more) as running:
        first = running.engine()

        async def harmed() -> list[int]:
            load = Load(running, clients=8, body=body)
            await load.answers(50)
            first.send_signal(harm)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{running.port}") as client:
                while (refused := await client.get("/readyz")).status_code == 200:
                    await asyncio.sleep(0.01)
                assert "engine is being replaced" in refused.json()["detail"]
                assert (await client.get("/healthz")).status_code == 200
                while (await client.get("/readyz")).status_code != 200:
                    await asyncio.sleep(0.01)
            await load.answers(50)
            await load.stop()
            return load.statuses

        assert set(asyncio.run(harmed())) == {200}
        assert running.engine().pid != first.pid
        metrics = running.client.get("/metrics").text
        assert total(metrics, "recgpt_engine_restarts_total") == 1
        told = [r for r in running.records() if "the engine is started again" in str(r["message"])]
        assert len(told) == 1
        assert ("hung" in str(told[0]["message"])) == (harm == signal.SIGSTOP)
        assert running.stop() == 0


def until(condition: Callable[[], object]) -> None:
    """Waits, and fails if the condition does not become true within a minute."""
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def free(port: int) -> bool:
    """Whether a service could listen on the port."""
    with suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False


def gone(process: psutil.Process) -> bool:
    """Whether it has ended; where nobody adopts orphans, a zombie of it may be left."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_nothing_outlives_a_supervisor_that_is_killed(
    artifacts: Path, tmp_path: Path, redis_server: RedisServer
) -> None:
    """The service manager sees it end, and can start it again on the same port at once."""
    temporary = tmp_path / "t"
    temporary.mkdir()
    options = {"RECGPT_HTTP_WORKERS": "2", "TMPDIR": str(temporary)}
    with service(artifacts, redis_server.url, tmp_path, **options) as running:
        assert list(temporary.iterdir())
        loaded = Path(f"/proc/{running.process.pid}/maps").read_text()
        for library in ("torch", "numba", "scipy", "faiss", "polars", "numpy"):
            assert f"/{library}/" not in loaded
        children = [*running.front_ends(), running.engine()]
        assert len(children) == 3
        assert running.stop(signal.SIGKILL) == -signal.SIGKILL
        until(lambda: all(map(gone, children)))
        until(lambda: free(running.port))
        assert not list(temporary.iterdir())


def test_sighup_does_not_end_the_service(artifacts: Path, tmp_path: Path) -> None:
    with service(artifacts, f"embedded:{tmp_path / 'store'}", tmp_path) as running:
        for count in (1, 2):
            running.process.send_signal(signal.SIGHUP)
            for _ in range(600):
                warned = [r for r in running.records() if "SIGHUP" in str(r["message"])]
                if len(warned) == count:
                    break
                time.sleep(0.05)
            assert len(warned) == count
        running.recall(user_id="ann")
        assert running.stop() == 0


def test_logs_are_json_with_request_ids(artifacts: Path, tmp_path: Path) -> None:
    with service(artifacts, f"embedded:{tmp_path / 'store'}", tmp_path) as running:
        answer = running.recall(user_id="private-user")
        assert running.stop() == 0
        records = running.records()
    assert answer["request_id"] in [record.get("request_id") for record in records]
    assert "private-user" not in running.log.read_text()


def test_a_reader_of_the_log_that_hangs_does_not_hang_the_service(
    artifacts: Path, tmp_path: Path
) -> None:
    """The pipe of the log is full after some hundred requests."""
    os.mkfifo(tmp_path / "service.log")
    unread = os.open(tmp_path / "service.log", os.O_RDONLY | os.O_NONBLOCK)
    with service(artifacts, f"embedded:{tmp_path / 'store'}", tmp_path) as running:
        for _ in range(1000):
            running.recall(user_id="ann")
        assert running.stop() == 0
    assert len(os.read(unread, 1 << 20)) > 1 << 15
    os.close(unread)


def start(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", "serve", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


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
    assert ended.stderr.count("item_vectors.npy") == 1
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
