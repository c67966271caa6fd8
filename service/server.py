"""`recgpt serve`: it takes the port and becomes the supervisor of the service's processes."""

import asyncio
import errno
import logging
import os
import socket
from contextlib import ExitStack

from service.history.event_types import load_event_types
from service.http.api_keys import keys_from
from service.http.tls import check_certificate
from service.observability.logs import configure_logs
from service.processes.child import allow_many_files
from service.processes.supervisor import Supervisor
from service.settings import BACKLOG, ServeSettings

log = logging.getLogger(__name__)

LOCAL_HOSTS = {"127.0.0.1", "::1", "localhost"}


def serve(settings: ServeSettings) -> None:
    """Serves until SIGTERM or SIGINT, and answers the requests that were accepted by then.

    Raises ValueError if the port or a file cannot be used, ChildProcessError if a bundle, a device
    or a store cannot; the message says why.
    """
    configure_logs(settings.log_level)
    allow_many_files()
    if settings.store.startswith("embedded:") and settings.http_workers > 1:
        raise ValueError("--http-workers: an embedded store has one writer, so give 1")
    load_event_types(settings.event_types)  # raises its error before anything starts
    check_certificate(settings)
    if not keys_from(os.environ):
        _warn_of_open_ports(settings)
    with ExitStack() as stack:
        listeners = _listen(settings.host, settings.port, settings.http_workers)
        for listener in listeners:
            stack.enter_context(listener)
        where = {"host": settings.host, "port": listeners[0].getsockname()[1]}
        admin_listeners: list[socket.socket] = []
        if settings.admin_port is not None:
            host, port = settings.admin_host, settings.admin_port
            admin_listeners = _listen(host, port, settings.http_workers, "admin-")
            for listener in admin_listeners:
                stack.enter_context(listener)
            where |= {"admin_host": host, "admin_port": admin_listeners[0].getsockname()[1]}
        log.info("listening", extra=where)
        asyncio.run(Supervisor(settings, listeners, admin_listeners).run())


def _warn_of_open_ports(settings: ServeSettings) -> None:
    """Says what others may do without a key."""
    why = "RECGPT_API_KEYS is not set"
    if settings.host not in LOCAL_HOSTS:
        log.warning("anybody who reaches the port may recall and send events: %s", why)
    if settings.admin_port is not None and settings.admin_host not in LOCAL_HOSTS:
        log.warning("anybody who reaches --admin-port may read and delete histories: %s", why)


def _listen(host: str, port: int, count: int, options: str = "") -> list[socket.socket]:
    """Returns sockets that listen on one port; the kernel deals out connections among them.

    `options` begins the names of the options that an error mentions.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        if count == 1:
            return [socket.create_server((host, port), family=family, backlog=BACKLOG)]
        # Such sockets would also share the port with another service: it must be free first.
        with socket.create_server((host, port), family=family) as probe:
            port = probe.getsockname()[1]
        return [
            socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=True)
            for _ in range(count)
        ]
    except OSError as error:
        is_port = error.errno in (errno.EADDRINUSE, errno.EACCES)
        option = f"--{options}{'port' if is_port else 'host'}"
        raise ValueError(
            f"cannot listen on {host}:{port} ({error.strerror}): choose another {option}"
        ) from error
