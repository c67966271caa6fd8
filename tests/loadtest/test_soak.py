"""The soak finds what grows, and what becomes slow."""

import json
from collections import Counter

import pytest

from loadtest.reliability import refusals, soak
from loadtest.reliability.report import Figures
from loadtest.serving.generator import Load
from loadtest.serving.load_figures import posts
from loadtest.serving.servers import ENGINE, FRONT_END

HOURS = [n / 60 for n in range(60)]


def noisy(per_hour: float, start: float = 100.0) -> list[float]:
    return [start + per_hour * hour + (0.5 if n % 2 else -0.5) for n, hour in enumerate(HOURS)]


def test_the_slope_is_that_of_a_line_behind_the_beginning() -> None:
    memory = noisy(5.0)
    memory[:10] = [50.0] * 10  # caches fill
    found = soak.slope(HOURS, memory)
    assert found.low < 5 < found.high
    assert found.high - found.low < 2


def soaked(**changes: object) -> Figures:
    found: Figures = {
        "memory_mb": {"hours": HOURS, FRONT_END: noisy(0.0), ENGINE: noisy(3.0, start=700.0)},
        "offered_rps": 70.0,
        "first_p99_ms": 10.0,
        "last_p99_ms": 14.0,
        "statuses": {"200": 9},
    }
    return found | changes


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, [True, True, True, True]),
        ({"last_p99_ms": 16.0}, [True, True, False, True]),
        ({"statuses": {"200": 9, "429": 1}}, [True, True, True, False]),
        (
            {"memory_mb": {"hours": HOURS, FRONT_END: noisy(3.0), ENGINE: noisy(-9.0)}},
            [False, True, True, True],
        ),
    ],
)
def test_bars_of_a_soak(changes: Figures, holds: list[bool]) -> None:
    assert [bar.holds for bar in soak.bars(soaked(**changes))] == holds


def test_a_soak_compares_its_beginning_with_its_end() -> None:
    load = Load(1.0, latencies=[0.01] * 50 + [0.02] * 50, statuses=Counter({200: 100}))
    found = soak.outcome(load)
    assert found == {"statuses": {"200": 100}, "first_p99_ms": 10.0, "last_p99_ms": 20.0}


def test_a_soak_mixes_events_with_recalls() -> None:
    recalls = posts([{"user_id": f"user-{n}"} for n in range(20)])
    requests = soak.mixed(recalls)
    events = [request for request in requests if b"POST /events" in request]
    assert [request for request in requests if request not in events] == recalls
    bodies = [json.loads(event.partition(b"\r\n\r\n")[2]) for event in events]
    assert [body["events"][0]["user_id"] for body in bodies] == ["user-0", "user-10"]


@pytest.mark.parametrize(("refusal_ms", "holds"), [(0.19, True), (0.21, False)])
def test_the_bar_of_a_refusal(refusal_ms: float, holds: bool) -> None:
    (bar,) = refusals.bars({"answer_cpu_ms": 2.0, "refusal_cpu_ms": refusal_ms})
    assert bar.holds == holds
