"""`kill -9` at random moments of publishing, pruning, refreshing, exporting events and swaps."""

import asyncio
import random
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import polars as pl
import psutil

from loadtest.reliability.children import kill_group, run, run_and_kill, start, wait_until_ready
from loadtest.results import say
from model.artifact.versions import find_bundle, list_versions, publish, verified_manifest
from service.experiments.export import parts
from service.experiments.log import EVENTS, ExperimentLog
from service.history.events import HistoryEvent
from service.history.store import HistoryStore

OLD_VERSIONS = 4
"""Versions that a prune has to delete."""
EVENTS_A_PART = 20_000
PUBLISHED, NOTHING_NEW = 0, 4
"""Exit codes of `recgpt refresh`."""
REFRESH = (
    *("--pretrain.epochs", "1", "--device", "cpu", "--gate.min-cases", "1"),
    *("--gate.recall-loss", "0.99", "--gate.coverage-loss", "0.99"),
    *("--gate.unknown-items", "1", "--gate.lost-items", "1"),
)
SWAP_SECONDS = 120.0
"""Longest time in which another version must be served, however often processes are killed."""
WORST_KILL_SECONDS = 4.0
"""Time after a publication within which a process of the service is killed."""


def two_bundles(folder: Path) -> list[Path]:
    """Exports the run in `folder` twice; returns the bundles, of two versions."""
    found = []
    for name in ("first", "second"):
        if not (folder / name).exists():
            run("export", "--run-dir", str(folder / "run"), "--artifacts", str(folder / name))
            time.sleep(1.1)  # the name of a version has the second in which it was made
        found.append(find_bundle(folder / name))
    return found


def check_store(artifacts: Path, allowed: set[str]) -> None:
    """Raises AssertionError unless one of these versions is served, and every listed one whole."""
    served = find_bundle(artifacts).name
    assert served in allowed, f"{served} is served, and not one of {allowed}"
    for one in list_versions(artifacts):
        verified_manifest(artifacts / one.version)


def kill_publish(folder: Path, bundles: Sequence[Path], chance: random.Random, times: int) -> str:
    """Publishes two bundles in turn under kills; every version in the store is whole after each."""
    artifacts = folder / "published"
    run("publish", "--bundle", str(bundles[0]), "--artifacts", str(artifacts))
    seconds = run("publish", "--bundle", str(bundles[1]), "--artifacts", str(artifacts))
    for kill in range(times):
        bundle = bundles[kill % 2]
        words = ("publish", "--bundle", str(bundle), "--artifacts", str(artifacts))
        before = find_bundle(artifacts).name
        if before != bundle.name:
            shutil.rmtree(artifacts / bundle.name, ignore_errors=True)  # so that it is copied
        ended = run_and_kill(words, chance.uniform(0.3, 1.1) * seconds)
        check_store(artifacts, {bundle.name} if ended else {bundle.name, before})
        say(f"publish: {kill + 1} of {times}")
    run("publish", "--bundle", str(bundles[0]), "--artifacts", str(artifacts))
    check_store(artifacts, {bundles[0].name})
    return "whole versions after publications"


def kill_prune(folder: Path, bundle: Path, chance: random.Random, times: int) -> str:
    """Deletes old versions under kills; listed ones stay whole, and the next prune ends that."""
    artifacts = folder / "pruned"
    run("publish", "--bundle", str(bundle), "--artifacts", str(artifacts))
    served = find_bundle(artifacts)
    words = ("prune", "--artifacts", str(artifacts), "--keep", "1")
    seconds = run(*words)
    for kill in range(times):
        for number in range(OLD_VERSIONS):
            old = artifacts / f"old-{number}"
            if not old.exists():
                shutil.copytree(served, old)
        run_and_kill(words, chance.uniform(0.5, 1.1) * seconds)
        check_store(artifacts, {served.name})
        say(f"prune: {kill + 1} of {times}")
    run(*words)
    left = sorted(entry.name for entry in artifacts.iterdir() if entry.is_dir())
    assert left == ["current", served.name], f"a prune left {left}"
    return "whole versions after prunes"


def kill_refresh(folder: Path, bundle: Path, chance: random.Random, times: int) -> str:
    """Refreshes under kills: versions stay whole, and the next call ends what was begun."""
    artifacts, log = folder / "refreshed", folder / "refresh.csv"
    shutil.copy(folder / "log.csv", log)
    run("publish", "--bundle", str(bundle), "--artifacts", str(artifacts))
    places = ("--artifacts", str(artifacts), "--work", str(folder / "work"), "--log", str(log))
    words = ("refresh", *places, *REFRESH)
    seconds = run(*words)
    for kill in range(times):
        _append_day(log, kill)
        run_and_kill(words, chance.uniform(0.2, 1.1) * seconds)
        check_store(artifacts, {one.version for one in list_versions(artifacts)})
        say(f"refresh: {kill + 1} of {times}")
    run(*words, codes=(PUBLISHED, NOTHING_NEW))
    run(*words, codes=(NOTHING_NEW,))
    check_store(artifacts, {one.version for one in list_versions(artifacts)} - {bundle.name})
    return "refreshes ended"


def _append_day(log: Path, day: int) -> None:
    """Appends events of another day to a log."""
    last = int(log.read_text().rstrip().rpartition(",")[2])
    at = range(last + 86_400, last + 86_500)
    lines = [f"u{n % 50},i{(n + day) % 100},{at[n]}\n" for n in range(100)]
    with log.open("a") as file:
        file.writelines(lines)


