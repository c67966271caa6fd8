"""Client of the RecGPT recall service.

`Client` and `AsyncClient` ask the service; `EventSender` and `AsyncEventSender` send events in
the background. The only dependency is httpx.
"""

from recgpt_client.answers import (
    Accepted,
    Arm,
    Candidate,
    FieldProblem,
    FilterEffect,
    Item,
    Ready,
    Recall,
    StoredEvent,
    VarietyEffect,
)
from recgpt_client.asynchronous import AsyncClient
from recgpt_client.errors import DeadlineExceeded, RecGPTError, ServiceError, ServiceUnavailable
from recgpt_client.event_queue import Event
from recgpt_client.event_sender import AsyncEventSender, EventSender
from recgpt_client.policy import Policy
from recgpt_client.requests import Cap, Condition, Filter, Fresh, Repeats, Seed
from recgpt_client.synchronous import Client

__all__ = [
    "Accepted",
    "Arm",
    "AsyncClient",
    "AsyncEventSender",
    "Candidate",
    "Cap",
    "Client",
    "Condition",
    "DeadlineExceeded",
    "Event",
    "EventSender",
    "FieldProblem",
    "Filter",
    "FilterEffect",
    "Fresh",
    "Item",
    "Policy",
    "Ready",
    "RecGPTError",
    "Recall",
    "Repeats",
    "Seed",
    "ServiceError",
    "ServiceUnavailable",
    "StoredEvent",
    "VarietyEffect",
]
