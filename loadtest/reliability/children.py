"""Processes of `recgpt` that are run to their end, or killed before."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

from loadtest.stopping import stop_by_exit

START_SECONDS = 300.0


def recgpt(*words: str) -> list[str]:
    """Returns the command line of `recgpt` with these words."""
    return [sys.executable, "-m", "cli", *words]


def run(*words: str, codes: Collection[int] = (0,)) -> float:
    """Runs `recgpt` to its end, and returns the seconds.

    Raises AssertionError if it ends with another code than these.
    """
    started = time.monotonic()
    done = subprocess.run(recgpt(*words), capture_output=True, text=True)
    assert done.returncode in codes, f"recgpt {words[0]}: {done.stderr[-2000:]}"
    return time.monotonic() - started


def run_and_kill(words: Sequence[str], seconds: float, codes: Collection[int] = (0,)) -> bool:
    """Runs `recgpt`, and kills it after that time. Returns whether it had ended before."""
    stop_by_exit()
    child = subprocess.Popen(
        recgpt(*words), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        _, errors = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    assert child.returncode in codes, errors.decode()[-2000:]
    return True


def start(words: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Starts `recgpt`, which the caller ends by `kill_group`. Its output goes to a file."""
    stop_by_exit()
    with log.open("wb") as file:
        return subprocess.Popen(recgpt(*words), stdout=file, stderr=file, start_new_session=True)


def wait_until_ready(client: httpx.Client, child: subprocess.Popen[bytes], log: Path) -> None:
    """Returns once the service answers. Raises AssertionError if it ends or takes too long."""
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up:
        assert child.poll() is None, log.read_text()[-2000:]
        with suppress(httpx.TransportError):
            if client.get("/readyz").status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError(f"the service is not ready: {log.read_text()[-2000:]}")


def kill_group(child: subprocess.Popen[bytes]) -> None:
    """Kills a process and those that it has started, and waits for their end."""
    processes = []
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(child.pid)
        processes = [parent, *parent.children(recursive=True)]
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    child.wait()
    psutil.wait_procs(processes)
