"""The embedded store: burner-redis in memory, a snapshot and journals on disk.

    PATH           the store as it once was
    PATH.log.7     all commands since then, in the order in which they ran
    PATH.log.8     the newest journal, to which commands are appended
    PATH.lock      keeps a second process out

Opening it reads the snapshot and runs the commands of the journals. When these have grown, a child
process does the same with all but a new journal, and its result takes the place of the snapshot:
*compaction*. The service goes on meanwhile; only its memory is needed twice.
"""

import asyncio
import fcntl
import logging
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple

from burner_redis import BurnerRedis

from service.history.embedded.client import JournalledClient, read_commands
from service.history.embedded.journal import Journal, read_frames, sync_folder
from service.history.embedded.snapshot import check_snapshot, copy_store, write_snapshot

log = logging.getLogger(__name__)

COMPACT_BYTES = 32 << 20
"""Size of the journals from which on they are compacted, unless the snapshot is much larger."""
COMPACT_SHARE = 4
"""A snapshot is written again once the journals have more than a fourth of its size."""
RESULT = "compacted"
"""Name of the snapshot that the process of a compaction writes in its folder."""


class Restored(NamedTuple):
    """A store as its files hold it."""

    redis: BurnerRedis
    journal: int
    """The number of the newest journal."""
    end: int
    """The offset behind the last whole frame of that journal."""


class EmbeddedStore:
    """An in-process Redis whose acknowledged writes survive a crash."""

    def __init__(self, path: str, compact_bytes: int = COMPACT_BYTES) -> None:
        """Opens or creates the store at `path`. Raises ValueError if it cannot be used."""
        if not path:
            raise ValueError("--store: embedded: needs a file, as in embedded:store/histories")
        self._path = expanded(path)
        self._compact_bytes = compact_bytes
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self._path.with_name(self._path.name + ".lock"))
        except OSError as error:
            raise _unusable(self._path, error) from None
        self._scratch = self._path.with_name(f".{self._path.name}.scratch")
        try:
            self._open()
        except OSError as error:
            self._release()
            raise _unusable(self._path, error) from None
        except ValueError:
            self._release()
            raise
        self._compaction: asyncio.Task[None] | None = None

    def _open(self) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)  # left by a process that was killed
        self._scratch.mkdir()
        if not self._path.exists() and not _journals(self._path):
            write_snapshot(_empty(self._scratch / "empty"), 0, self._scratch / "first")
            _replace(self._path, self._scratch / "first")
        _remove_journals(self._path, before=check_snapshot(self._path))
        with ThreadPoolExecutor(1) as thread:  # a caller's event loop may be running in this one
            found = thread.submit(asyncio.run, restore(self._path, self._scratch)).result()
        self._number = found.journal
        journal = Journal(journal_path(self._path, found.journal), found.end)
        self.client = JournalledClient(found.redis, journal, self._written)
        self._closed_bytes = _size(self._path) - journal.size  # of the journals before this one
        self._compact_at = self._next_compaction()

    async def compact(self) -> None:
        """Makes the snapshot hold what all journals hold but a new one, and deletes those.

        Raises OSError if that fails; the store is as complete as before.
        """
        client = self.client
        async with client.order:
            await client.journal.sync()
            number = self._number + 1
            journal = Journal(journal_path(self._path, number))
            before = client.use_journal(journal)
            self._number = number
            self._closed_bytes += before.size
            before.close()
        folder = self._scratch / "compaction"
        folder.mkdir()
        try:
            await _run_child(self._path, folder, number)
            await asyncio.to_thread(_replace, self._path, folder / RESULT)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        _remove_journals(self._path, before=number)
        self._closed_bytes = 0

    async def close(self) -> None:
        """Closes the store, and releases its files for other processes."""
        if self._compaction:
            self._compaction.cancel()
            await asyncio.gather(self._compaction, return_exceptions=True)
        await self.client.aclose()
        self.client.journal.close()
        self._release()

    def _written(self) -> None:
        """Begins a compaction if it is due and none is under way."""
        grown = self._closed_bytes + self.client.journal.size >= self._compact_at
        if grown and (self._compaction is None or self._compaction.done()):
            self._compaction = asyncio.create_task(self._try_to_compact())

    async def _try_to_compact(self) -> None:
        try:
            await self.compact()
        except OSError as error:
            log.warning("the journals of %s are not compacted: %s", self._path, error)
        self._compact_at = self._next_compaction()

    def _next_compaction(self) -> int:
        budget = max(self._compact_bytes, self._path.stat().st_size // COMPACT_SHARE)
        return self._closed_bytes + budget

    def _release(self) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._lock.close()


async def restore(path: Path, folder: Path, before: int | None = None) -> Restored:
    """Reads a snapshot and its journals up to the number `before`, with a copy in `folder`.

    Raises ValueError if a file is damaged or missing, OSError as usual.
    """
    live = folder / "live"
    first = copy_store(path, live)
    numbers = _journals(path)
    if numbers and numbers != list(range(first, first + len(numbers))):
        names = ", ".join(journal_path(path, number).name for number in numbers)
        raise ValueError(
            f"{path} does not fit to its journals: it goes on with number {first}, and {names} are "
            "there. Restore all of them from one backup, or move them away"
        )
    redis = BurnerRedis(persistence_path=str(live))
    end = 0
    for number in numbers:
        if before is not None and number >= before:
            break
        end = 0
        for frame in read_frames(journal_path(path, number)):
            await redis.execute_pipeline(read_commands(frame.content))
            end = frame.end
    live.unlink()
    return Restored(redis, numbers[-1] if numbers else first, end)


async def _run_child(path: Path, folder: Path, before: int) -> None:
    words = (str(path), str(folder), str(before))
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service.history.embedded.compaction", *words
    )
    try:
        if status := await child.wait():
            raise OSError(f"the process that compacts it ended with status {status}")
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


