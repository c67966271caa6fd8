"""Hidden items in the real service: from any job to the engine, whatever process is replaced."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from redis_server import RedisServer
from running_service import Service, service

from model.artifact.versions import list_versions, publish, served_version
from model.data.dataset import Dataset
from service.offline import export_bundle


@pytest.fixture(scope="module")
def store(artifacts: Path, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact store with two versions, of which the older one is served."""
    folder = Path(
        shutil.copytree(
            artifacts, tmp_path_factory.mktemp("store"), symlinks=True, dirs_exist_ok=True
        )
    )
    first = served_version(folder)
    assert first
    other = tiny.gpt(catalogue=dataset.catalogue, users=dataset.users, seed=1)
    export_bundle(folder, dataset, other, tiny.RECALL, {})
    publish(folder, first)
    return folder


@pytest.fixture(scope="module")
def running(
    store: Path, tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer
) -> Iterator[Service]:
    """Two front ends, so that each hears of what the other stores."""
    folder = tmp_path_factory.mktemp("service")
    patient = {"RECGPT_HTTP_WORKERS": "2", "RECGPT_DEADLINE_MS": "60000"}
    redis_server.flush()
    with service(store, redis_server.url, folder, **patient) as found:
        yield found


def recalled(running: Service, dataset: Dataset) -> list[str]:
    answer = running.recall(user_id="x", history=dataset.item_ids[:3], k=20)
    return [item["item_id"] for item in answer["items"]]  # type: ignore[attr-defined]


def test_a_job_hides_an_item_and_shows_it_again(
    running: Service, dataset: Dataset, redis_server: RedisServer
) -> None:
    first = recalled(running, dataset)[0]
    redis_server.command("SADD", "hidden", first, "unknown")
    running.wait_until(lambda: first not in recalled(running, dataset))
    for _ in range(50):  # over both front ends
        assert first not in recalled(running, dataset)
    redis_server.command("DEL", "hidden")
    running.wait_until(lambda: first in recalled(running, dataset))


def test_replaced_processes_hide_what_was_hidden(
    running: Service, dataset: Dataset, redis_server: RedisServer
) -> None:
    first = recalled(running, dataset)[0]
    redis_server.command("SADD", "hidden", first)
    running.wait_until(lambda: first not in recalled(running, dataset))
    engine = running.engine()
    engine.kill()
    for _ in range(20):  # the first of these wait for the next engine
        assert first not in recalled(running, dataset)
    before = running.front_ends()
    for front_end in before:
        front_end.kill()
        front_end.wait(60)
    running.wait_until(lambda: len(running.front_ends()) == len(before))
    running.wait_until(lambda: running.client.get("/readyz").status_code == 200)
    for _ in range(20):
        assert first not in recalled(running, dataset)
    redis_server.command("SREM", "hidden", first)
    running.wait_until(lambda: first in recalled(running, dataset))


def test_a_new_version_hides_what_was_hidden(
    running: Service, dataset: Dataset, store: Path, redis_server: RedisServer
) -> None:
    redis_server.command("SADD", "hidden", *dataset.item_ids[:20])
    running.wait_until(lambda: not {*recalled(running, dataset)} & {*dataset.item_ids[:20]})
    (other,) = {one.version for one in list_versions(store)} - {served_version(store)}
    publish(store, other)

    def served() -> bool:
        answer = running.recall(user_id="x", history=dataset.item_ids[:3], k=20)
        found = {item["item_id"] for item in answer["items"]}  # type: ignore[attr-defined]
        assert not found & {*dataset.item_ids[:20]}
        return answer["version"] == other

    running.wait_until(served)
    redis_server.command("DEL", "hidden")
    running.wait_until(lambda: {*recalled(running, dataset)} & {*dataset.item_ids[:20]})
