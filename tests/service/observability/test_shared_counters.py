import tempfile

import pytest
from prometheus_client import CollectorRegistry, Histogram

from service.observability.metrics import SECONDS, Metrics
from service.observability.shared_counters import ROW_BYTES, CounterMemory


def test_processes_are_summed_and_counts_survive_their_process() -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(2 * ROW_BYTES)
        one, two = (Metrics(CounterMemory(file.fileno(), rows=2, row=row)) for row in range(2))
        for metrics in (one, two, two):
            metrics.request("/recall", 200, 0.004)
            metrics.failure("Invalid")
            metrics.event("click")
            metrics.queue_length.set(3)
        restarted = Metrics(CounterMemory(file.fileno(), rows=2, row=1))
        restarted.request("/recall", 200, 99)
        value = one.registry.get_sample_value
        assert value("recgpt_requests_total", {"route": "/recall", "status": "200"}) == 4
        assert value("recgpt_failures_total", {"reason": "Invalid"}) == 3
        assert value("recgpt_events_total", {"type": "click"}) == 3
        assert value("recgpt_queue_length") == 3  # that of the process that ended is cleared
        seconds = {"route": "/recall"}
        assert value("recgpt_request_seconds_bucket", seconds | {"le": "0.005"}) == 3
        assert value("recgpt_request_seconds_bucket", seconds | {"le": "+Inf"}) == 4
        assert value("recgpt_request_seconds_sum", seconds) == pytest.approx(99.012)


def test_histograms_equal_those_of_prometheus_client() -> None:
    registry = CollectorRegistry()
    name = "recgpt_request_seconds"
    reference = Histogram(name, "", ["route"], buckets=SECONDS, registry=registry)
    metrics = Metrics()
    for value in (0.0, 0.001, 0.0010001, 0.3, 2.5, 7.0):
        reference.labels("/events").observe(value)
        metrics.request_seconds["/events"].observe(value)
    for family in registry.collect():
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                found = metrics.registry.get_sample_value(sample.name, sample.labels)
                assert found == sample.value, sample


def test_unforeseen_label_values_are_counted_as_other() -> None:
    metrics = Metrics()
    metrics.request("/recall", 418, 0.1)
    metrics.failure("Teapot")
    metrics.event("anything")
    value = metrics.registry.get_sample_value
    assert value("recgpt_requests_total", {"route": "/recall", "status": "other"}) == 1
    assert value("recgpt_failures_total", {"reason": "other"}) == 1
    assert value("recgpt_events_total", {"type": "other"}) == 1
