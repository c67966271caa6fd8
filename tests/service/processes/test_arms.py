"""Arms of different versions side by side, over real sockets."""

import os
import re
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from answers import ids
from running_service import Service, service
from two_versions import two_versions

from loadtest.serving.servers import ENGINE
from model.artifact.versions import list_versions, publish
from model.data.dataset import Dataset

FILE = """
[network]
users = {{ old = "old", new = "new" }}
slice = [0.0, 0.0001]

[network.arms.old]
version = "{old}"

[network.arms.new]
version = "{new}"
recall = {{ k = 7 }}
"""
PATIENT = {"RECGPT_DEADLINE_MS": "60000"}


@pytest.fixture
def store(artifacts: Path, dataset: Dataset, tmp_path: Path) -> Path:
    return two_versions(artifacts, dataset, tmp_path / "artifacts")


def names(store: Path) -> tuple[str, str]:
    """The version that is served at first, and the other one."""
    new, old = [one.version for one in list_versions(store)]
    return old, new


def written(folder: Path, old: str, new: str) -> Path:
    file = folder / "experiments.toml"
    beside = folder / "beside.toml"
    beside.write_text(FILE.format(old=old, new=new))
    os.replace(beside, file)
    return file


def engines(running: Service) -> list[psutil.Process]:
    return running.children(ENGINE)


def arms(running: Service) -> dict[str, dict[str, Any]]:
    found = running.client.get("/versions").raise_for_status().json()["arms"]
    listed = running.client.get("/experiments").raise_for_status().json()["versions"]
    assert [one["version"] for one in listed] == [one["version"] for one in found]
    return {one["version"]: one for one in found}


def loaded(running: Service, version: str) -> bool:
    return version in arms(running) and arms(running)[version]["loaded"]


def recalled(running: Service, user: str, history: list[str]) -> tuple[Any, tuple[str, ...], Any]:
    """Version, items and arms of an answer over a new connection, of whichever front end."""
    with httpx.Client(base_url=f"http://127.0.0.1:{running.port}", timeout=60) as client:
        body = {"user_id": user, "history": history}
        answer = client.post("/recall", json=body).raise_for_status().json()
    return answer["version"], tuple(ids(answer)), answer.get("experiments")


def test_arms_of_two_versions_are_answered_side_by_side(
    store: Path, dataset: Dataset, tmp_path: Path
) -> None:
    old, new = names(store)
    history = dataset.item_ids[:3]
    file = written(tmp_path, old, new)
    with service(
        store,
        f"embedded:{tmp_path / 'store'}",
        tmp_path,
        RECGPT_EXPERIMENTS=str(file),
        **PATIENT,
    ) as running:
        running.wait_until(lambda: loaded(running, new))
        assert loaded(running, old)
        assert len(engines(running)) == 2  # the served version is loaded once

        version, of_old, arm = recalled(running, "old", history)
        assert (version, arm) == (old, [{"experiment": "network", "arm": "old"}])
        version, of_new, arm = recalled(running, "new", history)
        assert (version, arm) == (new, [{"experiment": "network", "arm": "new"}])
        assert len(of_new) == 7 != len(of_old)
        assert of_new != of_old[:7]
        assert recalled(running, "another", history) == (old, of_old, None)

        body = {"requests": [{"user_id": u, "history": history} for u in ("new", "old", "new")]}
        answer = running.client.post("/recall/batch", json=body).raise_for_status().json()
        assert [one["version"] for one in answer["results"]] == [new, old, new]
        assert [tuple(ids(one)) for one in answer["results"]] == [of_new, of_old, of_new]

        page = running.recall(user_id="new", history=history, page_size=3)
        rest = running.recall(cursor=page["cursor"], with_metadata=True)
        assert rest["version"] == new
        assert tuple(ids(page) + ids(rest))[:6] == of_new[:6]

        publish(store, new)  # the arms go on as they are; engines are not loaded twice
        running.wait_until(lambda: running.client.get("/versions").json()["serving"] == new)
        assert recalled(running, "another", history)[0] == new
        running.wait_until(lambda: loaded(running, old))
        assert recalled(running, "old", history)[:2] == (old, of_old)
        assert recalled(running, "new", history)[:2] == (new, of_new)
        assert len(engines(running)) == 2

        file.write_text("")  # the experiment is over
        running.wait_until(lambda: len(engines(running)) == 1)
        assert recalled(running, "old", history)[0] == new
        assert arms(running) == {}
        assert not [r for r in running.records() if r["level"] in ("ERROR", "CRITICAL")]


