"""What Prometheus sees of the service. Labels take a bounded number of values."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.exposition import generate_latest

from service.errors import ServiceError
from service.observability.shared_counters import Board, Counter, Gauge, Histogram

SECONDS = (
    0.00025,
    0.0005,
    0.001,
    0.002,
    0.003,
    0.005,
    0.0075,
    0.01,
    0.015,
    0.02,
    0.03,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
STAGES = ("queue", "store", "model", "search", "merge", "encode")
ROUTES = ("/recall", "/recall/batch", "/events", "/healthz", "/readyz", "/metrics", "other")
STATUSES = ("200", "400", "404", "405", "408", "413", "422", "429", "500", "503", "504", "other")
EVENT_TYPES = ("click", "view", "like", "purchase", "impression", "other")
FALLBACKS = ("no_history", "unknown_items", "store_unavailable")
FAILURES = (
    "ServiceError",
    *(kind.__name__ for kind in ServiceError.__subclasses__()),
    "HTTP404",
    "HTTP405",
    "unexpected",
    "other",
)


class Metrics:
    """The service's metrics: those of all processes that count on the same board."""

    def __init__(self, board: Board | None = None) -> None:
        board = board or Board()
        self.stage_seconds = {stage: Histogram(board, SECONDS) for stage in STAGES}
        self.request_seconds = {route: Histogram(board, SECONDS) for route in ROUTES}
        self.batch_size = Histogram(board, SIZES)
        self._requests = Counter(board, ROUTES, STATUSES)
        self._failures = Counter(board, FAILURES)
        self.fallbacks = Counter(board, FALLBACKS)
        self.unknown_items = Counter(board)
        self._events = Counter(board, EVENT_TYPES)
        self.queue_length = Gauge(board)
        self.version = ""  # of the loaded artifact
        self.ready = False
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self.request_seconds[route].observe(seconds)
        text = str(status)
        self._requests.inc(route, text if text in STATUSES else "other")

    def failure(self, reason: str) -> None:
        """A request failed."""
        self._failures.inc(reason if reason in FAILURES else "other")

    def event(self, kind: str) -> None:
        """An event was acknowledged."""
        self._events.inc(kind if kind in EVENT_TYPES else "other")

    def expose(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """All metrics, as the registry asks for them."""
        about = "Time of each stage of a recall; all but queue are a whole batch's"
        yield _histograms("recgpt_stage_seconds", about, "stage", self.stage_seconds)
        about = "Time from the request's first byte to the answer's last"
        yield _histograms("recgpt_request_seconds", about, "route", self.request_seconds)
        buckets, total = self.batch_size.total()
        yield HistogramMetricFamily("recgpt_batch_size", "Recalls in a batch", buckets, total)
        about = "Requests answered"
        yield _counter("recgpt_requests", about, self._requests, "route", "status", seen=True)
        about = "Requests that failed"
        yield _counter("recgpt_failures", about, self._failures, "reason", seen=True)
        about = "Recalls that gave popular items"
        yield _counter("recgpt_fallbacks", about, self.fallbacks, "reason")
        about = "Items of histories that are not known"
        yield _counter("recgpt_unknown_items", about, self.unknown_items)
        yield _counter("recgpt_events", "Events acknowledged", self._events, "type")
        about = "Recalls that wait"
        yield GaugeMetricFamily("recgpt_queue_length", about, self.queue_length.total())
        artifact = GaugeMetricFamily(
            "recgpt_artifact_info", "The loaded artifact", labels=["version"]
        )
        artifact.add_metric([self.version], 1)
        yield artifact
        about = "1 when recalls are answered in full"
        yield GaugeMetricFamily("recgpt_ready", about, float(self.ready))


def _histograms(name: str, about: str, label: str, of: dict[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(name, about, labels=[label])
    for value, histogram in of.items():
        family.add_metric([value], *histogram.total())
    return family


def _counter(name: str, about: str, of: Counter, *labels: str, seen: bool = False) -> Metric:
    """`seen`: only the combinations of labels that have been counted."""
    family = CounterMetricFamily(name, about, labels=labels)
    for values, count in of.total().items():
        if count or not seen:
            family.add_metric(values, count)
    return family
