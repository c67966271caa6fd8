"""The operation that measures the served index: approximate hits beside exact ones.

A call measures a few interests of the sample that the export kept, one search after another, each
made by the engine when no recall waits. One call runs at a time in a front end.
"""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from fastapi import Query as QueryParameter
from fastapi import Response
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from service.batcher import WorkerLost
from service.errors import NotReady, QueueFull
from service.http.bodies import json_response
from service.http.engine import Engine, Try
from service.recall.trials import (
    PART_ITEMS,
    Trial,
    TrialResult,
    best_of,
    share_found,
    trial_depths,
)

MAX_INTERESTS = 8
MAX_HITS = 500
SECONDS = 10.0
"""Longest time for a call, most of which is the wait for moments without recalls."""

First = Annotated[
    int, QueryParameter(ge=0, le=1 << 20, description="first interest of the sample to measure")
]
Count = Annotated[
    int, QueryParameter(ge=1, le=MAX_INTERESTS, description="interests that this call measures")
]
Hits = Annotated[
    int, QueryParameter(ge=1, le=MAX_HITS, description="best hits that are looked for")
]


class IndexDepth(BaseModel):
    """The quality of the search at one depth."""

    lists: int = Field(description="lists that are searched; 0: the whole catalogue")
    served: bool = Field(description="whether a recall of this many hits searches them")
    recall: float = Field(description="share of the exact hits that are found, a mean")
    ms: float = Field(description="milliseconds of the search for one interest alone, the median")


class IndexQualityResponse(BaseModel):
    """The quality of the served index, by depth."""

    version: str
    kind: Literal["exact", "ivf", "gpu"] = Field(
        description="gpu: the search of a GPU, which is not measured"
    )
    items: int
    lists: int = Field(description="lists of the index; 0: it has none")
    hits: int
    sample: int = Field(description="interests of users that the export kept; 0: none")
    measured: int = Field(description="interests that this call measured")
    depths: list[IndexDepth] = Field(description="the fewest lists first")


class IndexQuality:
    """Measures the index of the served version."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._running = False

    async def index(self, first: First = 0, count: Count = 4, hits: Hits = 100) -> Response:
        """Searches the index at several depths, and compares the hits with exact ones.

        The interests are of users whose histories the export sampled. Recalls go first: if there is
        no moment without them, the answer is 503.
        """
        if self._running:
            raise QueueFull("the index is being measured already: try again later")
        bundle = self._engine.bundle
        if not bundle:
            raise NotReady(self._engine.problem())
        self._running = True
        try:
            async with asyncio.timeout(SECONDS), self._engine.trials() as make:
                answer = await _measure(make, bundle.version, first, count, hits)
        except TimeoutError:
            words = f"recalls left the engine no time within {SECONDS:g} s: try again later"
            raise NotReady(words) from None
        except WorkerLost as error:
            raise NotReady("the engine is being replaced: try again later") from error
        finally:
            self._running = False
        return json_response(answer.model_dump_json().encode())


async def _measure(
    make: Try, version: str, first: int, count: int, hits: int
) -> IndexQualityResponse:
    about = await make(Trial(first, hits, lists=None))
    depths = trial_depths(about)
    measured = max(0, min(count, about.sample - first))
    found: list[list[tuple[float, float]]] = []  # recall and seconds: for each interest, by depth
    for interest in range(first, first + measured):
        exact_F = await _exact_hits(make, interest, hits, about.items)
        results = [await make(Trial(interest, hits, lists)) for lists in depths]
        found.append([(share_found(one, exact_F), one.seconds) for one in results])
    return IndexQualityResponse(
        version=version,
        kind=about.kind,
        items=about.items,
        lists=about.lists,
        hits=min(hits, about.items),
        sample=about.sample,
        measured=measured,
        depths=_depths(about, depths, found) if found else [],
    )


async def _exact_hits(make: Try, interest: int, hits: int, items: int) -> NDArray[np.int32]:
    """Returns the rows of the exact hits, which are looked for in one part after another."""
    parts = [
        await make(Trial(interest, hits, None, begin)) for begin in range(0, items, PART_ITEMS)
    ]
    return best_of(parts, hits)


def _depths(
    about: TrialResult, depths: Sequence[int], found: Sequence[Sequence[tuple[float, float]]]
) -> list[IndexDepth]:
    recalls, seconds = np.moveaxis(np.array(found), 2, 0)  # each: interests, depths
    return [
        IndexDepth(
            lists=lists,
            served=lists == about.served_lists,
            recall=round(float(recalls[:, at].mean()), 4),
            ms=round(float(np.median(seconds[:, at])) * 1000, 4),
        )
        for at, lists in enumerate(depths)
    ]
