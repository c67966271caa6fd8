"""Checks of the file of an embedded store, which is neither opened for writing nor created."""

import fcntl
from pathlib import Path

from service.doctor.findings import Finding, ok, problem, warning
from service.history.embedded.store import check_files, expanded


def embedded_file(url: str) -> Path | None:
    """Returns the file of an embedded store; None for another one, or if it cannot be named."""
    scheme, _, path = url.partition(":")
    try:
        return expanded(path) if scheme == "embedded" and path else None
    except ValueError:
        return None


def check_embedded(path: str) -> Finding:
    """Checks the file of an embedded store, and whether a process uses it."""
    subject = "store"
    if not path:
        return problem(subject, "embedded: needs a file, as in embedded:store/histories")
    try:
        file = expanded(path)
        if _is_locked(file.with_name(file.name + ".lock")):
            text = f"{file} is used by another process: fine if that is the service. Stop it first"
            return warning(subject, f"{text} for `recgpt history load` or a second service")
        if not file.exists():
            return warning(
                subject,
                f"{file} does not exist yet: `recgpt serve` starts with no histories. "
                "Fill it with `recgpt history load`, or check the path",
            )
        return ok(subject, f"{file}, {check_files(file):,} bytes, not in use")
    except ValueError as error:
        return problem(subject, str(error))
    except OSError as error:
        return problem(subject, f"{path} cannot be read: {error.strerror}; check owner and mode")


def _is_locked(lock: Path) -> bool:
    """Returns whether a process holds the lock; a shared one is taken for a moment to know it."""
    if not lock.exists():
        return False
    with lock.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
