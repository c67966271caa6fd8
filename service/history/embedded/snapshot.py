"""Snapshots: the whole store as burner-redis saves it, under a header with its checksum.

    recgpt histories 2 JOURNAL SHA256        followed by a line feed and the store

JOURNAL is the number of the first journal that the snapshot does not include. Version 1, from a
time without journals, has only the checksum.
"""

import hashlib
import os
import shutil
from pathlib import Path
from typing import BinaryIO

VERSION_1 = b"recgpt histories 1 "
VERSION_2 = b"recgpt histories 2 "
MAX_HEADER = 128


def write_snapshot(store: Path, first_journal: int, to: Path) -> None:
    """Writes the file of a store as a snapshot, durably. Raises OSError."""
    with store.open("rb") as source, to.open("wb") as target:
        digest = hashlib.file_digest(source, "sha256").hexdigest()
        target.write(VERSION_2 + f"{first_journal} {digest}\n".encode())
        source.seek(0)
        shutil.copyfileobj(source, target, 1 << 20)
        target.flush()
        os.fsync(target.fileno())


def check_snapshot(path: Path) -> int:
    """Returns the number of the first journal that the snapshot does not include.

    Raises ValueError if it is damaged, OSError as usual.
    """
    with path.open("rb") as file:
        return _check(file, path)


def copy_store(path: Path, to: Path) -> int:
    """Copies the store out of a snapshot. Returns and raises as `check_snapshot`."""
    with path.open("rb") as source, to.open("wb") as target:
        first_journal = _check(source, path)
        source.seek(0)
        source.readline(MAX_HEADER)
        shutil.copyfileobj(source, target, 1 << 20)
    return first_journal


def _check(file: BinaryIO, path: Path) -> int:
    header = file.readline(MAX_HEADER)
    found = hashlib.sha256()
    while chunk := file.read(1 << 20):
        found.update(chunk)
    number, checksum = _parse(header)
    if checksum != found.hexdigest().encode():
        raise ValueError(
            f"{path} is damaged or not a store of histories: restore it and its journals from a "
            "backup, or move them away and fill a new store with `recgpt history load`"
        )
    return number


def _parse(header: bytes) -> tuple[int, bytes]:
    """Returns the number of a journal and the checksum, which is empty if there is none."""
    line = header.removesuffix(b"\n")
    if line.startswith(VERSION_1):
        return 0, line.removeprefix(VERSION_1)
    number, _, checksum = line.removeprefix(VERSION_2).partition(b" ")
    if line.startswith(VERSION_2) and number.isdigit():
        return int(number), checksum
    return 0, b""
