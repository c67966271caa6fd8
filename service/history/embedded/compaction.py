"""The child process that compacts an embedded store: PATH FOLDER BEFORE.

It reads the snapshot and the journals with numbers below BEFORE, and writes them to FOLDER as one
snapshot. It is the first to be ended if memory is short, and gives way to all others: the service
can do without it.
"""

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path

from service.history.embedded.snapshot import write_snapshot
from service.history.embedded.store import RESULT, restore


async def compact(path: Path, folder: Path, before: int) -> None:
    """Writes a snapshot of everything before a journal. Raises ValueError and OSError."""
    found = await restore(path, folder, before)
    saved = folder / "saved"
    await found.redis.save(str(saved))
    write_snapshot(saved, before, folder / RESULT)


def main() -> None:
    """Compacts, with the lowest claim to processor and memory."""
    os.nice(10)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    path, folder, before = sys.argv[1:]
    try:
        asyncio.run(compact(Path(path), Path(folder), int(before)))
    except (OSError, ValueError) as error:
        sys.exit(f"{path} is not compacted: {error}")


if __name__ == "__main__":
    main()
