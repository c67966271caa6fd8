"""Traces of requests by OpenTelemetry: a span a request, and a span for each stage of a recall.

It needs the extra `tracing` and `--tracing`. The variables OTEL_* of OpenTelemetry say where spans
go and which requests are traced. Spans are made when a request has ended, from times that are
measured anyway: a service without tracing pays one comparison a request. The spans of the stages
follow each other, although network and search alternate, once for each interest.
"""

import threading
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

NANOSECONDS = 1_000_000_000
CLOSE_SECONDS = 3.0
"""Longest wait for a collector at the end of a process."""
PROPAGATED = (b"traceparent", b"tracestate")
SERVICE_NAME = "recgpt"


class TracedRequest(NamedTuple):
    """A request that has ended."""

    method: str
    route: str
    status: int
    request_id: str
    headers: Iterable[tuple[bytes, bytes]]
    seconds: float
    stages: Mapping[str, float]
    """Seconds of each stage of a recall, in their order; empty for other requests."""


class Tracer:
    """Turns requests into spans."""

    def __init__(self, provider: "TracerProvider") -> None:
        """Takes the provider of OpenTelemetry that samples and exports the spans."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("recgpt")
        self._propagator = TraceContextTextMapPropagator()

    def trace(self, request: TracedRequest) -> str | None:
        """Records a request that ends now, as a part of the client's trace if it names one.

        Returns the id of the trace; None if it is not recorded.
        """
        from opentelemetry.trace import (
            SpanKind,
            StatusCode,
            format_trace_id,
            set_span_in_context,
        )

        end = time.time_ns()
        begin = end - int(request.seconds * NANOSECONDS)
        span = self._tracer.start_span(
            f"{request.method} {request.route}",
            context=self._propagator.extract(_carrier(request.headers)),
            kind=SpanKind.SERVER,
            attributes={
                "http.request.method": request.method,
                "http.route": request.route,
                "http.response.status_code": request.status,
                "recgpt.request_id": request.request_id,
            },
            start_time=begin,
        )
        if request.status >= 500:
            span.set_status(StatusCode.ERROR)
        trace_id = None
        if span.is_recording():
            trace_id = format_trace_id(span.get_span_context().trace_id)
            around = set_span_in_context(span)
            at = begin
            for stage, seconds in request.stages.items():
                part = self._tracer.start_span(stage, context=around, start_time=at)
                at = min(at + int(seconds * NANOSECONDS), end)
                part.end(at)
        span.end(end)
        return trace_id

    def close(self) -> None:
        """Exports the spans that wait, unless the collector takes too long."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)


def open_tracer() -> Tracer:
    """Returns a tracer that exports over OTLP, as the variables OTEL_* say.

    Raises ValueError if the extra `tracing` is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ValueError(
            f"--tracing needs a package that is missing ({error}): pip install 'recgpt[tracing]'"
        ) from error
    named_by_variables = OTELResourceDetector().detect()
    resource = Resource.create({"service.name": SERVICE_NAME}).merge(named_by_variables)
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracer(provider)


def _carrier(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode(): value.decode("latin-1") for name, value in headers if name in PROPAGATED}
