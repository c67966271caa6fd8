"""Which of the ways to search a catalogue on GPUs is the fastest here: measured when it is loaded.

Shapes: B batch, V catalogue, D width, C closed rows.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import faiss
import numpy as np
import torch
from torch import Tensor

from index.build import LARGE
from index.index_json import QUERIES_FILE, read_card
from service.recall.gpu.faiss_search import FaissFlat, FaissLists
from service.recall.gpu.search import CLOSED, HITS, Search, Shards, WholeScores

log = logging.getLogger(__name__)

TRIAL_USERS = 64


class Approximate(NamedTuple):
    """What a search may leave out, and what that is measured with."""

    target: float  # share of the exact hits
    queries_BD: Tensor

    @classmethod
    def of(cls, bundle: Path) -> Self | None:
        """As the export of this bundle was asked for; None: nothing may be left out."""
        card, file = read_card(bundle), bundle / QUERIES_FILE
        if card["asked"] not in ("auto", "ivf") or not file.exists():
            return None
        return cls(card["target"], torch.from_numpy(np.load(file, allow_pickle=False)))


def fastest_search(
    vectors_VD: Tensor, devices: Sequence[torch.device], approximate: Approximate | None = None
) -> Search:
    """What searches these on the devices: of the ways on one GPU the one that is fastest now."""
    if len(devices) > 1:
        return Shards(vectors_VD, devices)
    whole = WholeScores(vectors_VD)
    if vectors_VD.device.type == "cpu":
        return whole
    if not hasattr(faiss, "StandardGpuResources"):
        log.warning("this Faiss has no GPU part: whole scores are used (the extra `gpu` has one)")
        return whole
    searches: list[Search] = [whole, FaissFlat(vectors_VD, otherwise=whole)]
    if approximate and len(vectors_VD) >= LARGE:
        searches += by_lists(vectors_VD, whole, approximate)
    return fastest(searches, vectors_VD)


def by_lists(vectors_VD: Tensor, exact: Search, approximate: Approximate) -> list[Search]:
    """The search by lists, where it finds enough."""
    target, queries_BD = approximate
    lists = FaissLists(vectors_VD, exact, queries_BD.to(vectors_VD.device), target)
    enough = lists.recall >= target
    log.info("by lists %.4f of the hits are found%s", lists.recall, "" if enough else ": too few")
    return [lists] if enough else []


def fastest(searches: Sequence[Search], vectors_VD: Tensor) -> Search:
    """That of them which takes the least time; items count as interests."""
    seconds = [_seconds(search, vectors_VD) for search in searches]
    for search, taken in zip(searches, seconds, strict=True):
        log.info("%s: %.2f ms for %d users", type(search).__name__, 1000 * taken, TRIAL_USERS)
    return searches[seconds.index(min(seconds))]


def _seconds(search: Search, vectors_VD: Tensor) -> float:
    """The least that several searches take."""
    interest_BD = vectors_VD[:TRIAL_USERS]
    closed_BC = torch.full((len(interest_BD), CLOSED), -1, device=vectors_VD.device)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        _, scores_BF = search.hits(interest_BD, closed_BC, HITS)
        scores_BF[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - started)
    return best