def test_two_versions_are_interleaved_while_publications_go_on(
    store: Path, dataset: Dataset, tmp_path: Path
) -> None:
    old, new = names(store)
    history = dataset.item_ids[:3]
    file = written(tmp_path, old, new)
    text = file.read_text().replace("recall = { k = 7 }", "")
    file.write_text(re.sub(r"users.*\nslice.*", "interleave = true", text))
    environment = {"RECGPT_EXPERIMENTS": str(file), "RECGPT_HTTP_WORKERS": "2", **PATIENT}
    nowhere = "redis://127.0.0.1:1"  # the recalls bring their history
    mixed = [{"experiment": "network", "arm": "interleaved", "versions": {"old": old, "new": new}}]
    with service(store, nowhere, tmp_path, **environment) as running:
        running.wait_until(lambda: all(recalled(running, "u", history)[2] for _ in range(20)))
        assert len(engines(running)) == 2
        for version in (new, old):
            publish(store, version)
            for _ in range(40):
                found = recalled(running, "u", history)
                assert found[2] is None or (found[0], found[2]) == (old, mixed)
                assert len(set(found[1])) == len(found[1])
            running.wait_until(
                lambda v=version: running.client.get("/versions").json()["serving"] == v
            )
        assert not [r for r in running.records() if r["level"] == "CRITICAL"]


def test_a_version_that_is_not_loaded_has_no_part_in_answers(
    store: Path, dataset: Dataset, tmp_path: Path
) -> None:
    old, new = names(store)
    history = dataset.item_ids[:3]
    file = written(tmp_path, old, new)
    with (store / new / "padding").open("wb") as padding:
        padding.truncate(1 << 42)  # 4 TB, of which the disk holds nothing
    environment = {"RECGPT_EXPERIMENTS": str(file), **PATIENT}
    with service(store, f"embedded:{tmp_path / 'store'}", tmp_path, **environment) as running:
        running.wait_until(lambda: new in arms(running) and arms(running)[new]["problem"])
        assert "GB of memory" in arms(running)[new]["problem"]
        assert not loaded(running, new)
        found = recalled(running, "new", history)
        assert found == recalled(running, "another", history)  # without the arm's k, too
        assert (found[0], found[2]) == (old, None)
        metrics = running.client.get("/metrics").text
        assert f'recgpt_arm_version_loaded{{version="{new}"}} 0.0' in metrics
        assert f'recgpt_arm_version_loaded{{version="{old}"}} 1.0' in metrics
        assert "recgpt_arm_fallbacks_total 1.0" in metrics
        errors = [str(r["message"]) for r in running.records() if r["level"] == "ERROR"]
        assert len([one for one in errors if "an arm's version is not loaded" in one]) == 1
        (store / new / "padding").unlink()
        running.process.send_signal(1)  # SIGHUP: it is tried again
        running.wait_until(lambda: loaded(running, new))
        assert recalled(running, "new", history)[0] == new


def test_an_engine_of_an_arm_that_is_killed_is_replaced(
    store: Path, dataset: Dataset, tmp_path: Path
) -> None:
    old, new = names(store)
    history = dataset.item_ids[:3]
    environment = {"RECGPT_EXPERIMENTS": str(written(tmp_path, old, new)), **PATIENT}
    with service(store, f"embedded:{tmp_path / 'store'}", tmp_path, **environment) as running:
        running.wait_until(lambda: loaded(running, new))
        served, arm = sorted(engines(running), key=psutil.Process.create_time)
        arm.kill()
        arm.wait()
        running.wait_until(lambda: recalled(running, "new", history)[0] == new)
        assert recalled(running, "another", history)[0] == old
        assert served.is_running()


def test_answers_of_an_arm_are_not_mixed_while_versions_change(
    store: Path, dataset: Dataset, tmp_path: Path
) -> None:
    """A user of an arm is answered by its version, or by no arm, during every publication."""
    old, new = names(store)
    history = dataset.item_ids[:3]
    file = str(written(tmp_path, old, new))
    environment = {"RECGPT_EXPERIMENTS": file, "RECGPT_HTTP_WORKERS": "2", **PATIENT}
    nowhere = "redis://127.0.0.1:1"  # the recalls bring their history
    with service(store, nowhere, tmp_path, **environment) as running:
        running.wait_until(lambda: all(recalled(running, "new", history)[2] for _ in range(20)))
        expected = {user: recalled(running, user, history) for user in ("old", "new")}
        for version in (new, old, new):
            publish(store, version)
            for _ in range(40):
                for user in ("old", "new"):
                    found = recalled(running, user, history)
                    assert found == expected[user] or found[2] is None, found
            running.wait_until(
                lambda v=version: running.client.get("/versions").json()["serving"] == v
            )
        with httpx.Client(base_url=f"http://127.0.0.1:{running.port}") as client:
            assert client.get("/healthz").status_code == 200
