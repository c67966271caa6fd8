"""All checks of `recgpt doctor`, in order."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from service.doctor.embedded_store import embedded_file
from service.doctor.findings import Finding
from service.doctor.folders import check_bundle, check_data
from service.doctor.machine import check_machine, check_space
from service.doctor.store import check_store


def examine(artifacts: Path | None, store: str | None, data: Path | None) -> Iterator[Finding]:
    """Yields the findings, each as soon as it is known; what is None is not checked."""
    yield from check_machine()
    store_file = embedded_file(store) if store else None
    folders = [artifacts, store_file and store_file.parent, data, Path(tempfile.gettempdir())]
    yield from check_space([folder for folder in folders if folder])
    if artifacts:
        yield from check_bundle(artifacts)
    if data:
        yield from check_data(data)
    if store:
        yield from check_store(store)
