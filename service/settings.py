"""The settings of `recgpt serve`."""

from pathlib import Path
from secrets import token_hex
from typing import Literal

from pydantic import BaseModel, Field

GpuSearch = Literal["product", "faiss"]
"""The ways to search on a GPU; `service.recall.gpu.search` describes them."""

BACKLOG = 8192
"""Connections that wait in a listening socket until its front end accepts them; the system may set
a lower limit. If there is no room for a client's, it tries again after a second."""


class ServeSettings(BaseModel, frozen=True):
    """Settings of `recgpt serve`."""

    artifacts: Path = Field(description="folder of the bundles; `current` in it is served")
    store: str = Field(
        description="histories: redis://host:port/db, redis+sentinel://host:port/service, "
        "redis+cluster://host:port or embedded:PATH"
    )
    watch: bool = Field(
        True, description="change over to another version as soon as `current` points to it"
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0: any free one")
    admin_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port of its own for operations of the scope admin, which --port then refuses "
        "(default: none); 0: any free one",
    )
    admin_host: str = Field("127.0.0.1", description="address to listen on for --admin-port")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda|cuda:\d+)$",
        description="device of network and search: auto, cpu, cuda or cuda:1",
    )
    gpu_search: GpuSearch = Field(
        "product",
        description="search on a GPU: product is exact; faiss takes the format in index.json",
    )
    http_workers: int = Field(
        1,
        ge=1,
        le=256,
        description="front-end processes, which speak HTTP; more only if cores are to spare",
    )
    threads: int = Field(
        1,
        ge=1,
        le=256,
        description="CPU threads of a batch's network; more only if cores are to spare",
    )
    explorer: bool = Field(
        False, description="serve /explorer, a page that shows histories, interests and offers"
    )
    tracing: bool = Field(
        False,
        description="send traces to the OpenTelemetry collector that the variables OTEL_* name; "
        "needs the extra `tracing`",
    )
    event_types: Path | None = Field(
        None, description="TOML file that changes what types of events do, or adds types"
    )
    popular_half_life_days: float | None = Field(
        None,
        ge=0.01,
        le=36_500,
        description="fill answers with items that are popular now: a count of events in which one "
        "counts half after these days (default: items that were popular in the training data)",
    )
    experiments: Path | None = Field(
        None, description="TOML file of experiments on recalls; read again if it changes"
    )
    log_events: bool = Field(
        False,
        description="write events to the stream `events` of the store, for `recgpt refresh`; "
        "experiments do so in any case",
    )
    scenarios: Path | None = Field(
        None,
        description="TOML file of scenarios, named fields of recalls; read again if it changes",
    )
    history_limit: int = Field(
        1000, ge=1, le=100_000, description="newest items of a user that are kept and read"
    )
    max_history: int | None = Field(
        None,
        ge=1,
        description="newest items of a history that the network reads; fewer are cheaper, and "
        "`recgpt evaluate --max-history` tells what they cost (default: as many as in training)",
    )
    history_days: float | None = Field(
        None,
        gt=0,
        le=36_500,
        description="events older than this are not read, and a history without a new event for "
        "this time is deleted (default: nothing is deleted by age)",
    )
    max_batch: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="most recalls in one batch (default: 16, 32 with lists, 256 on a GPU)",
    )
    queue_limit: int = Field(1024, ge=1, description="most recalls that may wait; others get 429")
    deadline_ms: int = Field(1000, ge=1, description="a recall that waits longer gets 504")
    engine_patience_ms: int = Field(
        2000,
        ge=1000,
        description="an engine that does not respond for this time is killed and replaced; it must "
        "be longer than the slowest batch",
    )
    max_connections: int = Field(
        2048,
        ge=1,
        description="connections of a front end from which on further clients get 429, except "
        "for health and metrics",
    )
    standby: bool = Field(
        False,
        description="keep a second engine loaded, which takes over at once if the first ends or "
        "hangs; it needs an engine's memory once more",
    )
    cursor_key: str = Field(
        default_factory=lambda: token_hex(16),
        min_length=16,
        repr=False,
        description="secret by which cursors are signed; instances behind one balancer share it "
        "(RECGPT_CURSOR_KEY; default: a new one at each start)",
    )
    body_limit: int = Field(4 << 20, ge=1024, description="largest request body in bytes")
    store_connections: int = Field(8, ge=1, le=1000, description="connections to Redis")
    store_timeout_ms: int = Field(200, ge=1, description="longest wait for Redis")
    ssl_certfile: Path | None = Field(
        None, description="PEM file of a certificate and its chain: the service speaks HTTPS only"
    )
    ssl_keyfile: Path | None = Field(
        None, description="PEM file of its private key (default: it is in the other file)"
    )
    ssl_ca_certs: Path | None = Field(
        None,
        description="PEM file of authorities, one of which must have signed each client's "
        "certificate (default: clients need none)",
    )
    grace_seconds: int = Field(
        5,
        ge=0,
        description="after SIGTERM, during which the service is unready and still serves, until "
        "balancers send nothing more; longer than they take to notice",
    )
    drain_seconds: int = Field(
        20, ge=0, description="after that, for requests under way; nothing new is accepted"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="ids of users appear at debug only"
    )
