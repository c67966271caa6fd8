"""The HTTP application around an engine and a store: its parts, its start and its end."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from importlib.metadata import version as package_version

from fastapi import FastAPI

from model.kinds import Kind
from service.batcher import Batcher, Worker
from service.catalogue.popularity import RecentPopularity
from service.catalogue.state import CatalogueState, ItemsChange
from service.catalogue.store import CatalogueStore
from service.catalogue.watcher import CatalogueWatcher
from service.experiments.log import ExperimentLog
from service.history.event_types import load_event_types
from service.history.store import HistoryStore, StoreUnavailable
from service.http.api_keys import ApiKey
from service.http.engine import Engine
from service.http.event_routes import EventRoutes
from service.http.experiments import LiveExperiments
from service.http.explorer_routes import ExplorerRoutes
from service.http.gate import Gate
from service.http.index_quality import IndexQuality
from service.http.item_routes import ItemRoutes
from service.http.live_versions import LiveVersions
from service.http.operations import (
    openapi,
    route_experiments,
    route_explorer,
    route_items,
    route_recalls,
    route_service,
    route_slow,
    route_users,
)
from service.http.pages import Pages
from service.http.recall_app import RecallApp
from service.http.routes import Routes
from service.http.scenarios import Scenarios
from service.http.user_routes import UserRoutes
from service.http.versions import VersionRoutes
from service.observability.metrics import ItemFigures, Metrics
from service.settings import ServeSettings

log = logging.getLogger(__name__)


RETRY_SECONDS = 1.0
"""Pause before a task in the background that failed is tried again."""


def create_app(
    settings: ServeSettings,
    engine: Engine,
    store: HistoryStore,
    metrics: Metrics | None = None,
    leaving: Callable[[], bool] = lambda: False,
    keys: Sequence[ApiKey] = (),
    catalogue: CatalogueState | None = None,
    admin_port: int | None = None,
) -> RecallApp:
    """Returns the application around an engine and an opened store.

    Without keys it is open to all, but for operations of the scope admin (`LocalAdmin`).

    `leaving` is whether the service is about to end. The application keeps the state of the items
    in `catalogue` as the store has it. It serves operations of the scope admin at `admin_port`
    only, if there is one.

    The application closes the store when it ends. Raises ValueError if a file that the settings
    name cannot be used.
    """
    metrics = metrics or Metrics()
    event_types = load_event_types(settings.event_types)
    items, state = CatalogueStore(store), catalogue or CatalogueState()
    scenarios = Scenarios(settings.scenarios, lambda: _attributes(engine))
    pages = Pages(settings.cursor_key, lambda: state.hidden)
    exposures = ExperimentLog(
        store, lambda stream, count: metrics.lost_entries.inc(stream, by=count)
    )

    def batcher_of(worker: Worker) -> Batcher:
        made = Batcher(worker, store, metrics, settings, event_types)
        made.on_failure = lambda error: app.on_failure(error)
        return made

    batcher = batcher_of(engine)
    live = LiveVersions(engine, batcher, batcher_of)
    experiments = LiveExperiments(
        settings.experiments,
        scenarios,
        live.answers,
        metrics.arm_fallbacks.inc,
        lambda: _attributes(engine),
    )
    experiments.file.on_change = lambda: engine.want(experiments.versions)
    watcher = CatalogueWatcher(items, state)
    popularity = None
    if days := settings.popular_half_life_days:
        popularity = RecentPopularity(store, event_types, days, state)

    background = [scenarios.file.follow, experiments.file.follow, exposures.follow]
    if popularity:
        background.append(popularity.follow)

    app = RecallApp(
        metrics,
        keys,
        admin_port,
        title="RecGPT recall",
        version=package_version("recgpt"),
        lifespan=_lifespan(
            engine, batcher, live, experiments, watcher, exposures, store, background
        ),
        docs_url=None,  # FastAPI's page loads its scripts from the internet
        redoc_url=None,
        redirect_slashes=False,
    )
    app.gate = Gate(batcher, metrics, settings.max_connections, leaving, keys)
    routes = Routes(
        settings, engine, batcher, store, metrics, experiments, exposures, pages, live, leaving
    )
    logged = exposures if settings.experiments or settings.log_events else None
    events = EventRoutes(store, metrics, event_types, settings.body_limit, logged, popularity)
    route_recalls(app, routes, events)
    route_service(app, routes, VersionRoutes(settings, engine, live))
    route_users(app, UserRoutes(store))
    route_experiments(app, scenarios, experiments, live)
    route_slow(app)
    if settings.explorer:
        route_explorer(
            app, routes, ExplorerRoutes(store, live, settings.body_limit), IndexQuality(engine)
        )
    route_items(app, ItemRoutes(live, items, watcher, settings.body_limit))
    metrics.items = lambda: _figures(watcher, engine)
    state.listen(lambda change: _count(metrics, change))
    app.openapi = lambda: openapi(app)  # type: ignore[method-assign]
    return app


def _lifespan(
    engine: Engine,
    batcher: Batcher,
    live: LiveVersions,
    experiments: LiveExperiments,
    watcher: CatalogueWatcher,
    exposures: ExperimentLog,
    store: HistoryStore,
    background: Sequence[Callable[[], Awaitable[None]]],
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Returns the start and the end of the application, with tasks that run in between."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await watcher.start()  # first, so that no recall returns a hidden item
        engine.on_arm_gone = live.drain_arm
        engine.want(experiments.versions)
        await engine.start()
        batcher.start()
        with suppress(StoreUnavailable):  # the log says at once what is wrong with the store
            await store.ping()
        following = [asyncio.create_task(_keep_on(task)) for task in background]
        yield
        for task in following:
            task.cancel()
        await live.drain()
        await watcher.close()
        await exposures.close()
        await store.close()
        log.info("drained")

    return lifespan


async def _keep_on(task: Callable[[], Awaitable[None]]) -> None:
    """Runs a task in the background until it returns; after a bug it is tried again."""
    while True:
        try:
            return await task()
        except Exception:
            log.exception("a task in the background failed because of a bug, and is tried again")
            await asyncio.sleep(RETRY_SECONDS)


def _figures(watcher: CatalogueWatcher, engine: Engine) -> ItemFigures:
    """Returns what `/metrics` tells of hidden and changed items."""
    bundle = engine.bundle
    return ItemFigures(
        hidden=len(watcher.state.hidden),
        unknown_hidden=bundle.items.unknown_hidden if bundle else 0,
        changed=len(watcher.state.texts),
        ignored=len(watcher.unusable) + (bundle.items.ignored_count if bundle else 0),
        age_seconds=watcher.age_seconds,
    )


def _count(metrics: Metrics, change: ItemsChange) -> None:
    metrics.item_changes.inc("attributes", by=len(change.texts))
    if change.hidden is not None:
        metrics.item_changes.inc("hidden")


def _attributes(engine: Engine) -> Mapping[str, Kind] | None:
    return engine.bundle.attributes if engine.bundle else None
