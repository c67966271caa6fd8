"""The operation that takes feedback of users."""

from collections.abc import Sequence
from typing import Any

from fastapi import Request, Response
from pydantic_core import to_json

from service.catalogue.popularity import RecentPopularity
from service.errors import FieldError, HistoryUnusable, StoreFailed
from service.experiments.log import ExperimentLog
from service.history.event_types import EventTypes
from service.history.store import HistoryStore, StoreProblem, StoreUnavailable
from service.http.bodies import json_response, read_body
from service.http.problems import MAX_LISTED
from service.http.schemas import Event, EventsRequest
from service.observability.metrics import Metrics

SEND_AGAIN = "send the same events again; one with a timestamp is not stored twice"
NOT_STORED = {
    StoreProblem.WRONG_TYPE: "not stored: a key of this user in the store is not a list; delete or "
    "repair it before you send this event again",
    StoreProblem.UNAVAILABLE: "not stored: the store refused it; send this event again",
}


class EventRoutes:
    """The operation on events."""

    def __init__(
        self,
        store: HistoryStore,
        metrics: Metrics,
        event_types: EventTypes,
        body_limit: int,
        log: ExperimentLog | None = None,
        popularity: RecentPopularity | None = None,
    ) -> None:
        """Takes the log of experiments, and the counts of popular items, if there are any."""
        self._store = store
        self._metrics = metrics
        self._types = event_types
        self._body_limit = body_limit
        self._log = log
        self._popularity = popularity

    async def events(self, request: Request) -> Response:
        """Appends to the users' histories, in the order of time if every event has one.

        The type says what an event does: a dislike excludes its item from the next answer on.
        200 means that all events are stored; 207 that some are, and `errors` says of each other
        what to do with it. After a 503 send the same events again: an event that was stored
        already, with the same user, item, type, timestamp and request_id, is not stored twice.
        Give every event a timestamp: an event without timestamp and request_id is told from a new
        one only by the front end that it was sent to before, and there may be several of them
        (`--http-workers`, replicas).
        """
        body = await read_body(request, EventsRequest, self._body_limit)
        errors = await self._append(body.events)
        for position, event in enumerate(body.events):
            if position not in errors:
                self._metrics.event(event.type)
        if self._popularity:
            taken = [event for at, event in enumerate(body.events) if at not in errors]
            await self._popularity.count([event.for_history() for event in taken])
        counted = sum(not self._types.of(event.type).is_stored for event in body.events)
        accepted = len(body.events) - len(errors)
        answer: dict[str, Any] = {"accepted": accepted, "stored": accepted - counted}
        if errors:
            answer["errors"] = [errors[position]._asdict() for position in sorted(errors)]
        return json_response(to_json(answer), status=207 if errors else 200)

    async def _append(self, events: Sequence[Event]) -> dict[int, FieldError]:
        """Stores events, and returns an error for each position whose event is not stored.

        Raises StoreFailed or HistoryUnusable if no event at all is acknowledged.
        """
        stored = [self._types.of(event.type).is_stored for event in events]
        order = [(event, i) for i, event in enumerate(events) if stored[i]]
        if all(event.timestamp is not None for event in events):
            order.sort(key=lambda entry: entry[0].moment)
        try:
            if self._log:
                await self._log.write_events([event.for_history() for event in events])
            problems = await self._store.append([event.for_history() for event, _ in order])
        except StoreUnavailable as error:
            self._metrics.refused_events.inc(StoreProblem.UNAVAILABLE.value, by=len(order))
            raise StoreFailed(f"the events could not be stored: {SEND_AGAIN}") from error
        errors = {}
        for (_, position), problem in zip(order, problems, strict=True):
            if problem:
                self._metrics.refused_events.inc(problem.value)
                errors[position] = FieldError(f"events.{position}", NOT_STORED[problem])
        if len(errors) == len(events):
            first = [errors[position] for position in sorted(errors)][:MAX_LISTED]
            if StoreProblem.UNAVAILABLE in problems:
                raise StoreFailed(f"no event was stored: {SEND_AGAIN}", first)
            raise HistoryUnusable(f"{first[0].where}: {first[0].problem}", first)
        return errors
