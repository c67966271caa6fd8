"""The HTTP application around an engine and a store: its parts, its start and its end."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version as package_version

from fastapi import FastAPI

from model.kinds import Kind
from service.batcher import Batcher, Worker
from service.catalogue.popularity import RecentPopularity
from service.catalogue.state import CatalogueState, ItemsChange
from service.catalogue.store import CatalogueStore
from service.catalogue.watcher import CatalogueWatcher
from service.experiments.log import ExperimentLog
from service.history.event_types import EventTypes, load_event_types
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


@dataclass(frozen=True)
class Parts:
    """The parts of an application, which its operations share."""

    settings: ServeSettings
    engine: Engine
    store: HistoryStore
    metrics: Metrics
    state: CatalogueState
    event_types: EventTypes
    exposures: ExperimentLog
    scenarios: Scenarios
    batcher: Batcher
    live: LiveVersions
    experiments: LiveExperiments
    items: CatalogueStore
    watcher: CatalogueWatcher
    popularity: RecentPopularity | None


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
    metrics, state = metrics or Metrics(), catalogue or CatalogueState()
    parts = _parts(settings, engine, store, metrics, state, lambda error: app.on_failure(error))
    app = RecallApp(
        metrics,
        keys,
        admin_port,
        title="RecGPT recall",
        version=package_version("recgpt"),
        lifespan=_lifespan(parts),
        docs_url=None,  # FastAPI's page loads its scripts from the internet
        redoc_url=None,
        redirect_slashes=False,
    )
    app.gate = Gate(parts.batcher, metrics, settings.max_connections, leaving, keys)
    _add_operations(app, parts, leaving)
    metrics.items = lambda: _figures(parts.watcher, engine)
    state.listen(lambda change: _count(metrics, change))
    return app


def _parts(
    settings: ServeSettings,
    engine: Engine,
    store: HistoryStore,
    metrics: Metrics,
    state: CatalogueState,
    on_failure: Callable[[BaseException], None],
) -> Parts:
    """Makes the parts; `on_failure` is called if a bug keeps recalls from being answered."""
    event_types = load_event_types(settings.event_types)
    scenarios = Scenarios(settings.scenarios, lambda: _attributes(engine))

    def batcher_of(worker: Worker) -> Batcher:
        made = Batcher(worker, store, metrics, settings, event_types)
        made.on_failure = on_failure
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
    items, days = CatalogueStore(store), settings.popular_half_life_days
    return Parts(
        settings=settings,
        engine=engine,
        store=store,
        metrics=metrics,
        state=state,
        event_types=event_types,
        exposures=ExperimentLog(store, lambda log, n: metrics.lost_entries.inc(log, by=n)),
        scenarios=scenarios,
        batcher=batcher,
        live=live,
        experiments=experiments,
        items=items,
        watcher=CatalogueWatcher(items, state),
        popularity=RecentPopularity(store, event_types, days, state) if days else None,
    )


def _add_operations(app: RecallApp, parts: Parts, leaving: Callable[[], bool]) -> None:
    """Adds all operations, and their document."""
    settings, engine, live = parts.settings, parts.engine, parts.live
    routes = Routes(
        settings,
        engine,
        parts.batcher,
        parts.store,
        parts.metrics,
        parts.experiments,
        parts.exposures,
        Pages(settings.cursor_key, lambda: parts.state.hidden),
        live,
        leaving,
    )
    events = EventRoutes(
        parts.store,
        parts.metrics,
        parts.event_types,
        settings.body_limit,
        parts.exposures if settings.experiments or settings.log_events else None,
        parts.popularity,
    )
    route_recalls(app, routes, events)
    route_service(app, routes, VersionRoutes(settings, engine, live))
    route_users(app, UserRoutes(parts.store))
    route_experiments(app, parts.scenarios, parts.experiments, live)
    route_slow(app)
    if settings.explorer:
        views = ExplorerRoutes(parts.store, live, settings.body_limit)
        route_explorer(app, routes, views, IndexQuality(engine))
    route_items(app, ItemRoutes(live, parts.items, parts.watcher, settings.body_limit))
    app.openapi = lambda: openapi(app)  # type: ignore[method-assign]


def _lifespan(parts: Parts) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Returns the start and the end of the application, with tasks that run in between."""
    background = [parts.scenarios.file.follow, parts.experiments.file.follow]
    background.append(parts.exposures.follow)
    if parts.popularity:
        background.append(parts.popularity.follow)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await parts.watcher.start()  # first, so that no recall returns a hidden item
        parts.engine.on_arm_gone = parts.live.drain_arm
        parts.engine.want(parts.experiments.versions)
        await parts.engine.start()
        parts.batcher.start()
        with suppress(StoreUnavailable):  # the log says at once what is wrong with the store
            await parts.store.ping()
        following = [asyncio.create_task(_keep_on(task)) for task in background]
        yield
        for task in following:
            task.cancel()
        await parts.live.drain()
        await parts.watcher.close()
        await parts.exposures.close()
        await parts.store.close()
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
