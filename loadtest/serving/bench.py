"""Ours beside the naive service, an empty endpoint and the bare pipeline, in turn, on one machine.

    python -m loadtest.serving.bench --artifacts demo/artifacts --data demo/data --out docs/results

Closed loop: 64 connections that ask again at once; where wrk is on PATH, its peaks stand beside
those of our own generator. Open loop: constant rates, latency from the moment a request was due.
Every figure is the median of `--rounds`. Needs a redis-server on PATH.
"""

import argparse
import json
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import psutil
from matplotlib.figure import Figure

from loadtest.environment import circumstances
from loadtest.serving.generator import closed_loop, open_loop, post
from loadtest.serving.wrk import wrk_rps
from service.observability.metrics import STAGES

Figures = dict[str, Any]
SHARES = (0.25, 0.5, 0.75, 0.9)  # of the own peak, offered at a constant rate


def main() -> None:
    """Measure, print the table, write bench.json and bench.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifacts", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--k", type=int, default=100)
    options = parser.parse_args()
    users = pl.read_parquet(options.data / "users.parquet")["user_id"].to_list()
    asked = [{"user_id": user, "k": options.k} for user in random.Random(0).choices(users, k=4096)]
    with redis_server() as store:
        fill = [sys.executable, "-m", "cli", "history", "load", "--data", str(options.data)]
        subprocess.run([*fill, "--store", store], check=True, stdout=subprocess.DEVNULL)
        figures = measure(options, store, asked)
    report = summary(figures, options)
    print_table(report)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "bench.json").write_text(json.dumps(report, indent=2) + "\n")
    draw(report, options.out / "bench.png")


def measure(options: argparse.Namespace, store: str, asked: list[Figures]) -> Figures:
    """All contenders in turn, `rounds` times."""
    requests = posts(asked)
    artifacts = ["--artifacts", str(options.artifacts)]
    commands = {
        "naive": ["-m", "loadtest.serving.naive", *artifacts, "--store", store],
        "ours": ["-m", "cli", "serve", *artifacts, "--store", store, "--log-level", "warning"],
    }
    bare = [*artifacts, "--data", str(options.data), "--k", str(options.k)]
    figures: Figures = {name: [] for name in ("naive", "ours", "empty", "pipeline", "engine")}
    for number in range(options.rounds):
        for name, command in commands.items():
            with server(command) as (port, process):
                size = _answer_size(port, requests[0])
                figures[name].append(loads(port, process, requests, options))
                figures[name][-1] |= by_wrk(port, asked, options)
                if name == "ours":
                    figures[name][-1]["stages_ms"] = stages(port)
                    figures[name][-1]["interests_rps"] = interests_rps(
                        port, process, asked, options
                    )
            say(f"round {number + 1}: {name} {figures[name][-1]['rps']:,.0f} requests/s")
        with server(["-m", "loadtest.serving.empty", "--size", str(size)]) as (port, process):
            figures["empty"].append(closed(port, process, requests, options))
            figures["empty"][-1] |= by_wrk(port, asked, options)
        say(f"round {number + 1}: empty {figures['empty'][-1]['rps']:,.0f} requests/s")
        for name, module in (
            ("pipeline", "loadtest.serving.pipeline"),
            ("engine", "loadtest.serving.bench_engine"),
        ):
            done = subprocess.run(
                [sys.executable, "-m", module, *bare], check=True, capture_output=True
            )
            figures[name].append(json.loads(done.stdout))
        say(f"round {number + 1}: pipeline {figures['pipeline'][-1]['pipeline_rps']:,.0f}/s")
    return figures


def interests_rps(
    port: int, process: psutil.Process, asked: list[Figures], options: argparse.Namespace
) -> Figures:
    """Peaks of recalls with one interest, and with four."""
    peaks = {}
    for count in (1, 4):
        requests = posts(asked, interests=count)
        peaks[str(count)] = closed(port, process, requests, options)["rps"]
    return peaks


def by_wrk(port: int, asked: list[Figures], options: argparse.Namespace) -> Figures:
    """Its peak, where there is a wrk."""
    rate = wrk_rps(port, asked, options.connections, options.seconds)
    return {} if rate is None else {"wrk_rps": rate}


def posts(asked: list[Figures], **more: Any) -> list[bytes]:
    """Recalls, ready to be sent."""
    return [post("/recall", json.dumps(one | more).encode()) for one in asked]


def closed(
    port: int, process: psutil.Process, requests: list[bytes], options: argparse.Namespace
) -> Figures:
    """Peak throughput, with CPU time and memory."""
    closed_loop(port, requests, options.connections, 2)  # warm
    before = cpu_seconds(process)
    load = closed_loop(port, requests, options.connections, options.seconds)
    used = cpu_seconds(process) - before
    return {
        "rps": load.rate,
        "failed": load.failed,
        "p50_ms": load.milliseconds(50),
        "p99_ms": load.milliseconds(99),
        "p99.9_ms": load.milliseconds(99.9),
        "cpu_ms_per_request": used / max(1, len(load.latencies)) * 1000,
        "memory_mb": sum(one.memory_info().rss for one in family(process)) / 2**20,
    }


def family(process: psutil.Process) -> list[psutil.Process]:
    """The process and those that it started."""
    return [process, *process.children(recursive=True)]


def cpu_seconds(process: psutil.Process) -> float:
    """What the process and those that it started have used so far."""
    return sum(sum(one.cpu_times()[:2]) for one in family(process))


def loads(
    port: int, process: psutil.Process, requests: list[bytes], options: argparse.Namespace
) -> Figures:
    """Peak, then latencies at shares of it."""
    figures = closed(port, process, requests, options)
    figures["open"] = {}
    for share in SHARES:
        load = open_loop(port, requests, share * figures["rps"], options.seconds)
        figures["open"][str(share)] = {
            "offered_rps": share * figures["rps"],
            "failed": load.failed,
            **{f"p{p:g}_ms": load.milliseconds(p) for p in (50, 99, 99.9)},
        }
    return figures


def stages(port: int) -> Figures:
    """Mean time of each stage and mean batch size, since the start."""
    sums: dict[str, float] = {}
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        for line in answer.read().decode().splitlines():
            name, _, value = line.rpartition(" ")
            if "_sum" in name or "_count" in name:
                sums[name] = float(value)
    means = {
        stage: 1000
        * sums[f'recgpt_stage_seconds_sum{{stage="{stage}"}}']
        / max(1, sums[f'recgpt_stage_seconds_count{{stage="{stage}"}}'])
        for stage in STAGES
    }
    return means | {"batch_size": sums["recgpt_batch_size_sum"] / sums["recgpt_batch_size_count"]}


def summary(figures: Figures, options: argparse.Namespace) -> Figures:
    """Medians over the rounds, and where and how they were made."""

    def median(rounds: list[Any]) -> Any:
        if isinstance(rounds[0], dict):
            return {key: median([r[key] for r in rounds]) for key in rounds[0]}
        return statistics.median(rounds)

    medians = {name: median(rounds) for name, rounds in figures.items()}
    ours, naive, bare = medians["ours"], medians["naive"], medians["pipeline"]
    return {
        "naive_rps": naive["rps"],
        "ours_rps": ours["rps"],
        "empty_rps": medians["empty"]["rps"],
        "pipeline_rps": bare["pipeline_rps"],
        "p99_half_load_ms": ours["open"]["0.5"]["p99_ms"],
        "naive_p99_half_load_ms": naive["open"]["0.5"]["p99_ms"],
        "four_interests_over_one": bare["one_interest_rps"] / bare["four_rps"],
        "four_interests_over_one_http": ours["interests_rps"]["1"] / ours["interests_rps"]["4"],
        "engine_over_floor": medians["engine"]["batches"]["64"]["over_floor"],
        "details": medians,
        "k": options.k,
        **circumstances(),
    }


def print_table(report: Figures) -> None:
    """The figures for people."""
    print(f"{'':10}{'requests/s':>12}{'CPU ms':>9}{'MB':>7}", end="")
    print("".join(f"{f'p50/p99/p99.9 at {share:.0%}':>25}" for share in SHARES))
    for name in ("naive", "ours", "empty"):
        one = report["details"][name]
        print(f"{name:10}{one['rps']:12,.0f}{one['cpu_ms_per_request']:9.2f}", end="")
        print(f"{one['memory_mb']:7.0f}", end="")
        for load in one.get("open", {}).values():
            tail = " /".join(f"{load[f'p{p}_ms']:6.1f}" for p in (50, 99, 99.9))
            print(f"{tail:>22} ms", end="")
        print(f"  by wrk {one['wrk_rps']:,.0f}/s" if "wrk_rps" in one else "")
    print(f"{'pipeline':10}{report['pipeline_rps']:12,.0f}")
    print("ours, mean per batch: " + json.dumps(report["details"]["ours"]["stages_ms"]))
    for batch, one in report["details"]["engine"]["batches"].items():
        print(f"engine, batch {batch}: {one['us_per_request']:.0f} µs a request, ", end="")
        print(f"{one['over_floor']:.2f} x the floor")
    print(
        f"ours / naive {report['ours_rps'] / report['naive_rps']:.2f}, "
        f"ours / empty {report['ours_rps'] / report['empty_rps']:.2f}, "
        f"four interests / one {report['four_interests_over_one']:.2f} without HTTP, "
        f"{report['four_interests_over_one_http']:.2f} with"
    )


def draw(report: Figures, path: Path) -> None:
    """Latency against the offered rate."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name in ("naive", "ours"):
        loads_of = list(report["details"][name]["open"].values())
        rates = [load["offered_rps"] for load in loads_of]
        for key, style in (("p50_ms", "--"), ("p99_ms", "-")):
            label = f"{name} {key.split('_')[0]}"
            axes.plot(rates, [load[key] for load in loads_of], style, marker="o", label=label)
    axes.set(xlabel="offered requests/s", ylabel="latency (ms)", yscale="log")
    axes.axhline(20, color="grey", linewidth=0.8)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


@contextmanager
def redis_server() -> Iterator[str]:
    """A fresh Redis on a free port; its URL."""
    if not shutil.which("redis-server"):
        raise SystemExit("redis-server is not on PATH: install it (Debian: redis-server)")
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = ["redis-server", "--port", str(port), "--save", "", "--dir", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            _await_port(port)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            process.wait()


@contextmanager
def server(command: list[str], patience: float = 60) -> Iterator[tuple[int, psutil.Process]]:
    """A server of ours on a free port, which has so many seconds to listen there."""
    port = _free_port()
    process = subprocess.Popen([sys.executable, *command, "--port", str(port)])
    try:
        _await_port(port, patience)
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def _answer_size(port: int, request: bytes) -> int:
    body = request.split(b"\r\n\r\n", 1)[1]
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/recall", body, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(asked) as answer:
        return len(answer.read())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_port(port: int, patience: float = 60) -> None:
    for _ in range(round(patience * 10)):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"nothing listens on port {port}")


def say(text: str) -> None:
    """Progress, beside the table."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
