"""Queries of the recall room from the bodies of requests."""

from collections.abc import Sequence
from typing import NamedTuple, cast

from model.network.config import MAX_OFFERS
from service.errors import FieldError, Invalid
from service.experiments.assignment import Assignment
from service.http.filters import checked_form
from service.http.live_versions import LiveVersion
from service.http.schemas import AfterDays, PastItem, RecallRequest, Seed
from service.http.variety import checked_rules
from service.recall.served_bundle import ServedBundle
from service.recall.types import UNTOLD, Query


class Asked(NamedTuple):
    """A recall that is asked for, with the fields of the user's arms and of its scenario."""

    body: RecallRequest
    arms: list[Assignment]
    version: LiveVersion
    query: Query
    is_stored: bool
    """Whether the history is in the store."""


def checked(
    body: RecallRequest, arms: list[Assignment], version: LiveVersion, where: str = ""
) -> Asked:
    """Returns a recall that this version can answer. Raises Invalid if a field does not fit it."""
    bundle = version.bundle
    if (body.interests or 0) > bundle.max_interests:
        raise Invalid(f"interests: this bundle generates at most {bundle.max_interests}")
    return Asked(body, arms, version, *query_of(body, bundle, where))


def query_of(body: RecallRequest, bundle: ServedBundle, where: str = "") -> tuple[Query, bool]:
    """Returns the query of a request, and whether its history is in the store.

    The stored history then goes before the one of the query, which has only the seeds. Raises
    Invalid if a field does not fit the bundle's attributes, or if its network cannot be asked for
    the outcome; `where` is the path of the request.
    """
    if body.outcome is not None and body.outcome not in bundle.outcomes:
        known = ", ".join(bundle.outcomes) or "none: its network reads no outcomes"
        words = f"The bundle cannot be asked for {body.outcome!r}; it can be for {known}"
        raise Invalid(f"{where}outcome: {words}", [FieldError(f"{where}outcome", words)])
    stored = body.history is None and body.user_id is not None
    history, actions = _ids_and_actions(body.history or ())
    exclude = body.exclude
    if body.seeds:
        seeds = _lightest_first(body.seeds)
        history = [*history, *seeds]
        exclude = [*exclude, *seeds]  # whatever `repeats` says
    query = Query(
        body.user_id or "",
        history,
        exclude,
        body.k,
        body.interests,
        _repeat_after_days(body, stored),
        actions=actions,
        filter=checked_form(body.filter, bundle.attributes, where) if body.filter else None,
        outcome=body.outcome,
        variety=checked_rules(body.caps, body.diversity, body.fresh, bundle.attributes, where),
        offers=_newest_first(body.offers) if body.offers else (),
        popular=body.popular,
    )
    return (query.without_network() if body.popular else query), stored


def _ids_and_actions(
    history: Sequence[str | PastItem],
) -> tuple[Sequence[str], Sequence[str]]:
    """Returns the ids of a history, and the types of its events if it has any."""
    told = {type(one) for one in history}
    if told <= {str}:
        return cast(Sequence[str], history), ()
    pairs = [(one, UNTOLD) if isinstance(one, str) else (one.item_id, one.type) for one in history]
    return [item for item, _ in pairs], [action for _, action in pairs]


def _newest_first(offers: Sequence[str]) -> list[bytes]:
    """Returns the newest of offers, each once, as the store has them."""
    newest = list(dict.fromkeys(reversed(offers)))[:MAX_OFFERS]
    return [item.encode(errors="surrogatepass") for item in newest]


def _lightest_first(seeds: Sequence[str | Seed]) -> list[str]:
    """Returns the ids of seeds by rising weight, because the newest item counts most."""
    weighed = [
        (1.0, seed) if isinstance(seed, str) else (seed.weight, seed.item_id) for seed in seeds
    ]
    return [item for _, item in sorted(weighed, key=lambda pair: pair[0])]


def _repeat_after_days(body: RecallRequest, stored: bool) -> float | None:
    """Returns `Query.repeat_after_days`; the items of a history in the request have no times."""
    if body.repeats == "never":
        return None
    if isinstance(body.repeats, AfterDays):
        return body.repeats.after_days if stored else None
    return 0.0
