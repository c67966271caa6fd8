"""Servers that a benchmark starts on free ports of this machine, and their CPU time and memory."""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from loadtest.stopping import stop_by_exit

ENGINE, FRONT_END = "service.processes.engine_process", "service.processes.frontend"
ENGINE_NAME = "recgpt-engine"


@contextmanager
def redis_server() -> Iterator[str]:
    """Starts an empty Redis on a free port and yields its URL. Exits if there is no Redis."""
    if not shutil.which("redis-server"):
        raise SystemExit("redis-server is not on PATH: install it (Debian: redis-server)")
    stop_by_exit()
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = ["redis-server", "--port", str(port), "--save", "", "--dir", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            wait_until(lambda: is_listening(port), process)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            process.wait()


@contextmanager
def python_server(
    arguments: Sequence[str], patience_s: float = 120
) -> Iterator[tuple[int, psutil.Process]]:
    """Runs `python ARGUMENTS --port PORT` and yields the port and the process once it is ready."""
    stop_by_exit()
    port = free_port()
    process = subprocess.Popen([sys.executable, *arguments, "--port", str(port)])
    try:
        wait_until(lambda: is_ready(port), process, patience_s)
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def recgpt_serve(artifacts: Path, store: str, *options: str) -> list[str]:
    """Returns the arguments of `python_server` that serve these bundles quietly."""
    command = ["-m", "cli", "serve", "--artifacts", str(artifacts), "--store", store]
    return [*command, "--log-level", "warning", "--grace-seconds", "0", *options]


def free_port() -> int:
    """Returns a port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_listening(port: int) -> bool:
    """Returns whether the port accepts connections."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def is_ready(port: int) -> bool:
    """Returns whether GET /readyz is answered, by 200 or because there is no such path (404)."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).close()
    except urllib.error.HTTPError as error:
        error.close()
        return error.code == 404
    except OSError:
        return False
    return True


def wait_until(
    condition: Callable[[], bool],
    process: subprocess.Popen[bytes],
    patience_s: float = 60,
    pause_s: float = 0.05,
) -> None:
    """Returns when the condition holds. Exits if the process ends or takes too long.

    It looks after every pause, which takes CPU time of a load that is measured meanwhile.
    """
    give_up = time.monotonic() + patience_s
    while not condition():
        if process.poll() is not None:
            raise SystemExit(f"{process.args!r} ended with code {process.returncode}")
        if time.monotonic() > give_up:
            raise SystemExit(f"{process.args!r} is not ready after {patience_s:g} s")
        time.sleep(pause_s)


def runs(process: psutil.Process, module: str) -> bool:
    """Returns whether a process of the service runs a module, `ENGINE` for instance.

    An engine that was forked has the command line of the process that forks engines, whose last
    word is the engine's module.
    """
    if process.name() == ENGINE_NAME:
        return module == ENGINE
    return module in process.cmdline()[:4]


def process_tree(process: psutil.Process) -> list[psutil.Process]:
    """Returns the process and its descendants."""
    return [process, *process.children(recursive=True)]


def cpu_seconds(process: psutil.Process) -> float:
    """Returns the CPU time that the process and its living descendants have used so far."""
    return sum(sum(one.cpu_times()[:2]) for one in process_tree(process))


def resident_mb(process: psutil.Process) -> float:
    """Returns the resident memory of the process and its descendants, in MB."""
    rss_bytes: int = sum(one.memory_info().rss for one in process_tree(process))
    return rss_bytes / 2**20
