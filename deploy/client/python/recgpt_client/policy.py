"""When a request is sent again, and how long it may take: without I/O, for both clients."""

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx

from recgpt_client.answers import FieldProblem
from recgpt_client.errors import (
    DeadlineExceeded,
    RecGPTError,
    ServiceError,
    ServiceUnavailable,
    is_passing,
)
from recgpt_client.requests import Answer, Request

MAX_DEADLINE_MS = 60_000


@dataclass(frozen=True)
class Policy:
    """How a client waits and tries again."""

    timeout: float = 1.0
    """Seconds in which an answer must be there, all tries together."""
    attempts: int = 3
    """Tries of a request; 1: none is repeated."""
    first_pause: float = 0.05
    """The longest random pause before the second try, in seconds; it doubles before each next."""
    longest_pause: float = 2.0
    hedge_after: float | None = None
    """Seconds after which a recall without an answer is sent once more, and the first answer
    counts. It makes slow answers rarer and load higher, so it is off by default."""

    def __post_init__(self) -> None:
        """Raises ValueError for times and numbers that make no sense."""
        if self.timeout <= 0:
            raise ValueError(f"timeout: {self.timeout} s is not positive")
        if self.attempts < 1:
            raise ValueError(f"attempts: {self.attempts} is below 1")
        if self.first_pause < 0 or self.longest_pause < 0:
            raise ValueError("first_pause, longest_pause: give 0 s or more")
        if self.hedge_after is not None and self.hedge_after <= 0:
            raise ValueError(f"hedge_after: {self.hedge_after} s is not positive")


class Attempts:
    """The tries of one request within its deadline."""

    def __init__(self, request: Request[Any], policy: Policy, timeout: float | None) -> None:
        self._request = request
        self._policy = policy
        self._timeout = policy.timeout if timeout is None else timeout
        self._end = time.monotonic() + self._timeout
        self._left = policy.attempts if request.can_repeat else 1
        self._id = uuid4().hex  # of all tries: experiments count what is asked twice once

    def remaining(self) -> float:
        """Returns the seconds that are left. Raises DeadlineExceeded if there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded(f"no answer within {self._timeout:g} s")
        return left

    def headers(self) -> dict[str, str]:
        """Returns the headers of the next try: the service is told how long it may take."""
        headers = {"x-request-id": self._id}
        if self._request.body is not None:
            headers["content-type"] = "application/json"
        if self._request.takes_deadline:
            milliseconds = int(self.remaining() * 1000)
            headers["x-deadline-ms"] = str(min(max(milliseconds, 1), MAX_DEADLINE_MS))
        return headers

    def pause_after(self, error: RecGPTError) -> float:
        """Returns the seconds to wait before the next try; raises the error if there is none."""
        self._left -= 1
        if not self._left or not is_passing(error):
            raise error
        doubled = self._policy.first_pause * 2 ** (self._policy.attempts - self._left - 1)
        pause = random.uniform(0, min(doubled, self._policy.longest_pause))
        if isinstance(error, ServiceError) and error.retry_after is not None:
            pause += error.retry_after  # spread, so that clients do not come back together
        if time.monotonic() + pause >= self._end:
            raise error  # the deadline would pass while waiting: say now what is wrong
        return pause


def answer_of(request: Request[Answer], response: httpx.Response) -> Answer:
    """Returns what a response says. Raises ServiceError, or ServiceUnavailable if it is unfit."""
    if response.status_code >= 400:
        raise _refusal(response)
    try:
        return request.read(response.json())
    except (ValueError, KeyError, TypeError) as error:
        words = f"{request.method} {request.path}: the answer is not one of RecGPT ({error!r})"
        raise ServiceUnavailable(words) from error


def transport_error(error: httpx.HTTPError) -> RecGPTError:
    """Returns the error for a request that got no response."""
    if isinstance(error, httpx.TimeoutException):
        return DeadlineExceeded(f"no answer in time ({type(error).__name__})")
    return ServiceUnavailable(f"no answer: {error or type(error).__name__}")


def _refusal(response: httpx.Response) -> ServiceError:
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    if not isinstance(problem, Mapping):
        problem = {}
    errors = [FieldProblem(e["where"], e["problem"]) for e in problem.get("errors") or ()]
    return ServiceError(
        response.status_code,
        str(problem.get("detail") or response.reason_phrase),
        errors,
        str(problem.get("request_id", response.headers.get("x-request-id", ""))),
        _seconds(response.headers.get("retry-after")),
    )


def _seconds(text: str | None) -> float | None:
    """Returns the seconds of a Retry-After; None without one, or for a date."""
    return float(text) if text and text.isdigit() and len(text) < 7 else None
