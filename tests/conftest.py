import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
import torch
from redis_server import RedisServer

from model.data.dataset import Dataset
from model.network.gpt import GPT
from service.offline import export_bundle


def pytest_configure(config: pytest.Config) -> None:
    """One thread: tiny models gain nothing from more, and those spin where others use the cores.

    One folder of compiled code: processes that tests start do not compile again.
    """
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
    cache = getattr(config, "cache", None)  # there is none with -p no:cacheprovider
    if cache and "RECGPT_CACHE_DIR" not in os.environ:
        folder = cache.mkdir("compiled")
        folder.chmod(0o700)
        os.environ["RECGPT_CACHE_DIR"] = str(folder)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return tiny.walks(tmp_path_factory.mktemp("walks"))


@pytest.fixture(scope="session")
def model(dataset: Dataset) -> GPT:
    """Untrained, but every weight matters."""
    return tiny.gpt(catalogue=dataset.catalogue, users=dataset.users)


@pytest.fixture(scope="session")
def artifacts(dataset: Dataset, model: GPT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one published bundle of the model."""
    folder = tmp_path_factory.mktemp("artifacts")
    export_bundle(folder, dataset, model, tiny.RECALL, {})
    return folder


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real one; tests that use it flush it first."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server
