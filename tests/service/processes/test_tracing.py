"""`recgpt serve --tracing` sends spans to a collector over OTLP."""

import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from running_service import service

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Collector:
    """A collector that keeps what it is sent."""

    def __init__(self) -> None:
        self.received: queue.Queue[ExportTraceServiceRequest] = queue.Queue()
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                received.put(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    yield collector
    collector.server.shutdown()
    thread.join()
    collector.server.server_close()


def test_spans_arrive_with_the_clients_trace(
    artifacts: Path, tmp_path: Path, collector: Collector
) -> None:
    environment = {
        "RECGPT_TRACING": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        "RECGPT_DEADLINE_MS": "60000",
    }
    with service(artifacts, f"embedded:{tmp_path / 'store'}", tmp_path, **environment) as running:
        headers = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
        answer = running.client.post("/recall", json={"user_id": "u1"}, headers=headers)
        assert answer.status_code == 200
        assert running.stop() == 0  # which sends the spans that wait
    sent = [collector.received.get_nowait() for _ in range(collector.received.qsize())]
    resources = [resource for request in sent for resource in request.resource_spans]
    for resource in resources:
        named = {one.key: one.value.string_value for one in resource.resource.attributes}
        assert named["service.name"] == "recgpt"
    spans = [span for one in resources for scope in one.scope_spans for span in scope.spans]
    ours = [span for span in spans if span.trace_id.hex() == TRACE]
    stages = ["queue", "store", "model", "search", "merge", "encode"]
    assert [span.name for span in ours] == [*stages, "POST /recall"]
