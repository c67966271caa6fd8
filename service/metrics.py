"""What Prometheus sees of the service. Labels take a bounded number of values."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

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
STAGES = ("queue", "store", "model", "search", "merge")
ROUTES = ("/recall", "/recall/batch", "/events", "/healthz", "/readyz", "/metrics", "other")
EVENT_TYPES = ("click", "view", "like", "purchase", "impression", "other")
FALLBACKS = ("no_history", "unknown_items", "store_unavailable")


class Metrics:
    """The service's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        stage_seconds = Histogram(
            "recgpt_stage_seconds",
            "Time of each stage of a recall; model, search and merge are a whole batch's",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self.stage_seconds = {stage: stage_seconds.labels(stage) for stage in STAGES}
        request_seconds = Histogram(
            "recgpt_request_seconds",
            "Time from the request's first byte to the answer's last",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.request_seconds = {route: request_seconds.labels(route) for route in ROUTES}
        self.batch_size = Histogram(
            "recgpt_batch_size",
            "Recalls in a batch",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
            registry=registry,
        )
        self.requests = Counter(
            "recgpt_requests", "Requests answered", ["route", "status"], registry=registry
        )
        self.failures = Counter(
            "recgpt_failures", "Requests that failed", ["reason"], registry=registry
        )
        fallbacks = Counter(
            "recgpt_fallbacks", "Recalls that gave popular items", ["reason"], registry=registry
        )
        self.fallbacks = {reason: fallbacks.labels(reason) for reason in FALLBACKS}
        self.unknown_items = Counter(
            "recgpt_unknown_items", "Items of histories that are not known", registry=registry
        )
        events = Counter("recgpt_events", "Events acknowledged", ["type"], registry=registry)
        self.events = {kind: events.labels(kind) for kind in EVENT_TYPES}
        self.queue_length = Gauge("recgpt_queue_length", "Recalls that wait", registry=registry)
        self.artifact = Gauge(
            "recgpt_artifact_info", "The loaded artifact", ["version"], registry=registry
        )
        self.ready = Gauge("recgpt_ready", "1 when recalls are answered in full", registry=registry)

    def expose(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
