"""Ways in which a file is damaged, for the fuzzers; `make fuzz` tries many of each."""

import os
import random
from collections.abc import Callable

EXAMPLES = int(os.environ.get("RECGPT_FUZZ_EXAMPLES", "10"))

Mutation = Callable[[random.Random, bytes], bytes]
Record = Callable[[str, object], None]
"""pytest's `record_property`, by which `loadtest.reliability.counts` learns the number of cases."""


def flip(chance: random.Random, data: bytes) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]


def flip_in_head(chance: random.Random, data: bytes) -> bytes:
    """Most formats say in their first bytes how to read the others."""
    return flip(chance, data[:200]) + data[200:]


def cut(chance: random.Random, data: bytes) -> bytes:
    return data[: chance.randrange(len(data))]


def extend(chance: random.Random, data: bytes) -> bytes:
    return data + chance.randbytes(chance.randrange(1, 100))


def move(chance: random.Random, data: bytes) -> bytes:
    first, second = sorted(chance.randrange(len(data)) for _ in range(2))
    return data[first:second] + data[:first] + data[second:]


def large_number(chance: random.Random, data: bytes) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + b"9" * 12 + data[at + 12 :]


MUTATIONS = [flip, flip_in_head, cut, extend, move, large_number]
