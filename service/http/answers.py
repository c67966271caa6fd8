"""Answers to recalls as JSON, around the candidates that the engine has encoded already."""

from collections.abc import Sequence
from dataclasses import replace

from fastapi import Request
from pydantic_core import to_json

from service.errors import FieldError, Invalid
from service.experiments.assignment import Assignment
from service.http.explanations import with_explanation
from service.http.pages import Page, Pages
from service.http.schemas import RecallRequest
from service.recall.served_bundle import ServedBundle
from service.recall.types import DegradedReason, FilterResult, VarietyResult
from service.waiting import Answer


def recall_response(
    request: Request,
    body: RecallRequest,
    answer: Answer,
    pages: Pages,
    arms: Sequence[Assignment] = (),
) -> bytes:
    """Returns a `RecallResponse` in JSON."""
    found, reason, bundle = answer.found, answer.degraded_reason, answer.bundle
    assert bundle
    more = (_effect(found.filter) if found.filter else b"") + (_arms(arms) if arms else b"")
    if found.variety:
        more += _variety(found.variety)
    if body.page_size is not None:
        named = [(one.experiment, one.arm) for one in arms]
        user = (body.user_id or "") if named else ""
        page = pages.first(found, body.page_size, bundle.version, reason, user, named)
        found = replace(found, json=page.json, rows=page.rows)
        more += _cursor(page)
    items = bundle.items.added_to(found.json, found.rows) if body.with_metadata else found.json
    result = _response(request, bundle.version, items, reason, found.unknown_items, more)
    return with_explanation(result, answer, body.with_metadata) if found.explanation else result


def page_response(
    request: Request, body: RecallRequest, page: Page, bundle: ServedBundle | None
) -> bytes:
    """Returns a `RecallResponse` in JSON for a page after the first.

    Raises Invalid if it needs metadata of a version that is not served any more.
    """
    items = page.json
    if body.with_metadata:
        if not bundle or bundle.version != page.version:
            words = "its version is not served any more: begin again, or omit with_metadata"
            raise Invalid(f"cursor: {words}", [FieldError("cursor", words)])
        items = bundle.items.added_to(page.json, page.rows)
    reason, unknown = page.degraded_reason, page.unknown_items
    return _response(request, page.version, items, reason, unknown, _cursor(page))


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


def _cursor(page: Page) -> bytes:
    """Returns the field `cursor` of a `RecallResponse`."""
    return b',"cursor":%b' % to_json(page.cursor)


def _arms(arms: Sequence[Assignment]) -> bytes:
    """Returns the field `experiments` of a `RecallResponse`."""
    told = [{"experiment": one.experiment, "arm": one.arm} for one in arms]
    return b',"experiments":%b' % to_json(told)


def _effect(effect: FilterResult) -> bytes:
    """Returns the field `filter` of a `RecallResponse`."""
    exhausted = b"true" if effect.exhausted else b"false"
    return b',"filter":{"matched":%d,"exhausted":%b}' % (effect.matched, exhausted)


def _variety(effect: VarietyResult) -> bytes:
    """Returns the field `variety` of a `RecallResponse`."""
    scores = {"score": round(effect.score, 6), "plain_score": round(effect.plain_score, 6)}
    return b',"variety":%b' % to_json(scores | {"exhausted": effect.exhausted})
