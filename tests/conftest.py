from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from redis_server import RedisServer

from index.build import build_index
from model.artifact import new_bundle, publish, read_item_vectors
from model.data import Dataset
from model.gpt import GPT


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
    with new_bundle(folder, dataset, model, tiny.RECALL, {}, "0.1") as (bundle, version):
        build_index(read_item_vectors(bundle), bundle)
    publish(folder, version)
    return folder


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real one; tests that use it flush it first."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server
