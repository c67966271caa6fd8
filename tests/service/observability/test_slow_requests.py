"""The slowest requests are kept, and no more than that."""

import itertools

import pytest

from service.observability import slow_requests
from service.observability.slow_requests import KEPT, SlowRequest, SlowRequests

PERIOD = 300.0


def request(seconds: float) -> SlowRequest:
    return SlowRequest(seconds, 0.0, f"r{seconds}", "/recall", 200, {})


def kept(requests: SlowRequests) -> list[float]:
    return [one.seconds for one in requests.slowest()]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(slow_requests.time, "perf_counter", lambda: now[0])
    return now


def offer(requests: SlowRequests, seconds: float, now: float) -> bool:
    slow = requests.is_slow(seconds, now)
    if slow:
        requests.add(request(seconds))
    return slow


@pytest.mark.parametrize("step", [1, -1])
def test_the_slowest_are_kept_whatever_the_order(step: int, clock: list[float]) -> None:
    requests = SlowRequests(PERIOD)
    for seconds in list(range(5 * KEPT))[::step]:
        offer(requests, float(seconds), clock[0])
    assert kept(requests) == [float(s) for s in range(5 * KEPT - 1, 4 * KEPT - 1, -1)]
    assert not requests.is_slow(1.0, clock[0])


def test_they_are_forgotten_after_two_periods(clock: list[float]) -> None:
    requests = SlowRequests(PERIOD)
    offer(requests, 9.0, clock[0])
    clock[0] += PERIOD
    assert offer(requests, 1.0, clock[0])  # the slowest of its own period
    assert kept(requests) == [9.0, 1.0]
    clock[0] += PERIOD
    assert kept(requests) == [1.0]
    clock[0] += 2 * PERIOD
    assert kept(requests) == []


def test_requests_of_the_same_time_can_be_compared(clock: list[float]) -> None:
    requests = SlowRequests(PERIOD)
    requests.is_slow(1.0, clock[0])
    for _ in itertools.repeat(None, 2 * KEPT):
        requests.add(SlowRequest(1.0, 0.0, "same", "/recall", 200, {"queue": 0.1}))
    assert len(kept(requests)) == KEPT
