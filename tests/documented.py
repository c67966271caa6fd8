"""Runs the shell commands of a page, in a folder that has what the page takes for granted."""

import os
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import httpx
from redis_server import free_port

from cli.main import main

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 300.0
TIME_LIMIT = 300
SERVE = ["recgpt", "serve"]
CURL = 'curl() { command curl --fail-with-body --max-time 60 -sS "$@"; }; set -e; '
"""Makes curl fail if the service refuses."""
SMALL = {
    "RECGPT_MODEL__DIM": "16",
    "RECGPT_MODEL__FEED_FORWARD": "32",
    "RECGPT_MODEL__MAX_HISTORY": "8",
    "RECGPT_PRETRAIN__EPOCHS": "1",
    "RECGPT_DEVICE": "cpu",
    "RECGPT_GRACE_SECONDS": "0",
}
"""Options that make the commands quick, and leave them as they are written."""


def shell_commands(text: str) -> Iterator[str]:
    """The commands of a page's shell blocks; backslashes join lines, and comments are left out."""
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if shlex.split(line, comments=True):
                yield line


class Shell:
    """A shell in a folder; commands of a service and a Redis of its own stand for the page's."""

    def __init__(self, folder: Path, redis_url: str, **environment: str) -> None:
        self.folder = folder
        self.port, self.admin_port = free_port(), free_port()
        self.environment = {**os.environ, **SMALL, "PYTHONPATH": str(ROOT)} | environment
        self.environment["RECGPT_PORT"] = str(self.port)
        self.environment["RECGPT_URL"] = f"http://127.0.0.1:{self.port}"
        redis_port = redis_url.rpartition(":")[2].partition("/")[0]
        self.replaced = {
            "localhost:8000": f"127.0.0.1:{self.port}",
            "127.0.0.1:8000": f"127.0.0.1:{self.port}",
            "127.0.0.1:8001": f"127.0.0.1:{self.admin_port}",
            "redis://localhost:6379/0": redis_url,
            "redis-cli ": f"redis-cli -e -p {redis_port} ",
        }
        self.service: subprocess.Popen[bytes] | None = None
        self._redis_url = redis_url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.service:
            self.service.kill()
            self.service.wait()

    def run(self, command: str) -> None:
        """Runs a command, and fails if it does. A service serves until the next one, or `stop`."""
        for written, ours in self.replaced.items():
            command = command.replace(written, ours)
        words = shlex.split(command, comments=True)
        if words[:2] == SERVE:
            self.serve(words[2:])
            return
        if any(word.startswith("embedded:") for word in words):
            self.stop()  # only one process may use that store
        if (words[0] == "curl" or "simulate" in words) and not self.service:
            self.serve(["--artifacts", "artifacts", "--store", self._redis_url])
        if words[0] == "recgpt":
            self._call(words[1:])
        else:
            self._bash(command)

    def _call(self, words: list[str]) -> None:
        """Calls a command of ours in this process: that saves the imports."""
        before, place = dict(os.environ), Path.cwd()
        os.environ.update(self.environment)
        os.chdir(self.folder)
        try:
            main(words)
        except SystemExit as end:
            if end.code:
                raise AssertionError(f"recgpt {shlex.join(words)}: exit code {end.code}") from end
        finally:
            os.chdir(place)
            os.environ.clear()
            os.environ.update(before)

    def _bash(self, command: str) -> None:
        """Runs a line in bash; variables that it exports stay."""
        ended = subprocess.run(
            ["bash", "-c", f"{CURL}{command}\nenv -0 >environment"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            timeout=TIME_LIMIT,
        )
        output = (ended.stdout + ended.stderr).decode(errors="replace")
        assert ended.returncode == 0, f"{command}\nexit code {ended.returncode}: {output}"
        pairs = (self.folder / "environment").read_text().rstrip("\0").split("\0")
        self.environment = dict(pair.split("=", 1) for pair in pairs)

    def serve(self, words: list[str]) -> None:
        """Starts the service in place of the one before, and waits until it is ready."""
        self.stop()
        log = self.folder / "service.log"
        with log.open("wb") as file:
            command = [sys.executable, "-m", "cli", "serve", *words]
            self.service = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stderr=file
            )
        give_up = time.monotonic() + START_SECONDS
        scheme = "https" if "RECGPT_SSL_CERTFILE" in self.environment else "http"
        with httpx.Client(verify=self._trust() if scheme == "https" else True) as client:
            while time.monotonic() < give_up:
                assert self.service.poll() is None, log.read_text()
                with suppress(httpx.TransportError):
                    if client.get(f"{scheme}://127.0.0.1:{self.port}/readyz").status_code == 200:
                        return
                time.sleep(0.05)
        raise AssertionError(f"not ready: {log.read_text()}")

    def _trust(self) -> ssl.SSLContext:
        """The context of a client with a certificate, from the files of `certificates`."""
        trust = ssl.create_default_context(cafile=self.folder / "ca.pem")
        trust.load_cert_chain(self.folder / "client.pem", self.folder / "client.key")
        return trust

    def stop(self) -> None:
        """Ends the service as `docker stop` does; it must end well."""
        if self.service:
            self.service.send_signal(signal.SIGTERM)
            assert self.service.wait(timeout=60) == 0
            self.service = None


def missing(commands: Iterable[str]) -> str:
    """Returns the names of programs that are not on PATH."""
    return ", ".join(name for name in commands if not shutil.which(name))
