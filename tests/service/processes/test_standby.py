"""An engine on standby, in the real service."""

import signal
import time
from pathlib import Path

import psutil
import pytest
from redis_server import RedisServer
from running_service import Service, service

from loadtest.serving.servers import ENGINE

PATIENT = {"RECGPT_DEADLINE_MS": "60000", "RECGPT_STANDBY": "true"}


def standby(running: Service) -> psutil.Process:
    """The engine that waits, once it has loaded: the younger one."""
    running.wait_until(lambda: "on standby" in running.log.read_text())
    engines = running.children(ENGINE)
    assert len(engines) == 2
    return max(engines, key=psutil.Process.create_time)


@pytest.mark.parametrize("harm", [signal.SIGKILL, signal.SIGSTOP])
def test_an_engine_on_standby_takes_over(
    artifacts: Path, tmp_path: Path, redis_server: RedisServer, harm: signal.Signals
) -> None:
    with service(artifacts, redis_server.url, tmp_path, **PATIENT) as running:
        waiting = standby(running)
        (first,) = [engine for engine in running.children(ENGINE) if engine.pid != waiting.pid]
        first.send_signal(harm)
        running.wait_until(lambda: not first.is_running())
        assert running.recall(user_id="ann")["items"]
        assert running.engine().pid == waiting.pid
        assert "recgpt_engine_restarts_total 1.0" in running.client.get("/metrics").text
        assert running.stop() == 0
        assert not waiting.is_running()


def test_one_on_standby_that_died_is_of_no_use_and_no_harm(
    artifacts: Path, tmp_path: Path, redis_server: RedisServer
) -> None:
    with service(artifacts, redis_server.url, tmp_path, **PATIENT) as running:
        waiting = standby(running)
        (first,) = [engine for engine in running.children(ENGINE) if engine.pid != waiting.pid]
        waiting.kill()
        running.wait_until(lambda: not waiting.is_running())
        first.kill()
        running.wait_until(lambda: not first.is_running())
        assert running.recall(user_id="ann")["items"]
        assert running.stop() == 0


def test_an_engine_on_standby_ends_with_the_service(
    artifacts: Path, tmp_path: Path, redis_server: RedisServer
) -> None:
    with service(artifacts, redis_server.url, tmp_path, **PATIENT) as running:
        waiting = standby(running)
        assert running.stop(signal.SIGKILL) == -signal.SIGKILL
        for _ in range(600):
            if not waiting.is_running() or waiting.status() == psutil.STATUS_ZOMBIE:
                return
            time.sleep(0.05)
        raise AssertionError("the engine on standby outlives the supervisor")
