"""The journal: a file to which records are appended, and which holds them after a crash.

A *group* is everything that was appended while the group before it was written. It becomes one
frame, which one `fdatasync` makes durable for all who wait: the slower the disk, the larger the
groups. A frame is

    FRAME | length, 4 bytes | CRC-32 of the content, 4 bytes | content

The next frame is written only after the one before it is on disk. So a crash can damage the last
frame alone, which nobody was told of. Damage with a whole frame behind it is another matter: the
disk lost something that was durable, and reading refuses the file.
"""

import asyncio
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FRAME = b"\xffRJ\xff"
"""The beginning of a frame. It is no part of any text, because UTF-8 has no byte 0xFF."""
HEAD = struct.Struct("<4sII")


class Frame(NamedTuple):
    """The content of a frame, and the offset behind it."""

    content: bytes
    end: int


def read_frames(path: Path) -> Iterator[Frame]:
    """Yields the frames of a journal up to the one that a crash cut off, if any.

    Raises ValueError if the file is damaged in another way, OSError as usual.
    """
    end = 0
    with path.open("rb") as file:
        while head := file.read(HEAD.size):
            content = _content(head, file.read(_length(head)))
            if content is None:
                file.seek(end)
                if _holds_a_frame(file.read()[1:]):
                    raise ValueError(f"{path} is damaged at byte {end}")
                return
            end = file.tell()
            yield Frame(content, end)


class Journal:
    """Appends to a journal. To be used on one event loop."""

    def __init__(self, path: Path, end: int = 0) -> None:
        """Opens the file, or creates it, to write from the offset `end` on. Raises OSError."""
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
        os.truncate(self._file, end)
        sync_folder(path.parent)
        self._end = end
        self._waiting: list[bytes] = []  # records that are not known to be on disk
        self._appended = self._durable = 0  # records so far
        self._writing: asyncio.Task[None] | None = None
        self._failed = False

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        return self._end

    def append(self, record: bytes) -> None:
        """Adds a record to the next group."""
        self._waiting.append(record)
        self._appended += 1

    async def sync(self) -> None:
        """Returns when all records that were appended before the call are on disk.

        Raises OSError if the disk does not take them; they stay in the next group.
        """
        wanted = self._appended
        while self._durable < wanted:
            if self._writing is None or self._writing.done():
                self._writing = asyncio.create_task(self._write())
            await asyncio.shield(self._writing)

    async def recover(self) -> None:
        """Tries once more to write the records that the disk did not take. Raises OSError."""
        if self._failed:
            await self.sync()

    def close(self) -> None:
        """Closes the file; records that nobody waits for may be lost."""
        os.close(self._file)

    async def _write(self) -> None:
        """Writes a group. After a failure the next group, which is longer, is written over it."""
        count = len(self._waiting)
        frame = make_frame(b"".join(self._waiting))
        try:
            await asyncio.to_thread(_write_durably, self._file, frame, self._end)
        except OSError:
            self._failed = True
            raise
        self._failed = False
        self._end += len(frame)
        self._durable += count
        del self._waiting[:count]


def make_frame(content: bytes) -> bytes:
    """Returns the content as a frame."""
    return HEAD.pack(FRAME, len(content), zlib.crc32(content)) + content


def sync_folder(folder: Path) -> None:
    """Makes the names of new and renamed files in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_durably(file: int, data: bytes, offset: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(file, left, offset)
        left, offset = left[written:], offset + written
    os.fdatasync(file)


def _length(head: bytes) -> int:
    return HEAD.unpack(head)[1] if len(head) == HEAD.size else 0


def _content(head: bytes, content: bytes) -> bytes | None:
    """Returns the content of a whole frame, else None."""
    if len(head) < HEAD.size:
        return None
    mark, length, checksum = HEAD.unpack(head)
    whole = mark == FRAME and len(content) == length and zlib.crc32(content) == checksum
    return content if whole and content else None  # zeros are the checksum of nothing


def _holds_a_frame(data: bytes) -> bool:
    """Returns whether a whole frame begins anywhere in the data."""
    at = data.find(FRAME)
    while at >= 0:
        head, rest = data[at : at + HEAD.size], data[at + HEAD.size :]
        if _content(head, rest[: _length(head)]) is not None:
            return True
        at = data.find(FRAME, at + 1)
    return False
