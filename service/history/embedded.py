"""The file of the embedded store, which persists the memory of burner-redis.

burner-redis saves in place, only on request and when its client is dropped, and starts empty if it
cannot read its file. So it works on a copy. A snapshot is written beside PATH under a header with
its checksum, synced, and renamed to PATH. A lock on `PATH.lock` keeps a second process out.
"""

import asyncio
import fcntl
import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import IO, Any

from burner_redis import BurnerRedis

from model.files import new_file

MAGIC = b"recgpt histories 1 "


class EmbeddedStore:
    """An in-process Redis whose snapshots survive a crash."""

    def __init__(self, path: str) -> None:
        """Opens or creates the store at `path`. Raises ValueError if it cannot be used."""
        if not path:
            raise ValueError("--store: embedded: needs a file, as in embedded:store/histories")
        self._path = expanded(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self._path.with_name(self._path.name + ".lock"))
        scratch = self._path.with_name(f".{self._path.name}.scratch")
        shutil.rmtree(scratch, ignore_errors=True)  # left by a process that was killed
        scratch.mkdir()
        # Each client gets a folder of its own, because it writes once more when it is dropped.
        self._scratch = Path(tempfile.mkdtemp(dir=scratch))
        try:
            if self._path.exists():
                (self._scratch / "live").write_bytes(read_snapshot(self._path))
        except Exception:
            self.close()
            raise
        self.client: Any = BurnerRedis(persistence_path=str(self._scratch / "live"))
        self._changes = self._kept = 0
        self._saving = asyncio.Lock()

    async def keep(self) -> None:
        """Returns when every change made before the call is on disk.

        Calls that arrive while a snapshot is written share the next one.
        """
        self._changes += 1
        wanted = self._changes
        async with self._saving:
            if self._kept >= wanted:
                return
            covered = self._changes
            await self.client.save(str(self._scratch / "snapshot"))
            await asyncio.to_thread(self._seal)
            self._kept = covered

    def close(self) -> None:
        """Releases the file for other processes."""
        shutil.rmtree(self._scratch.parent, ignore_errors=True)
        self._lock.close()

    def _seal(self) -> None:
        payload = (self._scratch / "snapshot").read_bytes()
        with new_file(self._path) as beside:
            digest = hashlib.sha256(payload).hexdigest().encode()
            beside.write_bytes(MAGIC + digest + b"\n" + payload)


def expanded(path: str) -> Path:
    """Returns the path with `~` replaced by the home folder, which no shell does behind a colon.

    Raises ValueError if the user has no home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"--store: embedded:{path}: {error}") from None


def read_snapshot(path: Path) -> bytes:
    """Returns the content of the file. Raises ValueError if it is damaged, OSError as usual."""
    header, _, payload = path.read_bytes().partition(b"\n")
    if header != MAGIC + hashlib.sha256(payload).hexdigest().encode():
        raise ValueError(
            f"{path} is damaged or not a store of histories: restore it from a backup, "
            "or move it away and fill a new one with `recgpt history load`"
        )
    return payload


def _lock(path: Path) -> IO[bytes]:
    file = path.open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise ValueError(f"{path} is locked: another process uses this embedded store") from None
    return file
