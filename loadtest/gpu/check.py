"""Everything that the GPU's code has to show, in one run of at most eight minutes.

    python -m loadtest.gpu.check                # on a machine with a GPU
    python -m loadtest.gpu.check --dry-run      # all of it in small, on the CPU

Each step is a process of its own with a time limit: one that fails or takes too long does not stop
the others. All data is made on the spot. OUT/gpu-check.json has the results, OUT/gpu-check.md is
the page, and OUT/STEP.log has the output of a step. Exits with 1 if a step did not pass.

The machine needs this checkout and the packages of the extra `gpu` with pytest and psutil. Without
Faiss's GPU part its search is left out, without a redis-server histories are in the embedded store.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import torch

from loadtest.environment import environment
from loadtest.gpu.page import page
from loadtest.results import say
from loadtest.stopping import stop_by_exit
from model.files import write_json

BUDGET_S = 480.0


class Step(NamedTuple):
    """A part of the check: arguments of Python, to which `--device` and `--out` are added."""

    name: str
    title: str
    limit_s: float
    arguments: list[str]
    small: list[str]  # options of a dry run
    figures: bool = True  # it takes `--device` and writes figures to `--out`


STEPS = (
    Step(
        "tests",
        "Tests of the GPU's code",
        100,
        ["-m", "pytest", "tests/service/recall/gpu", "-v"],
        [],
        figures=False,
    ),
    Step(
        "parity",
        "Candidates beside the CPU's",
        80,
        ["-m", "loadtest.gpu.parity"],
        ["--items", "500", "--width", "16", "--queries", "40"],
    ),
    Step(
        "search",
        "Faiss's GPU index beside the matrix product",
        90,
        ["-m", "loadtest.gpu.search"],
        ["--items", "500", "5000", "--lists", "5000", "--width", "16", "--seconds", "0.02"],
    ),
    Step(
        "serve",
        "The service under load",
        80,
        ["-m", "loadtest.gpu.serve"],
        ["--items", "500", "--width", "16", "--users", "100", "--seconds", "0.5"],
    ),
    Step(
        "train",
        "An epoch of training in bfloat16 beside the CPU's",
        60,
        ["-m", "loadtest.gpu.train"],
        ["--items", "200", "--users", "100", "--width", "16", "--threads", "1"],
    ),
    Step(
        "engine",
        "The engine with a million items beside a naive loop (make bench-gpu)",
        70,
        ["-m", "loadtest.gpu.bench_gpu"],
        ["--items", "2000", "--width", "16", "--batches", "1", "16", "--seconds", "0.2"],
    ),
)


def main() -> None:
    """Runs the steps and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="small sizes on the CPU")
    parser.add_argument("--only", nargs="+", choices=[step.name for step in STEPS])
    parser.add_argument("--budget-s", type=float, default=BUDGET_S, help="for all steps together")
    parser.add_argument("--out", type=Path, default=Path("build/gpu-check"))
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here: use --dry-run to try the check on the CPU")
    options.out.mkdir(parents=True, exist_ok=True)
    steps = [step for step in STEPS if not options.only or step.name in options.only]
    report = check(steps, options.dry_run, options.budget_s, options.out)
    say(f"{options.out / 'gpu-check.md'} is the page")
    if any(result["status"] != "passed" for result in report["steps"].values()):
        sys.exit(1)


def check(steps: list[Step], dry_run: bool, budget_s: float, out: Path) -> dict[str, Any]:
    """Runs the steps within the budget, and writes JSON and page after each."""
    ends = time.monotonic() + budget_s
    report = environment() | machine(dry_run) | {"steps": {}}
    for step in steps:
        limit_s = min(step.limit_s, ends - time.monotonic())
        say(f"{step.name}: {step.title}, at most {max(limit_s, 0):.0f} s")
        result = run_step(step, report["device"], dry_run, limit_s, out)
        say(f"{step.name}: {result['status']} after {result['seconds']:.0f} s")
        report["steps"][step.name] = result
        write_json(out / "gpu-check.json", report)
        (out / "gpu-check.md").write_text(page(report), encoding="utf-8")
    return report


def machine(dry_run: bool) -> dict[str, Any]:
    """Returns the device that the steps run on, and the software that decides what can run."""
    return {
        "device": "cpu" if dry_run else "cuda",
        "device_name": "the CPU (dry run)" if dry_run else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "faiss": faiss.__version__,
        "faiss_gpu_part": hasattr(faiss, "StandardGpuResources"),
        "redis_server": shutil.which("redis-server") is not None,
    }


def run_step(step: Step, device: str, dry_run: bool, limit_s: float, out: Path) -> dict[str, Any]:
    """Runs one step; returns its status, device, seconds and figures, and a failure's last lines.

    The status is "passed", "failed", "timed out" or "not started" (no time was left). Figures
    written before a failure or the time limit are kept.
    """
    if limit_s <= 0:
        return {"status": "not started", "title": step.title, "device": device, "seconds": 0.0}
    figures, log = out / f"{step.name}.json", out / f"{step.name}.log"
    figures.unlink(missing_ok=True)
    command = [sys.executable, *step.arguments, *(step.small if dry_run else [])]
    if step.figures:
        command += ["--device", device, "--out", str(figures)]
    stop_by_exit()
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = "failed" if process.wait(limit_s) else "passed"
        except subprocess.TimeoutExpired:
            status = "timed out"
        finally:
            _kill_group(process)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return {
        "status": status,
        "title": step.title,
        "device": device,
        "seconds": time.monotonic() - started,
        "figures": json.loads(figures.read_text(encoding="utf-8")) if figures.exists() else {},
        "last_lines": lines[-1:] if status == "passed" and not step.figures else lines[-20:],
    }


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Ends the step's process and the servers that it started, which share its process group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    main()
