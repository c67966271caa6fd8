"""Simulated users of a running service: they recall, look, click, and send events.

All goes through HTTP, as with real users, so that assignment, exposures, events and the report are
what is tested. Only the clicks are made up, by `service.experiments.click_model`.
"""

import json
import logging
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from service.experiments.click_model import ClickModel

log = logging.getLogger(__name__)

CLIENTS = 8
"""Users who are answered at the same time."""
TRIES = 10
TIMEOUT_S = 60.0
AWAY_S = 1.0
"""Pause before an unavailable service is asked again."""


class Unavailable(ValueError):
    """Nothing answers at the address of the service, or it stays too busy to answer."""


@dataclass(frozen=True)
class Simulation:
    """A running service, and the behaviour of its users."""

    url: str
    visits: float
    """Mean number of recalls of a user: at least one, and a Poisson number more."""
    k: int
    """Items that a recall shows."""
    lifts: Mapping[str, float]
    """Planted effects: the factor of all click probabilities in an arm."""
    seed: int
    rate: float | None = None
    """Mean number of recalls a second; None: as many as the service answers."""

    def run(self, model: ClickModel, users: Sequence[str]) -> Counter[str]:
        """Lets the users visit the service; returns `recalls` and `clicks`, and those by arm.

        Raises ValueError if the service cannot be used, or runs no experiment.
        """
        if not get(self.url, "/experiments")["experiments"]:
            raise ValueError(f"{self.url} runs no experiment: start it with --experiments FILE")
        pool = ThreadPoolExecutor(CLIENTS)
        try:
            return sum(pool.map(lambda user: self._user(model, user), users), Counter[str]())
        finally:
            pool.shutdown(cancel_futures=True)

    def endless(self, model: ClickModel, users: Sequence[str]) -> Iterator[Counter[str]]:
        """Lets the users come again and again; yields the counts of each round.

        It waits for a service that is unavailable. Raises ValueError as `run` does otherwise.
        """
        seed, waiting = self.seed, False
        while True:
            try:
                counts = replace(self, seed=seed).run(model, users)
            except Unavailable as error:
                if not waiting:
                    log.info("%s; the users wait", error)
                waiting = True
                time.sleep(AWAY_S)
            else:
                seed, waiting = seed + 1, False
                yield counts

    def _user(self, model: ClickModel, user: str) -> Counter[str]:
        rng = np.random.default_rng([self.seed, model.user_rows[user]])
        counts: Counter[str] = Counter()
        for _ in range(1 + rng.poisson(max(self.visits - 1, 0))):
            if self.rate:
                time.sleep(rng.exponential(CLIENTS / self.rate))
            answer = post(self.url, "/recall", {"user_id": user, "k": self.k})
            items = [item["item_id"] for item in answer["items"]]
            chances_K = model.chances(user, items)
            arms = [one["arm"] for one in answer.get("experiments", [])]
            for arm in arms:
                chances_K = chances_K * self.lifts.get(arm, 1.0)
            clicked = np.flatnonzero(rng.random(len(items)) < chances_K)
            if len(clicked):
                self._click(user, [items[at] for at in clicked], answer["request_id"])
            for name in ("", *(f" of {arm}" for arm in arms)):
                counts[f"recalls{name}"] += 1
                counts[f"clicks{name}"] += len(clicked)
        return counts

    def _click(self, user: str, items: Sequence[str], request_id: str) -> None:
        about = {"user_id": user, "type": "click", "request_id": request_id}
        at = time.time()
        events = [about | {"item_id": item, "timestamp": at} for item in items]
        post(self.url, "/events", {"events": events})


def post(url: str, path: str, body: Mapping[str, Any]) -> Any:
    """Sends a request, again while the service is busy; returns the answer.

    Raises Unavailable if there is no answer, ValueError if the request fails.
    """
    return _ask(url, path, json.dumps(body).encode())


def get(url: str, path: str) -> Any:
    """Asks for a resource, again while the service is busy; returns the answer.

    Raises Unavailable if there is no answer, ValueError if the request fails.
    """
    return _ask(url, path, None)


def _ask(url: str, path: str, body: bytes | None) -> Any:
    request = urllib.request.Request(
        url.rstrip("/") + path, body, {"content-type": "application/json"}
    )
    for attempt in range(1, TRIES + 1):
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            busy = error.code in (429, 503, 504)
            if not busy or attempt == TRIES:
                detail = error.read().decode(errors="replace")
                kind = Unavailable if busy else ValueError
                raise kind(f"{url}{path} answered {error.code}: {detail}") from error
            time.sleep(0.5 * attempt)
        except OSError as error:
            raise Unavailable(f"{url}{path} can't be asked: {error}") from error
    raise AssertionError
