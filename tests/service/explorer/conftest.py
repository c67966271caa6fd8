"""The explorer in a real browser, before a real service with an approximate index."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from browser import Browser, browser, missing
from explored import show
from running_service import Service, service

from model.data.dataset import Dataset
from service.offline import export_bundle

EXPERIMENTS = """
[length]
users = { qa = "short" }
slice = [0.0, 0.0001]

[length.arms.short]
recall = { k = 3 }

[length.arms.long]
recall = { k = 9, interests = 2 }
"""


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """More items than elsewhere, so that there are several lists."""
    return tiny.walks(tmp_path_factory.mktemp("explored"), items=400)


@pytest.fixture(scope="session")
def artifacts(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts")
    network = tiny.gpt(catalogue=dataset.catalogue, users=dataset.users)
    export_bundle(folder, dataset, network, tiny.RECALL, {}, "ivf", 0.9)
    return folder


@pytest.fixture(scope="session")
def running(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("explorer")
    file = folder / "experiments.toml"
    file.write_text(EXPERIMENTS)
    environment = {"RECGPT_EXPLORER": "true", "RECGPT_EXPERIMENTS": str(file)}
    with service(artifacts, f"embedded:{folder / 'histories'}", folder, **environment) as running:
        yield running


@pytest.fixture(scope="session")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if reason := missing():
        pytest.skip(reason)
    with browser(tmp_path_factory.mktemp("chromium")) as window:
        yield window


@pytest.fixture
def page(window: Browser, running: Service, dataset: Dataset) -> Iterator[Browser]:
    """The page, with ten candidates from three interests of a user with six events."""
    running.client.delete("/users/ann")
    events = [{"user_id": "ann", "item_id": item} for item in dataset.item_ids[:6]]
    assert running.client.post("/events", json={"events": events}).status_code == 200
    window.resize(1280, 900)
    window.errors()
    show(window, running, "user=ann&k=10&interests=3")
    yield window
    assert not window.errors()
