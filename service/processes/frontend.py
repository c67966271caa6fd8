"""HTTP in a process of its own: parse, check, read histories, ask the engine's process, encode.

`service.processes.engine_process` starts it and writes a `FrontEndConfig` to its standard
input. Nothing here imports torch: a front end starts fast and stays small.
"""

import gc
import logging
import signal
import socket
import sys
from pathlib import Path

import uvicorn
from pydantic import BaseModel

from service.history.store import HistoryStore
from service.http.app import RecallApp, create_app
from service.http.metadata import ServedBundle
from service.http.protocol import CoalescingProtocol
from service.observability.logs import configure_logs
from service.observability.metrics import Metrics
from service.observability.shared_counters import CounterMemory
from service.processes.engine_client import Remote
from service.settings import ServeSettings

log = logging.getLogger(__name__)


class FrontEndConfig(BaseModel, frozen=True):
    """What a front end is started with. Files are open ones that it inherits."""

    settings: ServeSettings
    bundle: Path
    version: str
    max_interests: int
    listener: int
    connection: int  # to the engine's process
    board: int  # of the metrics: a row for each front end
    row: int


def open_store(settings: ServeSettings) -> HistoryStore:
    """The store of histories. Raises ValueError where it can't be used."""
    return HistoryStore.open(
        settings.store,
        settings.history_limit,
        settings.store_connections,
        settings.store_timeout_ms,
    )


def http_server(settings: ServeSettings, app: RecallApp) -> uvicorn.Server:
    """A server that drains on SIGTERM and SIGINT."""
    config = uvicorn.Config(
        app,
        http=CoalescingProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nobody asks for the client's address
        timeout_graceful_shutdown=settings.drain_seconds,
        lifespan="on",
    )
    return uvicorn.Server(config)


def end_well() -> None:
    """Make SIGTERM an orderly end: while all is loaded, and when uvicorn raises it once more."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))


def freeze_loaded() -> None:
    """Keep the collector from walking through vocabularies and modules again and again.

    Seen with 64 connections: half of the time of an answer, and pauses of 0.2 s.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def main() -> None:
    """Serve until SIGTERM, or until the engine's process is gone."""
    end_well()
    config = FrontEndConfig.model_validate_json(sys.stdin.read())
    settings = config.settings
    configure_logs(settings.log_level)
    bundle = ServedBundle.load(config.bundle, config.version, config.max_interests)
    freeze_loaded()
    remote = Remote(socket.socket(fileno=config.connection), settings.max_batch)
    metrics = Metrics(CounterMemory(config.board, settings.http_workers, config.row))
    try:
        store = open_store(settings)
    except ValueError as error:
        log.critical("%s", error)
        sys.exit(1)
    app = create_app(settings, remote, bundle, store, metrics)
    server = http_server(settings, app)

    def end() -> None:
        server.should_exit = True

    remote.on_loss = end
    server.run(sockets=[socket.socket(fileno=config.listener)])
    if remote.lost:
        log.critical("the engine's process is gone")
        sys.exit(1)


if __name__ == "__main__":
    main()
