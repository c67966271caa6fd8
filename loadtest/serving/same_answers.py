"""A check that two services give the same candidates, before their speed is compared.

Scores are computed by different arithmetic, so items of nearly equal scores may change places, and
at the end of an interest's quota one may stand for another. Everything else is a difference. (A
bundle whose index is approximate gives other answers than the naive service's exact search.)
"""

import json
import urllib.request
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

TOLERANCE = 2e-4  # between the scores of one item in both services; scores have a size of about 5
SHARE = 0.99  # of the users, whose answers are the same up to ties: a tie may decide what follows


def share_of_same_answers(
    one: int, other: int, questions: Sequence[Any]
) -> tuple[float, list[str]]:
    """Sends the questions to the services on two ports.

    Returns the share of the same answers, and a sentence about each that differs.
    """
    differences = []
    for question in questions:
        answers = (json.loads(recall(port, question))["items"] for port in (one, other))
        if difference := differ(*answers):
            differences.append(f"{question}: {difference}")
    return 1 - len(differences) / len(questions), differences


def recall(port: int, question: Any) -> bytes:
    """Returns the body of an answer of POST /recall."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/recall",
        json.dumps(question).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        body: bytes = answer.read()
    return body


def differ(one: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> str | None:
    """Returns the first difference that is no tie, or None if the candidates are the same."""
    first, second = _by_interest(one), _by_interest(other)
    if {key: len(of) for key, of in first.items()} != {key: len(of) for key, of in second.items()}:
        return f"candidates of interests {list(first)} and {list(second)} differ in number"
    for interest, scores in first.items():
        others = second[interest]
        pairs = zip(scores.values(), others.values(), strict=True)
        for place, (score, other_score) in enumerate(pairs):
            if abs(score - other_score) > TOLERANCE:
                return f"interest {interest}, place {place}: score {score} and {other_score}"
        last, other_last = min(scores.values()), min(others.values())
        for item in scores | others:  # an item that is missing may be tied with the last one
            score, other_score = scores.get(item, last), others.get(item, other_last)
            if abs(score - other_score) > TOLERANCE:
                return f"interest {interest}, item {item}: score {score} and {other_score}"
    return None


def _by_interest(items: Sequence[dict[str, Any]]) -> dict[int, dict[str, float]]:
    """Returns the scores by item of each interest, in the order of the answer."""
    lists: dict[int, dict[str, float]] = defaultdict(dict)
    for item in items:
        lists[item["interest"]][item["item_id"]] = item["score"]
    return lists
