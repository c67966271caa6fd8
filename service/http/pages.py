"""Pages: the candidates of one recall, given out in parts.

A recall with `page_size` returns its first candidates and a cursor, which holds the others. So no
page repeats a candidate or skips one, whatever happens between two pages, and the service keeps no
state. Items that were hidden meanwhile are left out, and the next ones fill the page.

    cursor = base64url(first 16 bytes of the HMAC-SHA-256 | zlib(msgpack(Rest)))
"""

import binascii
import hashlib
import hmac
import time
import zlib
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import msgpack
import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from service.errors import FieldError, Invalid
from service.http.schemas import MAX_CURSOR
from service.recall.item_metadata import candidate_lines
from service.recall.types import DegradedReason, EncodedCandidates

SECONDS = 3600
"""Time after which a cursor is not taken any more."""
SIGNATURE_BYTES = 16


class Rest(NamedTuple):
    """The content of a cursor: the candidates of a recall that were not returned yet."""

    expires: int
    """Seconds since 1970."""
    page_size: int
    version: str
    degraded_reason: DegradedReason | None
    unknown_items: int
    lines: Sequence[bytes]
    """The candidates in JSON."""
    rows: bytes
    """Their rows in the catalogue of this version, or their team's, as 32-bit integers."""
    user: str = ""
    arms: Sequence[tuple[str, str]] = ()
    """The user's experiments and arms, if there are any: each page is an exposure."""
    teams: Sequence[tuple[str, str]] = ()
    """The teams of a draft of two versions, and the version of each."""


class Page(NamedTuple):
    """A part of the candidates of a recall."""

    json: bytes
    """As in `EncodedCandidates`."""
    rows: NDArray[np.int32]
    cursor: str | None
    """None: no candidate is left."""
    version: str
    degraded_reason: DegradedReason | None
    unknown_items: int
    user: str = ""
    arms: Sequence[tuple[str, str]] = ()
    teams: Sequence[tuple[str, str]] = ()
    """As in `Rest`."""


class Pages:
    """Divides recalls into pages. All front ends of a service share the key."""

    def __init__(
        self, key: str, hidden: Callable[[], Collection[str]] = lambda: (), seconds: int = SECONDS
    ) -> None:
        """Takes the secret key of signatures, and how to learn which items are hidden now."""
        self._key = key.encode()
        self._hidden = hidden
        self._seconds = seconds

    def first(
        self,
        found: EncodedCandidates,
        page_size: int,
        version: str,
        degraded_reason: DegradedReason | None,
        user: str = "",
        arms: Sequence[tuple[str, str]] = (),
        teams: Sequence[tuple[str, str]] = (),
    ) -> Page:
        """Returns the first page of an answer. Raises Invalid if its cursor would be too long."""
        expires = int(time.time()) + self._seconds
        rows = np.asarray(found.rows, np.int32).tobytes()
        about = version, degraded_reason, found.unknown_items
        lines = candidate_lines(found.json)
        return self._next(Rest(expires, page_size, *about, lines, rows, user, arms, teams))

    def following(self, cursor: str) -> Page:
        """Returns the page that a cursor begins. Raises Invalid if the cursor cannot be used."""
        rest = self._opened(cursor)
        if rest.expires < time.time():
            raise _invalid("it has expired: begin with a new recall")
        return self._next(rest)

    def _next(self, rest: Rest) -> Page:
        hidden, rows = self._hidden(), np.frombuffer(rest.rows, np.int32)
        taken: list[int] = []
        position = 0
        while position < len(rows) and len(taken) < rest.page_size:
            if not hidden or from_json(rest.lines[position])["item_id"] not in hidden:
                taken.append(position)
            position += 1
        cursor = None
        if position < len(rows):
            left = rest._replace(lines=rest.lines[position:], rows=rows[position:].tobytes())
            cursor = self._sealed(left)
        json = b"[%b]" % b",\n".join([rest.lines[at] for at in taken])
        about = rest.version, rest.degraded_reason, rest.unknown_items
        return Page(json, rows[taken], cursor, *about, rest.user, rest.arms, rest.teams)

    def _sealed(self, rest: Rest) -> str:
        content = zlib.compress(msgpack.packb(rest))
        cursor = urlsafe_b64encode(self._signature(content) + content).decode()
        if len(cursor) > MAX_CURSOR:
            words = "the cursor would be too long: ask for a smaller k"
            raise Invalid(f"page_size: {words}", [FieldError("page_size", words)])
        return cursor

    def _opened(self, cursor: str) -> Rest:
        try:
            sealed = b64decode(cursor.encode(), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            sealed = b""
        signature, content = sealed[:SIGNATURE_BYTES], sealed[SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._signature(content)):
            raise _invalid(
                "it is not of this service, or the service was started again: begin with a new "
                "recall, and give all instances the same --cursor-key"
            )
        fields: list[Any] = msgpack.unpackb(zlib.decompress(content))
        return Rest(*fields)

    def _signature(self, content: bytes) -> bytes:
        return hmac.new(self._key, content, hashlib.sha256).digest()[:SIGNATURE_BYTES]


def _invalid(words: str) -> Invalid:
    return Invalid(f"cursor: {words}", [FieldError("cursor", words)])
