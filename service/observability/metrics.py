"""The metrics that Prometheus scrapes. Every label takes a bounded number of values."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, get_args

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.exposition import generate_latest

from service.observability.service_status import ServiceStatus
from service.observability.shared_counters import Counter, CounterMemory, Gauge, Histogram
from service.recall.types import DegradedReason, FilterResult

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
ROUTES = (
    "/recall",
    "/recall/batch",
    "/events",
    "/scenarios",
    "/users/{user_id}/history",
    "/users/{user_id}",
    "/items/{item_id}/hidden",
    "/items/{item_id}",
    "/healthz",
    "/readyz",
    "/versions",
    "/experiments",
    "/admin/reload",
    "/admin/slow",
    "/metrics",
    "other",
)
QUIET_ROUTES = ("/healthz", "/readyz", "/metrics")
"""Routes that are asked every few seconds, by probes and by Prometheus."""
STATUSES = (
    *("200", "207", "400", "404", "405", "408", "409", "413", "415", "422", "429", "431"),
    *("500", "503", "504", "other"),
)
EVENT_TYPES = ("click", "view", "like", "purchase", "dislike", "skip", "impression", "other")
FALLBACKS = get_args(DegradedReason)
FILTER_EFFECTS = ("full", "exhausted", "no_match")
ITEM_CHANGES = ("hidden", "attributes")
EXPERIMENT_STREAMS = ("exposures", "events")
STORE_PROBLEMS = ("wrong_type", "unavailable")
FAILURES = (
    "ServiceError",
    "BadRequest",
    "ClientGone",
    "TooSlow",
    "TooLarge",
    "UnsupportedEncoding",
    "Invalid",
    "QueueFull",
    "NotReady",
    "StoreFailed",
    "UnknownItem",
    "HistoryUnusable",
    "StoreConflict",
    "VersionRefused",
    "DeadlinePassed",
    "TooManyConnections",
    "NotHTTP",
    "LateHead",
    "LargeHead",
    "HTTP404",
    "HTTP405",
    "unexpected",
    "other",
)


class ItemFigures(NamedTuple):
    """Counts of items that are hidden or changed, which all front ends know alike."""

    hidden: int
    unknown_hidden: int
    changed: int
    ignored: int
    age_seconds: float


class Metrics:
    """The metrics of the service, over all processes that share the counters' memory."""

    def __init__(
        self, memory: CounterMemory | None = None, engine: ServiceStatus | None = None
    ) -> None:
        memory = memory or CounterMemory()
        self._engine = engine or ServiceStatus()
        self.stage_seconds = {stage: Histogram(memory, SECONDS) for stage in STAGES}
        self.request_seconds = {route: Histogram(memory, SECONDS) for route in ROUTES}
        self.batch_size = Histogram(memory, SIZES)
        self.failed_batches = Counter(memory)
        self._requests = Counter(memory, ROUTES, STATUSES)
        self._failures = Counter(memory, FAILURES)
        self.fallbacks = Counter(memory, FALLBACKS)
        self.unknown_items = Counter(memory)
        self._filters = Counter(memory, FILTER_EFFECTS)
        self._unknown_values = Counter(memory)
        self.lost_entries = Counter(memory, EXPERIMENT_STREAMS)
        self.arm_fallbacks = Counter(memory)
        self.arm_versions: dict[str, bool] = {}  # that arms name: whether they are loaded
        self.unreadable_histories = Counter(memory, STORE_PROBLEMS)
        self._events = Counter(memory, EVENT_TYPES)
        self.refused_events = Counter(memory, STORE_PROBLEMS)
        self.queue_length = Gauge(memory)
        self.item_changes = Counter(memory, ITEM_CHANGES)
        self.items: Callable[[], ItemFigures | None] = lambda: None
        self.version = ""  # of the loaded bundle; empty before it is known
        self.ready = False
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Counts an answered request."""
        self.request_seconds[route].observe(seconds)
        text = str(status)
        self._requests.inc(route, text if text in STATUSES else "other")

    def refused(self, route: str, status: int, reason: str) -> None:
        """Counts a request that was refused before it was served; it has no time of its own."""
        self._requests.inc(route, str(status))
        self.failure(reason)

    def failure(self, reason: str) -> None:
        """Counts a failed request."""
        self._failures.inc(reason if reason in FAILURES else "other")

    def event(self, kind: str) -> None:
        """Counts an acknowledged event."""
        self._events.inc(kind if kind in EVENT_TYPES else "other")

    def filtered(self, effect: FilterResult) -> None:
        """Counts a recall with a filter."""
        short = "exhausted" if effect.matched else "no_match"
        self._filters.inc(short if effect.exhausted else "full")
        if effect.unknown_values:
            self._unknown_values.inc(by=effect.unknown_values)

    def _collect_items(self) -> Iterator[Metric]:
        about = "Changes of items taken up from the store, summed over the front ends"
        yield _counter("recgpt_item_changes", about, self.item_changes, "kind")
        if (items := self.items()) is None:
            return
        yield GaugeMetricFamily("recgpt_hidden_items", "Items that no answer holds", items.hidden)
        about = "Hidden items that the bundle does not have"
        yield GaugeMetricFamily("recgpt_hidden_unknown_items", about, items.unknown_hidden)
        about = "Items with attributes in the store"
        yield GaugeMetricFamily("recgpt_changed_items", about, items.changed)
        about = "Values of attributes in the store that are ignored: GET /items/{id} says why"
        yield GaugeMetricFamily("recgpt_ignored_attributes", about, items.ignored)
        about = "Seconds since hidden and changed items were last looked for in the store"
        yield GaugeMetricFamily("recgpt_items_age_seconds", about, items.age_seconds)

    def expose(self) -> bytes:
        """Returns all metrics in the text format of Prometheus."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Yields all metrics; the registry calls it."""
        yield from self._collect_requests()
        yield from self._collect_recalls()
        yield from self._collect_events()
        yield from self._collect_items()
        yield from self._collect_versions()
        about = "1 if recalls are answered in full"
        yield GaugeMetricFamily("recgpt_ready", about, float(self.ready))

    def _collect_requests(self) -> Iterator[Metric]:
        about = "Seconds of each stage of a recall; of the whole batch for all stages but queue"
        yield _histograms("recgpt_stage_seconds", about, "stage", self.stage_seconds)
        about = "Seconds from the first byte of a request to the last byte of its answer"
        yield _histograms("recgpt_request_seconds", about, "route", self.request_seconds)
        about = "Requests answered"
        yield _counter("recgpt_requests", about, self._requests, "route", "status", seen=True)
        about = "Requests that failed"
        yield _counter("recgpt_failures", about, self._failures, "reason", seen=True)
        about = "Recalls that no batch has taken yet"
        yield GaugeMetricFamily("recgpt_queue_length", about, self.queue_length.total())

    def _collect_recalls(self) -> Iterator[Metric]:
        buckets, total = self.batch_size.total()
        yield HistogramMetricFamily("recgpt_batch_size", "Recalls in a batch", buckets, total)
        about = "Batches that the engine could not compute; their recalls are tried one by one"
        yield _counter("recgpt_failed_batches", about, self.failed_batches)
        about = "Recalls that returned popular items only, by reason"
        yield _counter("recgpt_fallbacks", about, self.fallbacks, "reason")
        about = "Items of histories that the bundle does not hold"
        yield _counter("recgpt_unknown_items", about, self.unknown_items)
        about = "Recalls with a filter; exhausted: fewer than k items, since no more are allowed"
        yield _counter("recgpt_filtered_recalls", about, self._filters, "result")
        about = "Values in filters that no item of the bundle has"
        yield _counter("recgpt_filter_unknown_values", about, self._unknown_values)
        about = "Histories that could not be read; wrong_type: the user's key is not a list"
        yield _counter("recgpt_unreadable_histories", about, self.unreadable_histories, "reason")

    def _collect_events(self) -> Iterator[Metric]:
        yield _counter("recgpt_events", "Events acknowledged", self._events, "type")
        about = "Events that were not stored; wrong_type: the user's key is not a list"
        yield _counter("recgpt_refused_events", about, self.refused_events, "reason")
        about = "Entries of the experiments' log that were not written"
        yield _counter("recgpt_lost_log_entries", about, self.lost_entries, "stream")

    def _collect_versions(self) -> Iterator[Metric]:
        about = "Engines that were started in place of one that ended or hung"
        yield CounterMetricFamily("recgpt_engine_restarts", about, self._engine.restarts)
        about = "Changes to another version of the bundle, without a restart"
        yield CounterMetricFamily("recgpt_version_changes", about, self._engine.changes)
        about = "Versions that could not be served, so that the old one stayed"
        failed = self._engine.failed_changes
        yield CounterMetricFamily("recgpt_failed_version_changes", about, failed)
        about = "Version of the loaded bundle"
        artifact = GaugeMetricFamily("recgpt_artifact_info", about, labels=["version"])
        if self.version:
            artifact.add_metric([self.version], 1)
        yield artifact
        about = "Recalls of users of an arm that were no part of it, as its version did not answer"
        yield _counter("recgpt_arm_fallbacks", about, self.arm_fallbacks)
        about = (
            "1 if a version that an arm of an experiment names answers recalls, 0 if it does not"
        )
        arms = GaugeMetricFamily("recgpt_arm_version_loaded", about, labels=["version"])
        for version, loaded in self.arm_versions.items():
            arms.add_metric([version], float(loaded))
        yield arms


def _histograms(name: str, about: str, label: str, of: dict[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(name, about, labels=[label])
    for value, histogram in of.items():
        family.add_metric([value], *histogram.total())
    return family


def _counter(name: str, about: str, of: Counter, *labels: str, seen: bool = False) -> Metric:
    """Returns a family of counters; with `seen`, only label values that have been counted."""
    family = CounterMetricFamily(name, about, labels=labels)
    for values, count in of.total().items():
        if count or not seen:
            family.add_metric(values, count)
    return family
