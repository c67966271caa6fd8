"""The HTTP protocol of a connection: uvicorn's own, with bounds, and with one write for an answer.

The gate sees a request as soon as its head is complete. If it refuses, no application is started.

A client may be slow or hostile, and every connection costs a file and memory, so there is an end
to whatever a client can make the service wait for or keep:

    head of a request     10 s from its first byte, 64 KiB; then 408 or 431
    silence               10 s before the first request, 5 s between requests (uvicorn's keep-alive)
    body                  `service.http.routes` bounds its time and size
    trailers, junk        64 KiB of bytes that are neither a head nor a body
    an unread answer      60 s until a full buffer is read
    connections           `--max-connections`; a further one may ask for health and metrics within
                          1 s, all else is refused. Those above twice the number are cut off

Timers are set only where a client keeps the service waiting: a request whose head comes in one
piece sets none.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.http.gate import REFUSALS, Gate
from service.http.middleware import request_id_of
from service.http.problems import problem_response

log = logging.getLogger(__name__)

HEAD_SECONDS = 10.0
HEAD_BYTES = 64 << 10
EXCESS_HEAD_SECONDS = 1.0
"""Time in which the head of a request must arrive on a connection that is one too many."""
UNREAD_SECONDS = 60.0
LINGER_SECONDS = 1.0
"""Time for which the data of a refused client are discarded: if the connection were closed at
once, the client might see a reset instead of the answer."""


REASONS = {400: "NotHTTP", 408: "LateHead", 431: "LargeHead"}
"""The reasons of refusals by the protocol itself, as the metrics count them."""


@dataclass(slots=True)
class Refusal:
    """A request that the gate has refused, and that is not answered yet."""

    reason: str
    request_id: str
    keep_alive: bool
    complete: bool = False  # whether its body has arrived


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with an end to whatever a client can make it wait for or keep."""

    def __init__(self, gate: Gate, *args: Any, **kwargs: Any) -> None:
        """Takes the gate of this process, and uvicorn's own arguments."""
        super().__init__(*args, **kwargs)
        self._gate = gate

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to serve a client, who has to send a head in time."""
        super().connection_made(transport)
        self._excess = len(self.connections) > self._gate.max_connections
        self._head_too_large = self._refused = False
        self._refusal: Refusal | None = None
        self._last_scope: Any = None  # of the last request whose head was complete
        self._pending_bytes = 0  # since the last head or piece of a body was complete
        self._unread = _Timer(self.loop, UNREAD_SECONDS, self.transport.abort)
        seconds = EXCESS_HEAD_SECONDS if self._excess else HEAD_SECONDS
        self._late = _Timer(self.loop, seconds, self._head_is_late)
        self._late.start()
        if len(self.connections) > 2 * self._gate.max_connections:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the timers."""
        super().connection_lost(exc)
        self._gate.connection_ended(len(self.connections))
        self._late.stop()
        self._unread.stop()

    def data_received(self, data: bytes) -> None:
        """Parses the data, and starts a timer if the client keeps the service waiting."""
        if self._refused:
            return
        self._pending_bytes += len(data)
        super().data_received(data)
        if self._refused or self._refusal or self.transport.is_closing():
            return
        if self._pending_bytes > HEAD_BYTES:
            self._refuse_size()
        elif not self.cycle or self.cycle.response_complete or self._in_head():
            self._late.start()

    def on_headers_complete(self) -> None:
        """Serves a request whose head is complete. Raises ValueError if the head is too large."""
        if self._pending_bytes > HEAD_BYTES:  # which may be those of a body behind it
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > HEAD_BYTES:
                self._head_too_large = True
                raise ValueError
        self._pending_bytes = 0
        self._late.stop()
        self._last_scope = self.scope
        if self._is_refused():
            return
        super().on_headers_complete()
        if self._excess or self._gate.leaving():
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Takes in a piece of a body."""
        self._pending_bytes = 0
        if not self._refusal:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Notes that the whole body has arrived."""
        if self._refusal:
            self._refusal.complete = True
        else:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answers a request that the parser refused."""
        if self._head_too_large:
            self._refuse_size()
        else:
            self._refuse(400, "this is not a request of HTTP/1.1")

    def pause_writing(self) -> None:
        """Gives the client some time to read."""
        super().pause_writing()
        self._unread.start()

    def resume_writing(self) -> None:
        """Goes on writing, because the client has read."""
        super().resume_writing()
        self._unread.stop()

    def shutdown(self) -> None:
        """Closes the connection of a server that drains, behind the request that is under way.

        A request whose head is on the way is served, too.
        """
        if not self._in_head():
            super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        """Closes a connection on which no request has come."""
        self._close()

    def _in_head(self) -> bool:
        """Returns whether a request has begun whose head is not complete.

        uvicorn makes a scope when a request begins.
        """
        return self.scope is not self._last_scope

    def _is_refused(self) -> bool:
        """Returns whether the gate refuses the request whose head is complete.

        A request that follows another at once is served if that one is, because answers come in
        order; else it is dropped, and the connection is closed behind the refusal.
        """
        if self._refusal:
            self._refusal.keep_alive = False
        elif not self.cycle or self.cycle.response_complete:
            path = self.url.partition(b"?")[0].decode("ascii", "replace")
            if reason := self._gate.reason_to_refuse(path, self.headers, self._excess):
                keep_alive = not (self._excess or self.expect_100_continue or self._gate.leaving())
                keep_alive &= self.parser.get_http_version() != "1.0"
                keep_alive &= self.parser.should_keep_alive()
                self._refusal = Refusal(reason, request_id_of(self.headers), keep_alive)
                self._gate.refuse(path, reason, self._send_refusal)
        return self._refusal is not None

    def _send_refusal(self) -> None:
        """Answers a refused request, and closes the connection unless its body was read."""
        refusal, self._refusal = self._refusal, None
        if not refusal or self.transport.is_closing():
            return
        close = not (refusal.keep_alive and refusal.complete)
        answer = REFUSALS[refusal.reason](refusal.request_id, close)
        if close:
            self._end_with(answer)
        else:
            self.transport.write(answer)
            self._late.start()

    def _head_is_late(self) -> None:
        if self.transport.is_closing():
            return
        if self._in_head():
            self._refuse(408, f"the head of the request did not arrive within {HEAD_SECONDS:g} s")
        else:
            self._close()

    def _refuse_size(self) -> None:
        self._refuse(431, f"the head of the request has more than {HEAD_BYTES} bytes")

    def _refuse(self, status: int, detail: str) -> None:
        """Answers with a problem document and closes the connection.

        If an answer is under way, the connection is closed without one.
        """
        self._gate.metrics.refused("other", status, REASONS[status])
        if self.cycle and not self.cycle.response_complete:
            self.transport.close()
            return
        request_id = os.urandom(16).hex()
        log.info("refused: %s", detail, extra={"status": status, "request_id": request_id})
        headers = {"connection": "close", "x-request-id": request_id}
        answer = problem_response(status, detail, request_id, headers=headers)
        lines = [b"%b: %b\r\n" % header for header in answer.raw_headers]
        self._end_with(b"".join([STATUS_LINE[status], *lines, b"\r\n", answer.body]))

    def _end_with(self, answer: bytes) -> None:
        """Sends a last answer, and closes the connection when the client has had time to read."""
        self._refused = True
        self.transport.write(answer)
        if self.transport.can_write_eof():  # TLS has no end in one direction
            with suppress(OSError, RuntimeError):  # the client has reset the connection
                self.transport.write_eof()
            self.loop.call_later(LINGER_SECONDS, self.transport.abort)
        else:
            self.loop.call_later(LINGER_SECONDS, self._close)

    def _close(self) -> None:
        """Closes the connection, even if the client does not read the rest of an answer."""
        self.transport.close()
        self.loop.call_later(UNREAD_SECONDS, self.transport.abort)


class CoalescingProtocol(BoundedProtocol):
    """The protocol over a transport that sends the head and the body of an answer at once.

    uvicorn writes one after the other. Here the head is held until the body follows in the same
    turn of the event loop, which saves a system call and a packet (docs/results/bench.md).
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to serve a client."""
        super().connection_made(_CoalescingTransport(transport, self.loop))  # type: ignore[arg-type]


class _CoalescingTransport:
    """A transport that holds the head of an answer until its body comes, or the loop goes on."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Sends the data, or holds it if it is the head of an answer."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n"):
            self._head = data
            self._loop.call_soon(self._send_head)
            return
        self._transport.write(data)

    def write_eof(self) -> None:
        """Sends a held head and closes the connection for writing."""
        self._send_head()
        self._transport.write_eof()

    def close(self) -> None:
        """Sends a held head and closes the connection."""
        self._send_head()
        self._transport.close()

    def _send_head(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)


class _Timer:
    """Calls `act` some seconds after its first start, unless it is stopped before."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, act: Callable[[], object]
    ) -> None:
        self._loop, self._seconds, self._act = loop, seconds, act
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Starts, if it does not run."""
        if not self._handle:
            self._handle = self._loop.call_later(self._seconds, self._act)

    def stop(self) -> None:
        """Stops, if it runs."""
        if self._handle:
            self._handle.cancel()
            self._handle = None
