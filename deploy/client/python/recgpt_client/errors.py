"""Errors of the client.

RecGPTError
├── ServiceError          the service answered with a problem document
├── ServiceUnavailable    no answer could be had: the connection failed, or the answer is not JSON
└── DeadlineExceeded      no answer within the deadline
"""

from collections.abc import Sequence

from recgpt_client.answers import FieldProblem

REPEATED = (408, 429, 502, 503, 504)
"""Statuses after which another try makes sense: late, overloaded, starting, or behind a gateway."""


class RecGPTError(Exception):
    """Any error of this client."""


class ServiceUnavailable(RecGPTError):
    """The service could not be reached, or what answered is not it."""


class DeadlineExceeded(RecGPTError):
    """No answer came within the deadline."""


class ServiceError(RecGPTError):
    """The service refused the request; `detail` says why and what to do."""

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[FieldProblem] = (),
        request_id: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail
        self.errors = tuple(errors)
        """The problems field by field."""
        self.request_id = request_id
        """The id under which the log of the service knows the request."""
        self.retry_after = retry_after
        """Seconds after which the service wants to be asked again; None if it does not say."""


def is_passing(error: RecGPTError) -> bool:
    """Returns whether another try makes sense."""
    if isinstance(error, ServiceError):
        return error.status in REPEATED
    return isinstance(error, ServiceUnavailable)
