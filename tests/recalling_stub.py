"""A stand-in for the service: an HTTP server that answers recalls by rote and keeps the events."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any


class RecallingStub(ThreadingHTTPServer):
    """Offers the same items to everybody, in the arm `a` of the experiment `e`."""

    daemon_threads = True

    def __init__(self, items: list[str], experiments: list[str]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.items = items
        self.experiments = experiments
        self.away = 0
        """Requests from now on that get no answer."""
        self.recalls: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.visited = Event()
        """Set by every recall."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path == "/experiments":
            return {"experiments": [{"experiment": name} for name in self.experiments]}
        if path == "/events":
            self.events += body["events"]
            return {}
        self.recalls.append(body["user_id"])
        self.visited.set()
        arms = [{"experiment": name, "arm": "a"} for name in self.experiments]
        items = [{"item_id": item} for item in self.items]
        return {"request_id": "r", "items": items, "experiments": arms}


class Handler(BaseHTTPRequestHandler):
    server: RecallingStub

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        if self.server.away:
            self.server.away -= 1
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        answer = json.dumps(self.server.answer(self.path, json.loads(body or b"{}"))).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Writes nothing."""


@contextmanager
def recalling_stub(items: list[str], experiments: list[str]) -> Iterator[RecallingStub]:
    with RecallingStub(items, experiments) as stub:
        thread = Thread(target=stub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield stub
        finally:
            stub.shutdown()
            thread.join()
