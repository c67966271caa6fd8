"""Our service beside a naive one, two empty endpoints and the bare pipeline, on one machine.

    python -m loadtest.serving.bench --artifacts demo/artifacts --data demo/data --out docs/results

First our answers and the naive service's are compared: they must be the same up to ties. Then the
contenders are measured in turn. Closed loop: 64 connections that send the next request at once; if
wrk is on PATH, its peaks stand beside those of our own generator. Open loop: constant rates, and
latency from the moment a request was due. Every figure is the median of `--rounds`. Needs a
redis-server on PATH.
"""

import argparse
import json
import random
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import NamedTuple

import polars as pl
import psutil

from loadtest.environment import environment
from loadtest.results import put_between_marks, say
from loadtest.serving.bench_report import draw, summary, table
from loadtest.serving.load_figures import Figures, latencies, peak, posts
from loadtest.serving.same_answers import SHARE, recall, share_of_same_answers
from loadtest.serving.servers import python_server, recgpt_serve, redis_server
from loadtest.serving.wrk import wrk_rps
from service.observability.metrics import STAGES

SHARES = (0.25, 0.5, 0.75, 0.9)  # of a service's own peak, offered at a constant rate


class Contender(NamedTuple):
    """A server to measure."""

    name: str
    command: list[str]
    open_loop: bool = False  # latencies at constant rates are measured, too


def main() -> None:
    """Measures, prints the table, and writes bench.json, bench.png and the table in bench.md."""
    options = parse()
    users = pl.read_parquet(options.data / "users.parquet")["user_id"].to_list()
    questions = [
        {"user_id": user, "k": options.k} for user in random.Random(0).choices(users, k=4096)
    ]
    with redis_server() as store:
        fill = ["history", "load", "--data", str(options.data), "--store", store]
        run_module("cli", *fill)
        same, answer_bytes = check_answers(options, store, questions[: options.check_users])
        servers = contenders(options, store, answer_bytes)
        rounds = [measure_round(options, servers, questions, n) for n in range(options.rounds)]
    report = summary(rounds) | {"same_answers": same, "k": options.k} | environment()
    text = table(report)
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "bench.json").write_text(json.dumps(report, indent=2) + "\n")
    put_between_marks(options.out / "bench.md", "bench", text)
    draw(report, options.out / "bench.png")


def parse() -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifacts", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--check-users", type=int, default=256, help="whose answers are compared")
    return parser.parse_args()


def naive(options: argparse.Namespace, store: str, workers: int = 1) -> list[str]:
    """Returns the arguments that start the naive service."""
    command = ["-m", "loadtest.serving.naive", "--artifacts", str(options.artifacts)]
    return [*command, "--store", store, "--workers", str(workers)]


def check_answers(
    options: argparse.Namespace, store: str, questions: list[Figures]
) -> tuple[Figures, int]:
    """Compares our answers with the naive service's. Exits if too many differ.

    Returns the share of the same answers for the report, and the bytes of one of ours.
    """
    ours = recgpt_serve(options.artifacts, store)
    with python_server(ours) as (port, _), python_server(naive(options, store)) as (other, _):
        share, differences = share_of_same_answers(port, other, questions)
        answer_bytes = len(recall(port, questions[0]))
    say(f"the same answers as the naive service, up to ties: {share:.2%} of {len(questions)} users")
    if share < SHARE:
        raise SystemExit("\n".join(["the services give different answers:", *differences[:10]]))
    return {"users": len(questions), "share": share}, answer_bytes


def contenders(options: argparse.Namespace, store: str, answer_bytes: int) -> list[Contender]:
    """Returns the servers in the order in which they are measured."""
    empty = ["-m", "loadtest.serving.empty", "--size", str(answer_bytes), "--framework"]
    return [
        Contender("naive", naive(options, store), open_loop=True),
        Contender("naive_2_workers", naive(options, store, workers=2)),
        Contender("ours", recgpt_serve(options.artifacts, store), open_loop=True),
        Contender("empty_fastapi", [*empty, "fastapi"]),
        Contender("empty_asgi", [*empty, "none"]),
    ]


def measure_round(
    options: argparse.Namespace,
    servers: list[Contender],
    questions: list[Figures],
    number: int,
) -> Figures:
    """Returns the figures of all contenders, one after another."""
    figures: Figures = {}
    for contender in servers:
        with python_server(contender.command) as server:
            figures[contender.name] = measure(*server, contender, questions, options)
        say(f"round {number + 1}: {contender.name} {figures[contender.name]['rps']:,.0f}/s")
    bare = ["--artifacts", str(options.artifacts), "--data", str(options.data)]
    for name, module in (("pipeline", "pipeline"), ("engine", "bench_engine")):
        output = run_module(f"loadtest.serving.{module}", *bare, "--k", str(options.k))
        figures[name] = json.loads(output)
    say(f"round {number + 1}: pipeline {figures['pipeline']['pipeline_rps']:,.0f}/s")
    return figures


def measure(
    port: int,
    process: psutil.Process,
    contender: Contender,
    questions: list[Figures],
    options: argparse.Namespace,
) -> Figures:
    """Returns the peak of one server, and for the services latencies at shares of it."""
    requests, load = posts(questions), (options.connections, options.seconds)
    figures = peak(port, process, requests, *load)
    if (rate := wrk_rps(port, questions, *load)) is not None:
        figures["wrk_rps"] = rate
    if contender.open_loop:
        figures["open"] = {
            str(share): latencies(port, requests, share * figures["rps"], options.seconds)
            for share in SHARES
        }
    if contender.name == "ours":
        figures["stages_ms"] = stages(port)
        figures["interests_rps"] = {
            str(count): peak(port, process, posts(questions, interests=count), *load)["rps"]
            for count in (1, 4)
        }
    return figures


def stages(port: int) -> Figures:
    """Returns the mean time of each stage in ms and the mean batch size, since the start."""
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


def run_module(module: str, *arguments: str) -> str:
    """Runs `python -m MODULE` and returns its standard output. Raises if it fails."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
