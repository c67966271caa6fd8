"""More load than the engine can answer: at constant rates, and by clients that never pause."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loadtest.reliability.instance import Instance, fill, running, users
from loadtest.reliability.report import Bar, Figures
from loadtest.results import say
from loadtest.serving.generator import Load, closed_loop, open_loop
from loadtest.serving.load_figures import posts
from loadtest.serving.servers import FRONT_END, redis_server
from loadtest.serving.wrk import run_wrk

FACTORS = (5, 20)
INTERESTS = 4
OPTIONS = ("--max-batch", "8")  # a larger batch of this network and catalogue gains a tenth
SHORT_S = 12.0  # for the peak, half of it, and the flood
CONNECTIONS = 512  # of the open loop: requests beyond them wait in the generator, which counts
CLIENTS = 64  # that are enough for the peak
FLOOD = 3000  # connections of wrk
RECOVERY_S = 5.0


def measure(artifacts: Path, seconds: float) -> Figures:
    """Returns the figures of the peak, of half of it, and of overload, each for `seconds`."""
    questions = [{"user_id": user, "k": 10, "interests": INTERESTS} for user in users()]
    short = min(seconds, SHORT_S)
    requests = posts(questions)
    with redis_server() as store:
        fill(store)
        with running(artifacts, store, *OPTIONS) as instance:
            closed_loop(instance.port, requests, CLIENTS, min(3.0, seconds))
            peak = closed_loop(instance.port, requests, CLIENTS, short)
            half = open_loop(instance.port, requests, peak.rate / 2, short)
            figures: Figures = {
                "peak_rps": peak.rate,
                "half": _answers(half) | {"offered_rps": peak.rate / 2},
                "memory_mb_before": instance.resident_mb(FRONT_END),
            }
            for factor in FACTORS:
                rate = factor * peak.rate
                with probes(instance, seconds) as health:
                    load = open_loop(instance.port, requests, rate, seconds, CONNECTIONS)
                figures[f"x{factor}"] = _answers(load) | {"offered_rps": rate, "health": health}
                say(f"{factor} x the peak: {load.rate:.0f}/s of {peak.rate:.0f}/s")
            figures["flood"] = _flood(instance, questions, short)
            figures["memory_mb_under_load"] = instance.resident_mb(FRONT_END)
            time.sleep(RECOVERY_S)
            figures["memory_mb_after"] = instance.resident_mb(FRONT_END)
            again = open_loop(instance.port, requests, peak.rate / 2, short)
            figures["half_again"] = _answers(again)
    return figures


def _flood(instance: Instance, questions: list[Any], seconds: float) -> Figures | None:
    """Returns what the service counts while wrk asks on many connections; None without wrk."""
    before = instance.answers("/recall")
    with probes(instance, seconds) as health:
        if run_wrk(instance.port, questions, FLOOD, seconds) is None:
            return None
    counts = instance.answers("/recall") - before
    return {
        "connections": FLOOD,
        "rps": counts["200"] / seconds,
        "statuses": dict(counts),
        "health": health,
    }


def _answers(load: Load) -> Figures:
    return {
        "rps": load.rate,
        "p50_ms": load.percentile_ms(50),
        "p99_ms": load.percentile_ms(99),
        "statuses": {str(status): count for status, count in sorted(load.statuses.items())},
    }


@contextmanager
def probes(instance: Instance, seconds: float) -> Iterator[Figures]:
    """Asks for health while the block runs; the figures are there when it has ended."""
    command = ["-m", "loadtest.reliability.probe", "--port", str(instance.port)]
    process = subprocess.Popen(
        [sys.executable, *command, "--seconds", str(seconds)], stdout=subprocess.PIPE
    )
    health: Figures = {}
    try:
        yield health
    finally:
        printed, _ = process.communicate(timeout=60)
        health.update(json.loads(printed))


def bars(figures: Figures) -> Iterator[Bar]:
    """Yields what an overload has to show."""
    peak, half = figures["peak_rps"], figures["half"]["p99_ms"]
    for factor in FACTORS:
        found = figures[f"x{factor}"]
        name = f"{factor} x the peak"
        share = found["rps"] / peak
        yield Bar(f"{name}: goodput", f"{share:.0%} of {peak:,.0f}/s", "≥ 90 %", share >= 0.9)
        p99 = found["p99_ms"]
        yield Bar(
            f"{name}: p99 of the answers",
            f"{p99:.0f} ms, {p99 / half:.1f} x that at half of the peak",
            "≤ 3 x",
            p99 <= 3 * half,
        )
        yield Bar(f"{name}: all else is refused", _statuses(found), "429", _only_429(found))
        yield _health(name, found)
    flood = figures["flood"]
    if flood:
        share = flood["rps"] / peak
        name = f"{flood['connections']:,} connections that ask again at once"
        yield Bar(f"{name}: goodput", f"{share:.0%} of the peak", "≥ 90 %", share >= 0.9)
        # 400: wrk hangs up at its end, when requests are under way
        refused = set(flood["statuses"]) <= {"200", "429", "400"}
        yield Bar(f"{name}: all else is refused", _statuses(flood), "429", refused)
        yield _health(name, flood)
    before, after = figures["memory_mb_before"], figures["memory_mb_after"]
    yield Bar(
        f"a front end's memory {RECOVERY_S:g} s after",
        f"{after:.0f} MiB, {before:.0f} before",
        "≤ 1.5 x",
        after <= 1.5 * before,
    )


def _statuses(found: Figures) -> str:
    return ", ".join(f"{count:,} x {status}" for status, count in found["statuses"].items())


def _only_429(found: Figures) -> bool:
    return set(found["statuses"]) <= {"200", "429"}


def _health(name: str, found: dict[str, Any]) -> Bar:
    slowest = max(path["max_ms"] for path in found["health"].values())
    answered = all(set(path["statuses"]) == {"200"} for path in found["health"].values())
    value = f"within {slowest:.0f} ms" if answered else "not always 200"
    holds = answered and slowest <= 100
    return Bar(f"{name}: health and metrics", value, "200 within 100 ms", holds)
