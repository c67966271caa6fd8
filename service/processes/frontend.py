"""The front-end process: it parses and checks requests, reads histories, and asks the engine.

The supervisor starts it at the same time as the engine, and it listens at once: until an engine
has loaded the bundle it answers 503 and says so. No library that computes is imported here, so
that a front end starts fast and stays small.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from functools import partial

import uvicorn

from service.catalogue.state import CatalogueState
from service.history.event_types import load_event_types
from service.history.store import HistoryStore
from service.http.api_keys import keys_from
from service.http.app import create_app
from service.http.protocol import CoalescingProtocol
from service.http.recall_app import RecallApp
from service.http.tls import tls_options
from service.observability.logs import configure_logs
from service.observability.metrics import Metrics
from service.observability.service_status import ServiceStatus
from service.observability.shared_counters import CounterMemory
from service.observability.tracing import open_tracer
from service.processes.child import (
    EngineAddress,
    FrontEndConfig,
    Report,
    Supervision,
    allow_many_files,
    freeze_loaded,
    name_process,
)
from service.processes.engine_client import EngineClient
from service.processes.engine_switch import EngineSwitch
from service.settings import BACKLOG, ServeSettings

BEAT_SECONDS = 0.2


def open_store(settings: ServeSettings) -> HistoryStore:
    """Opens the store of histories. Raises ValueError if it cannot be used."""
    return HistoryStore.open(
        settings.store,
        settings.history_limit,
        settings.store_connections,
        settings.store_timeout_ms,
        settings.history_days,
        load_event_types(settings.event_types),
    )


class BeatingServer(uvicorn.Server):
    """A server whose event loop beats as long as it turns, so that one that hangs is noticed."""

    def __init__(self, config: uvicorn.Config, beat: Callable[[], None]) -> None:
        super().__init__(config)
        self._beat = beat

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves until a signal, and until all has drained."""
        beating = asyncio.create_task(self._go_on_beating())
        try:
            await super().serve(sockets)
        finally:
            beating.cancel()

    async def _go_on_beating(self) -> None:
        while True:
            self._beat()
            await asyncio.sleep(BEAT_SECONDS)


def http_server(
    settings: ServeSettings, app: RecallApp, beat: Callable[[], None]
) -> uvicorn.Server:
    """Returns a server that drains on SIGTERM."""
    config = uvicorn.Config(
        app,
        http=partial(CoalescingProtocol, app.gate),  # type: ignore[arg-type]
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the client's address is not used
        timeout_graceful_shutdown=settings.drain_seconds,
        lifespan="on",
        backlog=BACKLOG,
        **tls_options(settings),
    )
    return BeatingServer(config, beat)


def main() -> None:
    """Serves HTTP until SIGTERM, or until the supervisor is gone."""
    name_process("recgpt-frontend")
    supervision = Supervision()
    config = supervision.config(FrontEndConfig)
    settings = config.settings
    configure_logs(settings.log_level)
    allow_many_files()
    status = ServiceStatus(config.status)
    patience_seconds = settings.engine_patience_ms / 1000
    counters = CounterMemory(config.counters, settings.http_workers, config.row)
    catalogue = CatalogueState()
    files = [config.listener, config.admin_listener]
    sockets = [socket.socket(fileno=file) for file in files if file is not None]
    failures: list[BaseException] = []

    def fail(error: BaseException) -> None:
        failures.append(error)
        server.should_exit = True

    def connect(address: EngineAddress) -> EngineClient:
        life = ServiceStatus(config.status, address.lane)
        client = EngineClient(address.path, life, patience_seconds, catalogue)
        client.on_failure = fail
        return client

    engine = EngineSwitch(connect, config.serving)

    def tell() -> None:
        supervision.report(Report(engines=engine.asked, versions=sorted(engine.wanted)))

    engine.on_change = tell
    engine.on_failure = fail
    engine.on_look = lambda: supervision.report(Report(look=True))
    supervision.on_message(engine.tell)
    try:
        keys = keys_from(os.environ, settings.http_workers)
        store = open_store(settings)
        leaving, metrics = lambda: status.leaving, Metrics(counters, status)
        port = sockets[1].getsockname()[1] if len(sockets) > 1 else None
        app = create_app(settings, engine, store, metrics, leaving, keys, catalogue, port)
        app.observed.tracer = open_tracer() if settings.tracing else None
    except ValueError as error:
        supervision.fail(error)
    app.on_failure = fail  # the supervisor starts another front end
    server = http_server(settings, app, partial(status.beat_front_end, config.row))
    freeze_loaded()
    try:
        server.run(sockets=sockets)  # after a signal it ends by SystemExit
    finally:
        if app.observed.tracer:
            app.observed.tracer.close()
    if failures:
        supervision.fail(failures[0])


if __name__ == "__main__":
    main()
