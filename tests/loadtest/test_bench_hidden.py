"""No answer holds an item that was hidden before the answer was begun."""

import asyncio
from pathlib import Path

import pytest
from redis_server import RedisServer
from running_service import service

from loadtest.serving.bench_hidden import Watch, run


@pytest.mark.parametrize("workers", ["1", "2"])
def test_hidden_items_are_in_no_answer_under_load(
    artifacts: Path, redis_server: RedisServer, tmp_path: Path, workers: str
) -> None:
    redis_server.flush()
    patient = {"RECGPT_HTTP_WORKERS": workers, "RECGPT_DEADLINE_MS": "60000"}
    with service(artifacts, redis_server.url, tmp_path, **patient) as running:
        watch = asyncio.run(run(running.port, redis_server.url, answers=4000))
        assert watch.answers >= 4000
        assert watch.changes > 0
        assert not watch.violations


def test_an_answer_that_holds_a_hidden_item_is_noticed() -> None:
    watch = Watch(grace_seconds=1, hidden={'a"b': 10.0, "c": 10.5})
    assert watch.due(begun=10.9) == set()
    due = watch.due(begun=11.2)
    assert due == {'a"b'}
    watch.check(rb'[{"item_id":"c"},{"item_id":"d"}]', due, 1)
    assert watch.violations == []
    watch.check(rb'[{"item_id":"a\"b"}]', due, 1)
    assert len(watch.violations) == 1
    del watch.hidden['a"b']  # shown again while the answer was computed
    watch.check(rb'[{"item_id":"a\"b"}]', due, 1)
    assert len(watch.violations) == 1