def check_files(path: Path) -> int:
    """Returns the size of snapshot and journals in bytes.

    Raises ValueError if one is damaged, OSError as usual.
    """
    check_snapshot(path)
    for number in _journals(path):
        for _ in read_frames(journal_path(path, number)):
            pass
    return path.stat().st_size + _size(path)


def expanded(path: str) -> Path:
    """Returns the path with `~` replaced by the home folder, which no shell does behind a colon.

    Raises ValueError if the user has no home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"--store: embedded:{path}: {error}") from None


def journal_path(path: Path, number: int) -> Path:
    """Returns the path of a journal of the store."""
    return path.with_name(f"{path.name}.log.{number}")


def _journals(path: Path) -> list[int]:
    """Returns the numbers of the journals that are there, in order."""
    prefix = f"{path.name}.log."
    names = (file.name.removeprefix(prefix) for file in path.parent.iterdir())
    return sorted(int(name) for name in names if name.isdigit())


def _replace(path: Path, new: Path) -> None:
    new.replace(path)
    sync_folder(path.parent)


def _remove_journals(path: Path, before: int) -> None:
    """Deletes the journals that the snapshot includes."""
    for number in _journals(path):
        if number < before:
            journal_path(path, number).unlink()


def _size(path: Path) -> int:
    """Returns the size of all journals in bytes."""
    return sum(journal_path(path, number).stat().st_size for number in _journals(path))


def _empty(file: Path) -> Path:
    """Writes an empty store to a file, and returns it."""

    async def save() -> None:
        await BurnerRedis().save(str(file))

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, save()).result()
    return file


def _unusable(path: Path, error: OSError) -> ValueError:
    words = f"{error.strerror or error} ({error.filename or path})"
    return ValueError(
        f"--store: {path} cannot be used: {words}. Give the service the right to read and write in "
        "that folder and free space there, or name another"
    )


def _lock(path: Path) -> IO[bytes]:
    file = path.open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise ValueError(
            f"{path} is locked: another process uses this embedded store. "
            "Stop it, or name another store"
        ) from None
    return file
