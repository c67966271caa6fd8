"""Requests become spans: their times, their parents, and what is missing without the extra."""

import sys
import threading
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

from service.observability import tracing
from service.observability.tracing import TracedRequest, Tracer, open_tracer

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
STAGES = {"queue": 0.25, "store": 0.5, "model": 1.0}


def spans_of(
    headers: Sequence[tuple[bytes, bytes]] = (),
    stages: dict[str, float] | None = None,
    status: int = 200,
    ratio: float = 1.0,
) -> tuple[ReadableSpan, ...]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(ratio)))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = Tracer(provider)
    request = TracedRequest("POST", "/recall", status, "r1", headers, 2.0, stages or {})
    trace_id = tracer.trace(request)
    tracer.close()
    spans = exporter.get_finished_spans()
    assert {trace_id} - {None} == {f"{s.context.trace_id:032x}" for s in spans if s.context}
    return spans


class Hanging(SpanExporter):
    """Exports to a collector that never answers."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.over.wait()
        return SpanExportResult.FAILURE


def test_a_collector_that_hangs_does_not_keep_the_process_from_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracing, "CLOSE_SECONDS", 0.01)
    exporter = Hanging()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = Tracer(provider)
    tracer.trace(TracedRequest("POST", "/recall", 200, "r1", (), 2.0, {}))
    closing = threading.Thread(target=tracer.close)
    closing.start()
    closing.join(30)
    ended = not closing.is_alive()
    exporter.over.set()
    closing.join()
    assert ended


def seconds(span: ReadableSpan) -> float:
    assert span.start_time
    assert span.end_time
    return (span.end_time - span.start_time) / 1e9


def test_a_span_for_the_request_and_one_for_each_stage_within_it() -> None:
    *stages, request = spans_of(stages=STAGES)
    assert (request.name, request.kind) == ("POST /recall", SpanKind.SERVER)
    assert request.attributes
    assert request.attributes["http.route"] == "/recall"
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["recgpt.request_id"] == "r1"
    assert seconds(request) == pytest.approx(2.0)
    assert {span.name: pytest.approx(seconds(span)) for span in stages} == STAGES
    assert request.context
    for span in stages:
        assert span.parent
        assert span.parent.span_id == request.context.span_id
        assert span.start_time
        assert span.end_time
        assert request.start_time
        assert request.end_time
        assert request.start_time <= span.start_time <= span.end_time <= request.end_time


def test_stages_that_are_longer_than_the_request_end_with_it() -> None:
    *stages, request = spans_of(stages={"queue": 1.5, "store": 1.5, "model": 1.5})
    assert [round(seconds(span), 6) for span in stages] == [1.5, 0.5, 0.0]
    assert max(span.end_time or 0 for span in stages) == request.end_time


def test_the_trace_of_the_client_goes_on() -> None:
    (request,) = spans_of([(b"traceparent", f"00-{TRACE}-{SPAN}-01".encode())])
    assert request.parent
    assert (f"{request.parent.trace_id:032x}", f"{request.parent.span_id:016x}") == (TRACE, SPAN)


@pytest.mark.parametrize("value", [b"", b"00-0-0-01", b"\xff", b"00-" + b"0" * 32 + b"-1-01"])
def test_a_traceparent_that_is_none_begins_a_new_trace(value: bytes) -> None:
    (request,) = spans_of([(b"traceparent", value)])
    assert request.parent is None


def test_the_client_decides_whether_its_trace_is_recorded() -> None:
    assert not spans_of([(b"traceparent", f"00-{TRACE}-{SPAN}-00".encode())], STAGES)
    assert spans_of([(b"traceparent", f"00-{TRACE}-{SPAN}-01".encode())], STAGES, ratio=0.0)
    assert not spans_of(stages=STAGES, ratio=0.0)


def test_errors_of_the_service_are_errors_of_the_span() -> None:
    assert spans_of(status=504)[0].status.status_code is StatusCode.ERROR
    assert spans_of(status=422)[0].status.status_code is StatusCode.UNSET


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ValueError, match=r"--tracing needs .*pip install 'recgpt\[tracing\]'"):
        open_tracer()
