"""Many texts as one array of bytes, which compiled loops take. Shapes: T texts, N bytes."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from service.cases import ends_of
from service.merge import Ints

Bytes = NDArray[np.uint8]


class Texts(NamedTuple):
    """One after another."""

    bytes_N: Bytes
    ends_T: Ints  # where each ends, and a 0 before

    @classmethod
    def of(cls, texts: Sequence[bytes]) -> Self:
        """These."""
        return cls(np.frombuffer(b"".join(texts), np.uint8), ends_of(map(len, texts)))

    def text(self, which: int) -> bytes:
        """One of them."""
        return self.bytes_N[self.ends_T[which] : self.ends_T[which + 1]].tobytes()
