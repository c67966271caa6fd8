"""Answers to recalls as JSON, around the candidates that the engine has encoded already."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from fastapi import Request
from pydantic_core import to_json

from service.errors import FieldError, Invalid
from service.experiments.assignment import Assignment
from service.experiments.team_draft import INTERLEAVED
from service.http.drafts import with_metadata_of_teams
from service.http.explanations import with_explanation
from service.http.pages import Page, Pages
from service.http.schemas import RecallRequest
from service.recall.served_bundle import ServedBundle
from service.recall.types import DegradedReason, FilterResult, VarietyResult
from service.waiting import Answer

NO_TEAMS: Mapping[str, ServedBundle] = {}


def first_page(
    body: RecallRequest,
    answer: Answer,
    pages: Pages,
    arms: Sequence[Assignment] = (),
    teams: Mapping[str, ServedBundle] = NO_TEAMS,
) -> Page | None:
    """Returns the first page of an answer; None if the request does not ask for pages.

    Raises Invalid if its cursor would be too long.
    """
    if body.page_size is None:
        return None
    named = [(one.experiment, one.arm) for one in arms]
    user = (body.user_id or "") if named else ""
    about = answer.version, answer.degraded_reason, user, named, tuple(_versions(teams).items())
    return pages.first(answer.found, body.page_size, *about)


def recall_response(
    request: Request,
    body: RecallRequest,
    answer: Answer,
    page: Page | None,
    arms: Sequence[Assignment] = (),
    teams: Mapping[str, ServedBundle] = NO_TEAMS,
) -> bytes:
    """Returns a `RecallResponse` in JSON.

    `page` is the first one of the answer, if it has pages, and `teams` are the bundles of each team
    in a draft of two versions.
    """
    found, reason, bundle = answer.found, answer.degraded_reason, answer.bundle
    assert bundle
    more = _effect(found.filter) if found.filter else b""
    if arms:
        more += _arms(arms, _versions(teams))
    if found.variety:
        more += _variety(found.variety)
    if page:
        found = replace(found, json=page.json, rows=page.rows)
        more += _cursor(page)
    items = found.json
    if body.with_metadata and teams:
        items = with_metadata_of_teams(items, found.rows, teams)
    elif body.with_metadata:
        items = bundle.items.added_to(items, found.rows)
    result = _response(request, bundle.version, items, reason, found.unknown_items, more)
    return with_explanation(result, answer, body.with_metadata) if found.explanation else result


def page_response(
    request: Request,
    body: RecallRequest,
    page: Page,
    bundle_of: Callable[[str], ServedBundle | None],
) -> bytes:
    """Returns a `RecallResponse` in JSON for a page after the first.

    Takes how to find the bundle of a version that is served. Raises Invalid if the page needs
    metadata of one that is not served any more.
    """
    items = page.json
    if body.with_metadata and page.teams:
        teams = {team: _served(version, bundle_of) for team, version in page.teams}
        items = with_metadata_of_teams(items, page.rows, teams)
    elif body.with_metadata:
        items = _served(page.version, bundle_of).items.added_to(items, page.rows)
    reason, unknown = page.degraded_reason, page.unknown_items
    return _response(request, page.version, items, reason, unknown, _cursor(page))


def _served(version: str, bundle_of: Callable[[str], ServedBundle | None]) -> ServedBundle:
    """Returns the bundle of a cursor's version. Raises Invalid if it is served no more."""
    if bundle := bundle_of(version):
        return bundle
    words = "its version is not served any more: begin again, or omit with_metadata"
    raise Invalid(f"cursor: {words}", [FieldError("cursor", words)])


def _response(
    request: Request,
    version: str,
    items: bytes,
    reason: DegradedReason | None,
    unknown_items: int,
    more: bytes,
) -> bytes:
    """Returns the JSON of these fields. Nothing that is put between quotes needs escapes."""
    return (
        b'{"request_id":"%b","version":%b,"items":%b,"degraded":%b,"degraded_reason":%b,'
        b'"unknown_items":%d%b}'
    ) % (
        request.scope["state"]["request_id"].encode(),
        to_json(version),
        items,
        b"true" if reason else b"false",
        b'"%b"' % reason.encode() if reason else b"null",
        unknown_items,
        more,
    )


def _versions(teams: Mapping[str, ServedBundle]) -> dict[str, str]:
    """Returns the version of each team."""
    return {team: bundle.version for team, bundle in teams.items()}


def _cursor(page: Page) -> bytes:
    """Returns the field `cursor` of a `RecallResponse`."""
    return b',"cursor":%b' % to_json(page.cursor)


def _arms(arms: Sequence[Assignment], versions: Mapping[str, str]) -> bytes:
    """Returns the field `experiments` of a `RecallResponse`."""
    told: list[dict[str, object]] = [{"experiment": one.experiment, "arm": one.arm} for one in arms]
    for one in told:
        if versions and one["arm"] == INTERLEAVED:
            one["versions"] = versions
    return b',"experiments":%b' % to_json(told)


def _effect(effect: FilterResult) -> bytes:
    """Returns the field `filter` of a `RecallResponse`."""
    exhausted = b"true" if effect.exhausted else b"false"
    return b',"filter":{"matched":%d,"exhausted":%b}' % (effect.matched, exhausted)


def _variety(effect: VarietyResult) -> bytes:
    """Returns the field `variety` of a `RecallResponse`."""
    scores = {"score": round(effect.score, 6), "plain_score": round(effect.plain_score, 6)}
    return b',"variety":%b' % to_json(scores | {"exhausted": effect.exhausted})
