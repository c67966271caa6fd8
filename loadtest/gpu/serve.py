"""`recgpt serve` on a GPU under load, beside the same service on the CPU.

    python -m loadtest.gpu.serve --device cuda --out serve.json

Histories lie in Redis, which several front ends read, if a redis-server is on PATH; else in the
embedded store, which has one front end.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loadtest.gpu.synthetic import dataset_of, export_untrained
from loadtest.results import say
from loadtest.serving.load_figures import latencies, peak, posts
from loadtest.serving.servers import python_server, recgpt_serve, redis_server
from model.files import write_json


def main() -> None:
    """Writes the figures of both devices as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--items", type=int, default=12_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--front-ends", type=int, default=4, help="with Redis")
    parser.add_argument("--connections", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=5, help="for each figure")
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        artifacts, data = Path(folder) / "artifacts", Path(folder) / "data"
        dataset = dataset_of(data, options.items, options.users)
        export_untrained(artifacts, dataset, options.width)
        users = random.Random(0).choices(dataset.user_ids, k=4096)
        questions = [{"user_id": user, "k": options.k} for user in users]
        with store(Path(folder)) as (url, front_ends):
            fill = ["history", "load", "--data", str(data), "--store", url]
            subprocess.run([sys.executable, "-m", "cli", *fill], check=True)
            workers = ["--http-workers", str(min(front_ends, options.front_ends))]
            rows = []
            for device in dict.fromkeys((options.device, "cpu")):
                command = recgpt_serve(artifacts, url, "--device", device, *workers)
                rows.append({"device": device} | measured(command, questions, options))
                say(str(rows[-1]))
                figures = {"store": url.split(":")[0], "connections": options.connections}
                write_json(options.out, figures | {"rows": rows})


@contextmanager
def store(folder: Path) -> Iterator[tuple[str, int]]:
    """Yields the URL of an empty store of histories, and how many front ends may use it."""
    if shutil.which("redis-server"):
        with redis_server() as url:
            yield url, sys.maxsize
    else:
        yield f"embedded:{folder / 'histories'}", 1


def measured(
    command: list[str], questions: list[dict[str, Any]], options: argparse.Namespace
) -> dict[str, Any]:
    """Returns the peak of a closed loop, and the latencies at half of it."""
    requests = posts(questions)
    with python_server(command) as (port, process):
        figures = peak(port, process, requests, options.connections, options.seconds)
        half = latencies(port, requests, figures["rps"] / 2, options.seconds)
    return figures | {f"{name} at half": value for name, value in half.items()}


if __name__ == "__main__":
    main()
