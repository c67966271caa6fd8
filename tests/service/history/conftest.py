from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from appending import PATIENT
from redis_server import RedisServer

from service.history.store import HistoryStore


@pytest.fixture(params=["redis", "embedded"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[HistoryStore]:
    """An empty store: every test runs over Redis and over the embedded store."""
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        server.flush()
        url = server.url
    else:
        url = f"embedded:{tmp_path / 'histories'}"
    opened = HistoryStore.open(url, limit=4, timeout_ms=PATIENT)
    yield opened
    await opened.close()
