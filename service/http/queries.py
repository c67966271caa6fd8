"""Queries of the recall room from the bodies of requests."""

from service.http.schemas import AfterDays, RecallRequest
from service.recall.types import Query


def query_of(body: RecallRequest) -> tuple[Query, bool]:
    """Returns the query of a request, and whether its history is in the store."""
    stored = body.history is None
    query = Query(
        body.user_id,
        body.history or (),
        body.exclude,
        body.k,
        body.interests,
        _repeat_after_days(body, stored),
    )
    return query, stored


def _repeat_after_days(body: RecallRequest, stored: bool) -> float | None:
    """Returns `Query.repeat_after_days`; the items of a history in the request have no times."""
    if isinstance(body.repeats, AfterDays):
        return body.repeats.after_days if stored else None
    return 0.0 if body.repeats == "allow" else None
