"""Redis on several servers, as the tests start it: Sentinels with a replica, and a cluster."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import redis
from redis_server import RedisServer, free_port

SECONDS = 120.0  # machines that run tests are busy


def wait_until(condition: Callable[[], object]) -> None:
    """Returns when the condition holds. Raises AssertionError if it takes too long."""
    give_up = time.monotonic() + SECONDS
    while time.monotonic() < give_up:
        with suppress(redis.RedisError):
            if condition():
                return
        time.sleep(0.05)
    raise AssertionError("waited in vain for Redis")


class Watched(NamedTuple):
    """A primary, its replica, and the Sentinel that watches them."""

    primary: RedisServer
    replica: RedisServer
    sentinel: RedisServer

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:1,127.0.0.1:{self.sentinel.port}/main/0"


@contextmanager
def watched(folder: Path) -> Iterator[Watched]:
    """Starts a primary, a replica and a Sentinel that makes it the primary within two seconds."""
    with ExitStack() as stack:
        servers = [stack.enter_context(RedisServer(_new(folder, str(i)))) for i in range(2)]
        primary, replica = servers
        replica.command("REPLICAOF", "127.0.0.1", str(primary.port))
        wait_until(lambda: "master_link_status:up" in replica.text("INFO", "replication"))
        configuration = _new(folder, "sentinel") / "sentinel.conf"
        configuration.write_text(
            f"sentinel monitor main 127.0.0.1 {primary.port} 1\n"
            "sentinel down-after-milliseconds main 1000\n"
            "sentinel failover-timeout main 5000\n"
        )
        sentinel = RedisServer(configuration.parent, str(configuration), "--sentinel")
        stack.enter_context(sentinel)
        wait_until(lambda: "slaves=1" in sentinel.text("INFO", "sentinel"))
        yield Watched(primary, replica, sentinel)


@contextmanager
def cluster(folder: Path) -> Iterator[list[RedisServer]]:
    """Starts six nodes: three primaries with a replica each."""
    with ExitStack() as stack:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
        nodes = []
        for number in range(6):
            bus = ("--cluster-port", str(free_port()))  # the default, 10,000 higher, may not exist
            server = RedisServer(_new(folder, str(number)), *options, *bus)
            nodes.append(stack.enter_context(server))
        words = ["redis-cli", "--cluster", "create"]
        words += [f"127.0.0.1:{node.port}" for node in nodes]
        words += ["--cluster-replicas", "1", "--cluster-yes"]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, timeout=SECONDS)
        for node in nodes:
            wait_until(lambda node=node: "cluster_state:ok" in node.text("CLUSTER", "INFO"))
        yield nodes


def _new(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name
