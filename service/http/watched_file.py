"""A file of settings that is read again whenever it changes, while the service runs."""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Pause between two looks at the file."""

T = TypeVar("T")


class WatchedFile(Generic[T]):
    """The content of a file. One that cannot be used does not replace the content before."""

    def __init__(
        self,
        file: Path | None,
        read: Callable[[Path], T],
        without: T,
        context: Callable[[], object] = lambda: None,
    ) -> None:
        """Reads the file with `read`, which raises ValueError; without a file it is `without`.

        It is also read again when the `context` has changed, on which its validity depends.
        """
        self.problem: str | None = None
        """The reason why the file, which has changed, is not used."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when there is another content."""
        self.content = without
        self._file = file
        self._read = read
        self._context = context
        self._seen: object = None
        if file:
            self._seen = _state(file), context()
            self.content = read(file)

    async def follow(self) -> None:
        """Reads the file again whenever it changes."""
        while self._file:
            await asyncio.sleep(LOOK_SECONDS)
            self.refresh()

    def refresh(self) -> None:
        """Reads the file if it or the context has changed."""
        if not self._file or (state := (_state(self._file), self._context())) == self._seen:
            return
        self._seen = state
        try:
            self.content = self._read(self._file)
        except ValueError as error:
            self.problem = str(error)
            log.error("%s is not used, so what was read before stays: %s", self._file, error)
        else:
            self.problem = None
            log.info("%s was read again", self._file)
            self.on_change()


def _state(file: Path) -> tuple[int, ...] | None:
    """Returns numbers that change when the file does; None if there is none."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
