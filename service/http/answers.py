"""Answers to recalls as JSON, around the candidates that the engine has encoded already."""

from fastapi import Request
from pydantic_core import to_json

from service.batcher import Answer
from service.http.explanations import with_explanation
from service.http.schemas import RecallRequest
from service.recall.types import FilterResult


def recall_response(request: Request, body: RecallRequest, answer: Answer) -> bytes:
    """Returns a `RecallResponse` in JSON. Nothing that is put between quotes needs escapes."""
    found, reason, bundle = answer.found, answer.degraded_reason, answer.bundle
    assert bundle
    result = (
        b'{"request_id":"%b","version":%b,"items":%b,"degraded":%b,"degraded_reason":%b,'
        b'"unknown_items":%d%b}'
    ) % (
        request.scope["state"]["request_id"].encode(),
        to_json(bundle.version),
        bundle.metadata.added_to(found.json, found.rows) if body.with_metadata else found.json,
        b"true" if reason else b"false",
        b'"%b"' % reason.encode() if reason else b"null",
        found.unknown_items,
        _effect(found.filter) if found.filter else b"",
    )
    return with_explanation(result, answer, body.with_metadata) if found.explanation else result


def _effect(effect: FilterResult) -> bytes:
    """Returns the field `filter` of a `RecallResponse`."""
    exhausted = b"true" if effect.exhausted else b"false"
    return b',"filter":{"matched":%d,"exhausted":%b}' % (effect.matched, exhausted)