def kill_events_export(folder: Path, chance: random.Random, times: int) -> str:
    """Exports events under kills; tells their number, each of which is in one part, once."""
    store, out = f"embedded:{folder / 'log' / 'histories'}", folder / "exported"
    words = ("events", "export", "--store", store, "--out", str(out))
    written = asyncio.run(_write_events(store, 0))
    seconds = run(*words)
    for kill in range(times):
        written = asyncio.run(_write_events(store, written))
        run_and_kill(words, chance.uniform(0.5, 1.1) * seconds)
        _check_events(out, None)
        say(f"export of events: {kill + 1} of {times}")
    run(*words)
    _check_events(out, written)
    return f"{written:,} events exported once"


async def _write_events(url: str, begin: int) -> int:
    """Writes events with the numbers from `begin` on; returns the next number."""
    store = HistoryStore.open(url)
    log = ExperimentLog(store, lambda stream, count: None)
    end = begin + EVENTS_A_PART
    await log.write_events(
        [
            HistoryEvent(f"u{n % 100}", f"e{n}", "click", 1_700_000_000 + n)
            for n in range(begin, end)
        ]
    )
    await store.close()
    return end


def _check_events(out: Path, count: int | None) -> None:
    """Raises AssertionError if an event is in the parts twice, or if not all of them are."""
    frames = [pl.read_parquet(part, columns=["item_id"]) for part in parts(out / EVENTS)]
    items = pl.concat(frames)["item_id"]
    assert items.is_unique().all(), "an event was exported twice"
    assert count is None or len(items) == count, f"{len(items)} of {count} events were exported"


def kill_swaps(folder: Path, bundles: Sequence[Path], chance: random.Random, times: int) -> str:
    """Changes versions while processes of the service are killed, sometimes all of them.

    Tells the number of answers, each of which names one of the two versions.
    """
    artifacts = folder / "swapped"
    for bundle in bundles:
        run("publish", "--bundle", str(bundle), "--artifacts", str(artifacts))
    allowed = {bundle.name for bundle in bundles}
    answers = 0
    service = Service(artifacts, folder)
    try:
        for kill in range(times):
            wanted = bundles[kill % 2].name
            publish(artifacts, wanted)
            with service.asked(allowed) as heard:
                time.sleep(chance.uniform(0.0, WORST_KILL_SECONDS))
                victim = service.kill_one(chance)
                service.wait_for(wanted)
            answers += len(heard)
            say(f"swap: {kill + 1} of {times}, {victim} killed, {answers:,} answers")
    finally:
        service.kill()
    return f"{answers:,} answers during changes of version"


class Service:
    """`recgpt serve`, of which processes are killed."""

    def __init__(self, artifacts: Path, folder: Path) -> None:
        self._artifacts = artifacts
        self._folder = folder
        self._log = folder / "swapped.log"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = probe.getsockname()[1]
        self._start()

    def _start(self) -> None:
        words = ["serve", "--artifacts", str(self._artifacts), "--port", str(self._port)]
        words += ["--store", f"embedded:{self._folder / 'swapped-store' / 'histories'}"]
        self._child = start(words, self._log)
        try:
            with self._client() as client:
                wait_until_ready(client, self._child, self._log)
        except BaseException:
            self.kill()
            raise

    def kill_one(self, chance: random.Random) -> str:
        """Kills a process by SIGKILL, or all of them and starts again; returns what it was."""
        children = psutil.Process(self._child.pid).children()
        victim = chance.choice([None, *children])
        if victim is None:
            self.kill()
            self._start()
            return "the service"
        name = "a child"
        with suppress(psutil.NoSuchProcess):
            name = victim.name()
            victim.send_signal(signal.SIGKILL)
        return name

    def wait_for(self, version: str) -> None:
        """Returns once a version is served. Raises AssertionError if it takes too long."""
        give_up = time.monotonic() + SWAP_SECONDS
        while time.monotonic() < give_up:
            assert self._child.poll() is None, self._log.read_text()[-2000:]
            with self._client() as client, suppress(httpx.TransportError):
                if client.get("/versions").json().get("serving") == version:
                    return
                client.post("/admin/reload")  # a killed engine has refused the version
            time.sleep(0.2)
        raise AssertionError(f"{version} is not served: {self._log.read_text()[-2000:]}")

    @contextmanager
    def asked(self, allowed: set[str]) -> Iterator[list[str]]:
        """Sends recalls meanwhile, and checks that each answer is of one of these versions."""
        heard: list[str] = []
        over = threading.Event()
        client = threading.Thread(target=self._ask, args=(heard, over))
        client.start()
        try:
            yield heard
        finally:
            over.set()
            client.join()
        assert set(heard) <= allowed, f"answers are of {set(heard)}"

    def kill(self) -> None:
        """Kills all processes."""
        kill_group(self._child)

    def _ask(self, heard: list[str], over: threading.Event) -> None:
        body = {"user_id": "u0", "history": ["i1", "i2"], "k": 5}
        while not over.is_set():
            with self._client() as client, suppress(httpx.TransportError):
                answer = client.post("/recall", json=body, headers={"x-deadline-ms": "30000"})
                if answer.status_code == 200:
                    heard.append(answer.json()["version"])
                elif answer.status_code not in (503, 504):  # no engine yet, or not in time
                    heard.append(answer.text)
            time.sleep(0.01)

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{self._port}", timeout=60)
