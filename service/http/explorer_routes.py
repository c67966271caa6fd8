"""The operations behind the explorer's tabs, each bounded and none on the path of recalls."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Query as QueryParameter
from fastapi import Request, Response
from pydantic import BaseModel, Field
from pydantic_core import from_json

from model.ids import MAX_ID_LENGTH
from service.errors import StoreFailed
from service.experiments.recent import MAX_COUNTED, count_exposures
from service.history.store import HistoryStore, StoreUnavailable
from service.http.bodies import json_response, read_body
from service.http.live_versions import LiveVersions
from service.http.schemas import Body, Id
from service.recall.served_bundle import ServedBundle

MAX_HOURS = 24 * 7
HOUR = 3600.0
MAX_PLACES, MAX_OTHERS = 5000, 5000

Hours = Annotated[
    float, QueryParameter(gt=0, le=MAX_HOURS, description="hours before now that are counted")
]


class ArmExposures(BaseModel):
    """The answers of an arm of an experiment."""

    experiment: str
    arm: str
    answers: int
    users: int
    degraded: int = Field(description="answers that held popular items only")
    versions: dict[str, int] = Field(description="answers by each version")


class ExposuresResponse(BaseModel):
    """Answers to users of experiments, by arm. The log of the experiments is counted."""

    since: datetime
    complete: bool = Field(
        description=f"false: there are more than {MAX_COUNTED:,} answers, and the newest are not "
        "counted"
    )
    arms: list[ArmExposures]


class MapRequest(Body):
    """Items whose places on the map are wanted, and the number of others beside them."""

    items: list[Id] = Field(
        default_factory=list, max_length=MAX_PLACES, description="ids of items to look up"
    )
    others: int = Field(
        2000, ge=0, le=MAX_OTHERS, description="items of the catalogue beside them, always the same"
    )
    version: str | None = Field(
        None,
        max_length=MAX_ID_LENGTH,
        description="version whose map is wanted, which must answer recalls; null: the served one",
    )


class Place(BaseModel):
    """An item on the map."""

    item_id: str
    x: float = Field(description="from -1 to 1")
    y: float


class TitledPlace(Place):
    """An item on the map, with its title."""

    title: str = Field(description="the attribute `title`, or `name`, or the id")


class MapResponse(BaseModel):
    """The catalogue as a map, on which similar items lie near each other."""

    version: str
    available: bool = Field(description="false: the bundle was exported without a map")
    catalogue: int = Field(description="items of the catalogue")
    items: list[Place] = Field(description="those of the wanted items that the bundle has")
    others: list[TitledPlace]


class ExplorerRoutes:
    """The operations behind the tabs."""

    def __init__(self, store: HistoryStore, live: LiveVersions, body_limit: int) -> None:
        self._store = store
        self._live = live
        self._body_limit = body_limit

    async def map(self, request: Request) -> Response:
        """Tells where items lie on the map of the catalogue, and an even sample of others."""
        wanted = await read_body(request, MapRequest, self._body_limit)
        found = self._live.named(wanted.version) if wanted.version else self._live.of(())
        answer = await asyncio.to_thread(_map_of, found.bundle, wanted)
        return json_response(answer.model_dump_json().encode())

    async def exposures(self, hours: Hours = 24) -> Response:
        """Counts the answers of each arm that are in the log of the experiments."""
        since = time.time() - hours * HOUR
        try:
            found = await count_exposures(self._store, since)
        except StoreUnavailable as error:
            raise StoreFailed("the store is unavailable: try again") from error
        arms = [
            ArmExposures(experiment=experiment, arm=arm, **counts._asdict())
            for (experiment, arm), counts in found.arms.items()
        ]
        answer = ExposuresResponse(
            since=datetime.fromtimestamp(since, UTC), complete=found.complete, arms=arms
        )
        return json_response(answer.model_dump_json().encode())


def _map_of(bundle: ServedBundle, wanted: MapRequest) -> MapResponse:
    places_V2 = bundle.item_map
    if places_V2 is None:
        return MapResponse(
            version=bundle.version,
            available=False,
            catalogue=len(bundle.items),
            items=[],
            others=[],
        )

    def place(row: int) -> dict[str, float]:
        x, y = places_V2[row].tolist()
        return {"x": round(x, 4), "y": round(y, 4)}

    rows = {item: bundle.items.row(item) for item in wanted.items}
    return MapResponse(
        version=bundle.version,
        available=True,
        catalogue=len(bundle.items),
        items=[Place(item_id=item, **place(row)) for item, row in rows.items() if row >= 0],
        others=[
            TitledPlace(item_id=item, title=_title(bundle, item, row), **place(row))
            for item, row in bundle.items.sample(wanted.others)
        ],
    )


def _title(bundle: ServedBundle, item: str, row: int) -> str:
    attributes = from_json(bundle.items.metadata_of(row))
    return str(attributes.get("title") or attributes.get("name") or item)
