from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis_server import RedisServer

from service.catalogue.store import CatalogueStore
from service.history.store import HistoryStore

PATIENT = 20_000
"""Milliseconds that a busy machine may take."""


@pytest.fixture(params=["redis", "embedded"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[HistoryStore]:
    """An empty store: every test runs over Redis and over the embedded store."""
    url = f"embedded:{tmp_path / 'histories'}"
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        server.flush()
        url = server.url
    opened = HistoryStore.open(url, timeout_ms=PATIENT)
    yield opened
    await opened.close()


@pytest.fixture
def items(store: HistoryStore) -> CatalogueStore:
    return CatalogueStore(store)
