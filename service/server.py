"""Run the service: load, listen, drain on SIGTERM."""

import logging
import socket
from contextlib import ExitStack

import faiss
import torch

from index.kernels.code_cache import log_compiled
from service.observability.logs import configure_logs
from service.processes.engine_process import Hub
from service.processes.frontend import end_well, freeze_loaded, open_store
from service.recall.recaller import Recaller
from service.settings import ServeSettings

log = logging.getLogger(__name__)


def serve(settings: ServeSettings) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are finished.

    Raises ArtifactError for an unusable artifact, ValueError for an unusable store or port,
    ChildProcessError where a front end can't be started.
    """
    configure_logs(settings.log_level)
    end_well()
    if settings.store.startswith("embedded:") and settings.http_workers > 1:
        raise ValueError("--http-workers: an embedded store has one writer, so give 1")
    _check(settings)
    # By default both use every core they see, and spin while one of them is late.
    torch.set_num_threads(settings.threads)
    faiss.omp_set_num_threads(settings.threads)
    recaller = Recaller.load(settings.artifacts, settings.device, settings.gpu_search)
    recaller.warm_up()
    log_compiled()
    if "max_batch" not in settings.model_fields_set:
        settings = settings.model_copy(update={"max_batch": recaller.preferred_batch})
    freeze_loaded()
    with ExitStack() as stack:
        listeners = _listen(settings.host, settings.port, settings.http_workers)
        for listener in listeners:
            stack.enter_context(listener)
        where = {"host": settings.host, "port": listeners[0].getsockname()[1]}
        log.info("listening", extra=where)
        Hub(settings, recaller, listeners).run()


def _check(settings: ServeSettings) -> None:
    """Say before the long work what can't be used."""
    for listener in _listen(settings.host, settings.port, 1):
        listener.close()
    if not settings.store.startswith("embedded:"):  # opening that one reads its file
        open_store(settings)


def _listen(host: str, port: int, count: int) -> list[socket.socket]:
    """Sockets on one port; the kernel deals out new connections among them."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        if count == 1:
            return [socket.create_server((host, port), family=family, backlog=2048)]
        # They would also share the port with another service of ours: see first that it is free.
        with socket.create_server((host, port), family=family) as probe:
            port = probe.getsockname()[1]
        return [
            socket.create_server((host, port), family=family, backlog=2048, reuse_port=True)
            for _ in range(count)
        ]
    except OSError as error:
        raise ValueError(
            f"cannot listen on {host}:{port} ({error.strerror}): choose another --port"
        ) from error
