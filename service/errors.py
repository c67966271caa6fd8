"""The errors that end a request. `service.http.problems` maps each of them to a status of HTTP.

ServiceError            the recall itself failed
├── BadRequest          the body is not JSON, not UTF-8, or missing
├── ClientGone          the client left before its body or the answer was complete
├── TooSlow             the body did not arrive in time
├── TooLarge            the body has more bytes than the limit
├── UnsupportedEncoding the body is compressed
├── Invalid             the body is JSON, but not what the operation takes
├── QueueFull           more recalls wait than the limit
├── NotReady            the service is starting or draining, or lacks its store
├── UnknownItem         the served bundle has no item of this id
├── StoreFailed         events or changes could not be stored for now
├── HistoryUnusable     events cannot be stored until keys in the store are repaired
├── StoreConflict       a change cannot be stored beside what the store holds
└── DeadlinePassed      the recall waited longer than the deadline
"""

from collections.abc import Sequence
from typing import NamedTuple


class FieldError(NamedTuple):
    """One thing that is wrong with a body."""

    where: str
    """Path of the field, as in `events.0.item_id`."""
    problem: str


class ServiceError(Exception):
    """An error that the client is told about in words. Its detail never repeats the input."""

    def __init__(self, detail: str, fields: Sequence[FieldError] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fields = fields


class BadRequest(ServiceError):
    """The body is not JSON, not UTF-8, or missing."""


class ClientGone(ServiceError):
    """The client left before its body, or the answer, was complete."""


class TooSlow(ServiceError):
    """The body did not arrive in time."""


class TooLarge(ServiceError):
    """The body has more bytes than the limit."""


class UnsupportedEncoding(ServiceError):
    """The body is compressed."""


class Invalid(ServiceError):
    """The body is JSON, but not what the operation takes."""


class QueueFull(ServiceError):
    """The queue holds as many recalls as it may."""


class NotReady(ServiceError):
    """The service is starting or draining, or lacks its store."""


class UnknownItem(ServiceError):
    """The served bundle has no item of this id."""


class StoreFailed(ServiceError):
    """Events or changes could not be stored for now; none was acknowledged."""


class StoreConflict(ServiceError):
    """A change cannot be stored: a key has another type, or too many items are hidden."""


class HistoryUnusable(ServiceError):
    """No event of a call can be stored, because the users' keys in the store are not lists."""


class VersionRefused(ServiceError):
    """The version that is to be served cannot be, so the one before stays."""


class DeadlinePassed(ServiceError):
    """The recall waited longer than the deadline."""
