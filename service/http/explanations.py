"""An answer with the steps behind it, as the explorer shows them."""

from collections.abc import Callable, Iterable
from typing import Any

from pydantic import BaseModel, Field
from pydantic_core import from_json, to_json

from service.http.schemas import RecallResponse
from service.recall.types import Explanation
from service.waiting import Answer


class HistoryItem(BaseModel):
    """An item of the history that the network read."""

    item_id: str
    metadata: dict[str, Any] | None = Field(None, description="present if with_metadata was given")


class Hit(HistoryItem):
    """An item that an interest found."""

    score: float = Field(description="inner product with the interest")


class InterestSteps(BaseModel):
    """One interest: what it found, and what was offered next."""

    hits: list[Hit] = Field(description="its best items, whatever the other interests found")
    offer: str | None = Field(
        description="the item that was offered before the next interest; null for the last one"
    )


class ExplanationSteps(BaseModel):
    """The steps behind an answer."""

    history: list[HistoryItem] = Field(description="as the network read it, oldest item first")
    interests: list[InterestSteps]
    related: list[list[str]] = Field(
        description="for each candidate the items of the history with the most similar vectors"
    )


class ExplainedResponse(RecallResponse):
    """Candidates, and the steps behind them."""

    explanation: ExplanationSteps


def with_explanation(result: bytes, answer: Answer, with_metadata: bool) -> bytes:
    """Returns the JSON of a `RecallResponse` as that of an `ExplainedResponse`."""
    assert answer.bundle
    assert answer.found.explanation
    found = Explanation(**from_json(answer.found.explanation))
    metadata_of = answer.bundle.items.metadata_of if with_metadata else None
    history = [item for item, _ in _items(found.history, metadata_of)]
    offers = [*found.offers, None]
    interests = [
        {
            "hits": [item | {"score": score} for item, score in _items(hits, metadata_of)],
            "offer": offer,
        }
        for hits, offer in zip(found.interests, offers, strict=False)
    ]
    told = {"history": history, "interests": interests, "related": found.related}
    return b'%b,"explanation":%b}' % (result[:-1], to_json(told))


def _items(
    items: Iterable[tuple[int, str, float]], metadata_of: Callable[[int], bytes] | None
) -> Iterable[tuple[dict[str, Any], float]]:
    """Yields items as `HistoryItem` has them, and their scores."""
    for row, item_id, score in items:
        item: dict[str, Any] = {"item_id": item_id}
        if metadata_of:
            item["metadata"] = from_json(metadata_of(row))
        yield item, score
