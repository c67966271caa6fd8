"""The service that faults are made in: a synthetic catalogue, and histories in a real Redis.

The catalogue is so large that the engine is the bottleneck. So load generator and front end, which
share the machine with it, can bring about an overload, and a rate of refusals that is 20 times what
the engine answers.
"""

import random
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import redis

from index.build import build_index
from loadtest.scale.scale_bundle import bundle_of
from loadtest.serving.servers import (
    free_port,
    is_ready,
    process_tree,
    recgpt_serve,
    runs,
    wait_until,
)
from loadtest.stopping import stop_by_exit
from model.artifact.bundle import read_item_vectors
from model.artifact.versions import publish

ITEMS, WIDTH, USERS, HISTORY = 200_000, 256, 2000, 50
START_S = 300.0


def make_bundle(artifacts: Path, seed: int = 0, items: int = ITEMS) -> str:
    """Writes a bundle of a random catalogue, publishes it, and returns its version."""
    vectors_VD = np.random.default_rng(seed).standard_normal((items, WIDTH), dtype=np.float32)
    with bundle_of(artifacts, vectors_VD, USERS) as (folder, version):
        build_index(read_item_vectors(folder), folder, "exact")
    publish(artifacts, version)
    return version


def users() -> list[str]:
    """Returns the ids of the users, all of whom have a history."""
    return [f"user-{row}" for row in range(USERS)]


def fill(url: str) -> None:
    """Stores a history for every user."""
    rng = random.Random(0)
    with redis.Redis.from_url(url) as store, store.pipeline() as pipeline:
        for user in users():
            pipeline.rpush(f"h:{user}", *(f"item-{rng.randrange(ITEMS)}" for _ in range(HISTORY)))
        pipeline.execute()


class Instance:
    """A running service."""

    def __init__(self, artifacts: Path, store: str, *options: str) -> None:
        """Begins to start it."""
        stop_by_exit()
        self.port = free_port()
        command = [*recgpt_serve(artifacts, store), "--log-level", "error", *options]
        self.popen = subprocess.Popen([sys.executable, *command, "--port", str(self.port)])
        self.process = psutil.Process(self.popen.pid)

    def wait_until_ready(self) -> None:
        """Returns when it can answer. Exits if it ends instead."""
        wait_until(lambda: is_ready(self.port), self.popen, START_S)

    def children(self, module: str) -> list[psutil.Process]:
        """Returns the child processes that run a module, the oldest first."""
        found = []
        for one in process_tree(self.process)[1:]:
            with suppress(psutil.NoSuchProcess):  # it has just ended
                if runs(one, module):
                    found.append(one)
        return sorted(found, key=psutil.Process.create_time)

    def resident_mb(self, module: str) -> float:
        """Returns the resident memory of these children."""
        rss_bytes: int = sum(one.memory_info().rss for one in self.children(module))
        return rss_bytes / 2**20

    def answers(self, route: str) -> Counter[str]:
        """Returns the answers of a route so far, by status, as the metrics count them."""
        url = f"http://127.0.0.1:{self.port}/metrics"
        with urllib.request.urlopen(url, timeout=30) as answer:
            text = answer.read().decode()
        line = rf'recgpt_requests_total{{route="{route}",status="(\w+)"}} (\S+)'
        return Counter({status: int(float(count)) for status, count in re.findall(line, text)})

    def status(self, path: str) -> int:
        """Returns the status of a GET request; 0 if there is no answer."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}{path}", timeout=10
            ) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            return 0

    def end(self) -> None:
        """Ends it, however it is."""
        self.popen.terminate()
        try:
            self.popen.wait(60)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


@contextmanager
def running(artifacts: Path, store: str, *options: str) -> Iterator[Instance]:
    """Yields an instance that is ready."""
    instance = Instance(artifacts, store, *options)
    try:
        instance.wait_until_ready()
        yield instance
    finally:
        instance.end()
