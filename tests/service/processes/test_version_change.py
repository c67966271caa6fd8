"""Changes to another version without a restart, over real sockets and under load."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from redis_server import free_port
from running_service import Service, service
from two_versions import two_versions

from loadtest.serving.servers import ENGINE
from model.artifact.versions import find_bundle, list_versions, publish, roll_back
from model.data.dataset import Dataset

CLIENTS = 4


@pytest.fixture
def store(artifacts: Path, dataset: Dataset, tmp_path: Path) -> Path:
    """An artifact store with two versions, of which the older one is served."""
    return two_versions(artifacts, dataset, tmp_path / "artifacts")


def item_ids(answer: dict[str, Any]) -> tuple[str, ...]:
    """The recalled items, without scores: their last digit depends on the size of the batch."""
    return tuple(item["item_id"] for item in answer["items"])


def versions(running: Service) -> dict[str, object]:
    found: dict[str, object] = running.client.get("/versions").raise_for_status().json()
    return found


def metrics(running: Service) -> str:
    return running.client.get("/metrics").text


def engines(running: Service) -> list[psutil.Process]:
    return running.children(ENGINE)


def serving(running: Service, version: str) -> bool:
    return versions(running)["serving"] == version


@contextmanager
def load(running: Service, body: dict[str, object]) -> Iterator[list[tuple[str, tuple[str, ...]]]]:
    """Sends recalls all the time, and collects the version and the items of each answer."""
    answers: list[tuple[str, tuple[str, ...]]] = []
    over = threading.Event()

    def client() -> None:
        url = f"http://127.0.0.1:{running.port}"
        with httpx.Client(base_url=url, timeout=60) as http:
            while not over.is_set():
                answer = http.post("/recall", json=body).raise_for_status().json()
                answers.append((answer["version"], item_ids(answer)))

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client) for _ in range(CLIENTS)]
        try:
            yield answers
        finally:
            over.set()
    for one in clients:
        one.result()


@pytest.mark.parametrize("http_workers", ["1", "2"])
def test_every_answer_is_of_one_version_or_the_other(
    store: Path, dataset: Dataset, tmp_path: Path, http_workers: str
) -> None:
    old, new = [one.version for one in list_versions(store)][::-1]
    patient = {"RECGPT_DEADLINE_MS": "60000", "RECGPT_HTTP_WORKERS": http_workers}
    body: dict[str, object] = {"user_id": "u0", "history": dataset.item_ids[:3], "k": 10}
    nowhere = "redis://127.0.0.1:1"  # the recalls bring their history
    url = f"embedded:{tmp_path / 'store'}" if http_workers == "1" else nowhere
    with service(store, url, tmp_path, **patient) as running:
        expected = {old: item_ids(running.recall(**body))}
        with load(running, body) as answers:
            publish(store, new)
            running.wait_until(lambda: serving(running, new))
            expected[new] = item_ids(running.recall(**body))
            running.wait_until(lambda: len(engines(running)) == 1)
            roll_back(store)
            running.wait_until(lambda: serving(running, old))
            running.wait_until(lambda: len(engines(running)) == 1)
        assert {version for version, _ in answers} == {old, new}
        assert expected[old] != expected[new]
        assert all(items == expected[version] for version, items in answers)
        assert not [r for r in running.records() if r["level"] in ("ERROR", "CRITICAL")]
        running.wait_until(lambda: "recgpt_version_changes_total 2.0" in metrics(running))
        assert "recgpt_failed_version_changes_total 0.0" in metrics(running)


def test_a_version_that_cannot_be_served_leaves_the_old_one(store: Path, tmp_path: Path) -> None:
    old, new = [one.version for one in list_versions(store)][::-1]
    content = bytearray((store / new / "item_vectors.npy").read_bytes())
    content[-1] ^= 1
    (store / new / "item_vectors.npy").write_bytes(content)
    with service(store, f"embedded:{tmp_path / 'store'}", tmp_path) as running:
        assert versions(running)["problem"] is None
        publish(store, new)
        running.wait_until(lambda: versions(running)["problem"])
        assert "item_vectors.npy is damaged" in str(versions(running)["problem"])
        assert serving(running, old)
        assert not running.client.post("/recall", json={"user_id": "ann"}).is_error
        assert "recgpt_failed_version_changes_total 1.0" in metrics(running)
        errors = [str(r["message"]) for r in running.records() if r["level"] == "ERROR"]
        assert [text for text in errors if "the old version stays" in text] == [
            f"the old version stays: {versions(running)['problem']}"
        ]
        publish(store, old)
        running.wait_until(lambda: versions(running)["problem"] is None)
        assert serving(running, old)


def test_an_engine_that_dies_after_a_change_is_replaced_by_one_of_the_new_version(
    store: Path, tmp_path: Path
) -> None:
    old, new = [one.version for one in list_versions(store)][::-1]
    with service(store, f"embedded:{tmp_path / 'store'}", tmp_path) as running:
        publish(store, new)
        running.wait_until(lambda: serving(running, new) and len(engines(running)) == 1)
        (engine,) = engines(running)
        engine.kill()
        engine.wait()
        running.wait_until(lambda: running.client.get("/readyz").status_code == 200)
        running.wait_until(lambda: running.client.post("/recall", json={"user_id": "a"}).is_success)
        assert running.recall(user_id="ann")["version"] == new != old


def test_without_watching_a_version_is_taken_up_on_sighup(store: Path, tmp_path: Path) -> None:
    old, new = [one.version for one in list_versions(store)][::-1]
    store_url = f"embedded:{tmp_path / 'store'}"
    with service(store, store_url, tmp_path, RECGPT_WATCH="false") as running:
        publish(store, new)
        assert serving(running, old)
        running.process.send_signal(1)
        running.wait_until(lambda: serving(running, new))


def test_a_reload_tells_what_it_found(store: Path, tmp_path: Path) -> None:
    old, new = [one.version for one in list_versions(store)][::-1]
    port = free_port()
    secret = "0123456789abcdef"
    environment = {
        "RECGPT_WATCH": "false",
        "RECGPT_ADMIN_PORT": str(port),
        "RECGPT_API_KEYS": f"ops:admin+read:{secret}",
    }
    with (
        service(store, f"embedded:{tmp_path / 'store'}", tmp_path, **environment) as running,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as admin,
    ):
        assert admin.post("/admin/reload").status_code == 401
        running.client.headers["authorization"] = f"Bearer {secret}"
        admin.headers["authorization"] = f"Bearer {secret}"
        assert running.client.post("/admin/reload").status_code == 404
        answer = admin.post("/admin/reload")
        assert (answer.status_code, answer.json()) == (200, {"serving": old, "loading": None})

        publish(store, new)
        answer = admin.post("/admin/reload")
        assert (answer.status_code, answer.json()) == (202, {"serving": old, "loading": new})
        assert versions(running)["loading"] == new
        running.wait_until(lambda: serving(running, new) and not versions(running)["loading"])
        running.wait_until(lambda: len(engines(running)) == 1)

        with (store / old / "padding").open("wb") as padding:
            padding.truncate(1 << 42)  # 4 TB, of which the disk holds nothing
        publish(store, old)
        answer = admin.post("/admin/reload")
        assert answer.status_code == 409
        assert "GB of memory" in answer.json()["detail"]
        assert serving(running, new)


def test_a_single_bundle_has_no_versions_beside_it(store: Path, tmp_path: Path) -> None:
    bundle = find_bundle(store)
    with service(bundle, f"embedded:{tmp_path / 'store'}", tmp_path) as running:
        assert versions(running) == {
            "serving": bundle.name,
            "loading": None,
            "problem": None,
            "versions": [],
            "arms": [],
        }
