"""The figures of one server under load: its peak, and latencies at a constant rate."""

import json
from collections.abc import Sequence
from typing import Any

import psutil

from loadtest.serving.generator import closed_loop, open_loop, post
from loadtest.serving.servers import cpu_seconds, resident_mb

Figures = dict[str, Any]
WARM_UP_S = 2.0


def posts(questions: Sequence[Figures], **more: Any) -> list[bytes]:
    """Returns recalls, ready to be sent."""
    return [post("/recall", json.dumps(question | more).encode()) for question in questions]


def peak(
    port: int, process: psutil.Process, requests: list[bytes], connections: int, seconds: float
) -> Figures:
    """Returns the throughput of a closed loop, with CPU time and memory of the server."""
    closed_loop(port, requests, connections, WARM_UP_S)
    before = cpu_seconds(process)
    load = closed_loop(port, requests, connections, seconds)
    answers = max(1, len(load.latencies))
    return {
        "rps": load.rate,
        "failed": load.failed,
        "p50_ms": load.percentile_ms(50),
        "p99_ms": load.percentile_ms(99),
        "p99.9_ms": load.percentile_ms(99.9),
        "cpu_ms_per_request": (cpu_seconds(process) - before) / answers * 1000,
        "memory_mb": resident_mb(process),
    }


def latencies(port: int, requests: list[bytes], rate: float, seconds: float) -> Figures:
    """Returns the latencies at a constant rate."""
    load = open_loop(port, requests, rate, seconds)
    return {
        "offered_rps": rate,
        "failed": load.failed,
        **{f"p{percent:g}_ms": load.percentile_ms(percent) for percent in (50, 99, 99.9)},
    }
