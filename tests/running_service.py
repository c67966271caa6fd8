"""`recgpt serve` as the tests start it: a process of its own, over real sockets."""

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
from redis_server import free_port

from loadtest.serving.servers import ENGINE, FRONT_END, runs

AT_ONCE = {"RECGPT_GRACE_SECONDS": "0"}  # without a balancer nobody must be waited for
START_SECONDS = 300.0  # a start compiles for 15 s on an idle core, longer beside other work


class Service:
    """`recgpt serve` on a free port; logs to a file."""

    def __init__(
        self,
        artifacts: Path,
        store: str,
        folder: Path,
        tls: ssl.SSLContext | None = None,
        **environment: str,
    ) -> None:
        self.log = folder / "service.log"
        self.port = free_port()
        command = [sys.executable, "-m", "cli", "serve", "--artifacts", str(artifacts)]
        command += ["--store", store, "--port", str(self.port), "--device", "cpu"]
        with self.log.open("ab") as log:
            settings = os.environ | AT_ONCE | environment
            self.process = subprocess.Popen(command, stderr=log, env=settings)
        url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=url, timeout=60, verify=tls or True)

    def wait_until_ready(self) -> None:
        """Returns when it can answer recalls."""
        self.wait_until(lambda: self.client.get("/readyz").status_code == 200)

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Returns when the condition holds. Raises AssertionError if it takes too long."""
        give_up = time.monotonic() + START_SECONDS
        while time.monotonic() < give_up:
            if self.process.poll() is not None:
                raise AssertionError(f"the service ended: {self.log.read_text()}")
            with suppress(httpx.TransportError):
                if condition():
                    return
            time.sleep(0.05)
        raise AssertionError(f"waited in vain: {self.log.read_text()}")

    def engine(self) -> psutil.Process:
        """The engine process."""
        (engine,) = self.children(ENGINE)
        return engine

    def front_ends(self) -> list[psutil.Process]:
        """The front-end processes."""
        return self.children(FRONT_END)

    def children(self, module: str) -> list[psutil.Process]:
        """The child processes that run a module."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):
                if runs(child, module):
                    found.append(child)
        return found

    def recall(self, **body: object) -> dict[str, object]:
        answer = self.client.post("/recall", json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, object] = answer.json()
        return found

    def ready(self) -> int:
        """The status of readiness with the store."""
        return self.client.get("/readyz?strict=1").status_code

    def stop(self, with_signal: int = signal.SIGTERM) -> int:
        self.client.close()
        self.process.send_signal(with_signal)
        return self.process.wait(timeout=60)

    def records(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@contextmanager
def service(
    artifacts: Path,
    store: str,
    folder: Path,
    tls: ssl.SSLContext | None = None,
    **environment: str,
) -> Iterator[Service]:
    running = Service(artifacts, store, folder, tls, **environment)
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.client.close()
        running.process.kill()
        running.process.wait()
