"""Run the service: load, listen, drain on SIGTERM."""

import gc
import logging
import signal
import socket
import sys

import faiss
import torch
import uvicorn

from service.app import create_app
from service.catalogue import Catalogue
from service.history import HistoryStore
from service.logs import configure_logs
from service.recall import Recaller
from service.settings import ServeSettings
from service.threaded import Threaded

log = logging.getLogger(__name__)


def serve(settings: ServeSettings) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are finished.

    Raises ArtifactError for an unusable artifact, ValueError for an unusable store or port.
    """
    configure_logs(settings.log_level)
    # uvicorn raises the signal again after it has drained: let that be an orderly end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    recaller = Recaller.load(settings.artifacts, settings.device)
    # By default both use every core they see, and spin while one of them is late.
    torch.set_num_threads(settings.threads)
    faiss.omp_set_num_threads(settings.threads)
    recaller.warm_up()
    # The collector must not walk through vocabularies and modules again and again: what is loaded
    # stays. Seen with 64 connections: half of the time of an answer, and pauses of 0.2 s.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    catalogue = Catalogue.load(recaller.bundle, recaller.version, recaller.max_interests)
    store = HistoryStore.open(
        settings.store,
        settings.history_limit,
        settings.store_connections,
        settings.store_timeout_ms,
    )
    listener = _listen(settings.host, settings.port)
    log.info("listening", extra={"host": settings.host, "port": listener.getsockname()[1]})
    config = uvicorn.Config(
        create_app(settings, Threaded(recaller), catalogue, store),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nobody asks for the client's address
        timeout_graceful_shutdown=settings.drain_seconds,
        lifespan="on",
    )
    uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ValueError(
            f"cannot listen on {host}:{port} ({error.strerror}): choose another --port"
        ) from error
