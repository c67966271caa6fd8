from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from in_process_worker import InProcessWorker, client_of
from served import served_bundle

from service.history.store import HistoryStore
from service.http.app import create_app
from service.recall.recaller import Recaller
from service.recall.served_bundle import ServedBundle
from service.settings import ServeSettings


@pytest.fixture(scope="module")
def recaller(artifacts: Path) -> Recaller:
    recaller = Recaller.load(artifacts, "cpu")
    recaller.warm_up()  # compiles, which on a busy machine may take longer than any deadline
    return recaller


@pytest.fixture(scope="module")
def bundle(recaller: Recaller, tmp_path_factory: pytest.TempPathFactory) -> ServedBundle:
    return served_bundle(recaller, tmp_path_factory.mktemp("metadata"))


@pytest.fixture
async def client(
    recaller: Recaller, bundle: ServedBundle, tmp_path: Path
) -> AsyncIterator[httpx.AsyncClient]:
    settings = ServeSettings(artifacts=tmp_path, store="", body_limit=100_000, deadline_ms=60_000)
    store = HistoryStore.open(f"embedded:{tmp_path / 'histories'}")
    worker = InProcessWorker(recaller, bundle=bundle)
    app = create_app(settings, worker, store)
    async with client_of(app) as client:
        client.store = store  # type: ignore[attr-defined]
        client.worker = worker  # type: ignore[attr-defined]
        yield client
