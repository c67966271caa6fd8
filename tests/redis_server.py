"""A real redis-server on a free port, started and stopped by the tests."""

import shutil
import socket
import subprocess
from pathlib import Path
from typing import Self

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry


def free_port() -> int:
    """Returns a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisServer:
    """redis-server without persistence, in a folder of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        if not shutil.which("redis-server"):
            pytest.skip("no redis-server on PATH: `make test` installs it, or says how to")
        self._folder = folder
        self._options = options
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        """Starts it and waits until it answers."""
        command = ["redis-server", *self._files(), "--port", str(self.port)]
        command += ["--bind", "127.0.0.1", *self._flags()]
        command += ["--save", "", "--appendonly", "no", "--dir", str(self._folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        with self._client() as client:
            client.ping()

    def _files(self) -> list[str]:
        return [option for option in self._options if option.endswith(".conf")]

    def _flags(self) -> list[str]:
        return [option for option in self._options if not option.endswith(".conf")]

    def stop(self) -> None:
        """Stops it and waits until it has ended. It is killed if it is too busy to notice."""
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def flush(self) -> None:
        """Empties it."""
        with self._client() as client:
            client.flushall()

    def command(self, *words: str) -> str:
        """Returns what redis-cli would print, one line for each value."""
        with self._client() as client:
            answer = client.execute_command(*words)
        values = answer if isinstance(answer, list) else [answer]
        return "\n".join(v.decode() if isinstance(v, bytes) else str(v) for v in values)

    def text(self, *words: str) -> str:
        """Returns the text that a command such as INFO answers with."""
        with self._client() as client:
            client.response_callbacks.clear()
            answer = client.execute_command(*words)
        return answer.decode() if isinstance(answer, bytes) else str(answer)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _client(self) -> redis.Redis:
        patience = Retry(ConstantBackoff(0.05), 100)
        return redis.Redis(port=self.port, retry=patience, retry_on_error=[redis.ConnectionError])
