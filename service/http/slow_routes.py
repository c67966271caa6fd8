"""The operation that tells the slowest recent requests."""

from datetime import UTC, datetime

from fastapi import Response
from pydantic import BaseModel, Field
from pydantic_core import to_json

from service.http.bodies import json_response
from service.observability.slow_requests import SlowRequest, SlowRequests


class Slow(BaseModel):
    """A request that took long."""

    ended: datetime
    request_id: str = Field(description="the id by which the log knows it, too")
    route: str
    status: int
    ms: float = Field(description="milliseconds from its first byte to the last of its answer")
    stages: dict[str, float] = Field(
        description="milliseconds of each stage of a recall; empty for other requests"
    )
    trace_id: str | None = Field(
        description="the trace that has it; null without --tracing, or if it is not recorded"
    )


class SlowResponse(BaseModel):
    """The slowest requests of the last 5 to 10 minutes, the slowest first."""

    requests: list[Slow] = Field(
        description="of the front end that answered: each knows its own requests only"
    )


class SlowRoutes:
    """The operation on slow requests."""

    def __init__(self, slow: SlowRequests) -> None:
        self._slow = slow

    async def slow(self) -> Response:
        """Tells the 32 slowest requests of the last 5 to 10 minutes, with the time of their stages.

        Nothing in it tells of users. Probes and `/metrics` are left out.
        """
        requests = [_told(request) for request in self._slow.slowest()]
        return json_response(to_json(SlowResponse(requests=requests)))


def _told(request: SlowRequest) -> Slow:
    stages = {name: round(seconds * 1000, 3) for name, seconds in request.stages.items()}
    return Slow(
        ended=datetime.fromtimestamp(request.at, UTC),
        request_id=request.request_id,
        route=request.route,
        status=request.status,
        ms=round(request.seconds * 1000, 3),
        stages=stages,
        trace_id=request.trace_id,
    )
