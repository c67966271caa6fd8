"""The versions of an artifact store: publishing, listing, going back, and deleting old ones.

ARTIFACTS/<version>/         a bundle, complete and never changed
ARTIFACTS/current            link to the version that is served, moved in one step
ARTIFACTS/published.jsonl    the journal: a line for each move of the link, oldest first
ARTIFACTS/.publish.lock      held while the link moves or versions are deleted

A line is written to the journal before the link moves. After a crash in between, the journal ends
with a version that was never served, which `previous_version` passes over.
"""

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ValidationError

from model.artifact.manifest import ArtifactError, Manifest, read_manifest, verify
from model.files import new_folder, sync

JOURNAL = "published.jsonl"
LOCK = ".publish.lock"
DELETED = ".deleted-"
"""Prefix of a version on its way out: nothing reads it any more."""


class Published(BaseModel, frozen=True):
    """A line of the journal."""

    version: str
    at: str
    """Time in ISO 8601, UTC."""


class Version(BaseModel, frozen=True):
    """A version in an artifact store."""

    version: str
    created: str
    dataset: str
    items: int
    bytes: int
    """Size of all its files."""
    served: bool
    published: str | None
    """Time of its latest publication; None if it never was the served version."""
    problem: str | None
    """The reason why it cannot be served; None if its manifest is readable."""


def find_bundle(artifacts: Path) -> Path:
    """Returns the folder of the served version, or `artifacts` itself if it is a bundle."""
    if (artifacts / "manifest.json").exists():
        return artifacts
    current = artifacts / "current"
    if not current.exists():
        raise ArtifactError(
            f"{artifacts} holds no artifact (no manifest.json, no `current`): "
            "make one with `recgpt export`"
        )
    return current.resolve()


def bundle_of(artifacts: Path, version: str) -> Path:
    """Returns the folder of a version in an artifact store. Raises ArtifactError if it has none."""
    if (artifacts / "manifest.json").exists():
        raise ArtifactError(f"{artifacts} is one bundle, without other versions beside it")
    if version not in _version_names(artifacts):
        raise ArtifactError(f"{artifacts} has no version {version}: `recgpt versions` lists them")
    return artifacts / version


def verified_manifest(folder: Path) -> Manifest:
    """Returns the manifest of a bundle whose files have all been checked against it.

    Raises ArtifactError that names the file at fault.
    """
    manifest = read_manifest(folder)
    for name, entry in manifest.files.items():
        verify(folder / name, entry)
    return manifest


def publish(artifacts: Path, version: str) -> None:
    """Makes `version` the one that is served: `current` moves in one step."""
    check_publishable(artifacts)
    with _locked(artifacts):
        _write_to_journal(artifacts, version)
        link = _new_link_name(artifacts)
        link.symlink_to(version)
        os.replace(link, artifacts / "current")
        sync(artifacts)


def check_publishable(artifacts: Path) -> None:
    """Raises ValueError if a new version could not become the served one.

    `current` is a link. Object storage and copies without links make a folder of it, which can't
    be replaced in one step while a service reads it.
    """
    if (artifacts / "manifest.json").exists():
        raise ValueError(f"{artifacts} is one bundle: name the folder of the bundles")
    current = artifacts / "current"
    if current.exists() and not current.is_symlink():
        raise ValueError(
            f"{current} is no link, so that it can't be moved to a new version; a copy without "
            "links leaves it so. Rename it to the version in its manifest.json, or delete it if "
            f"that folder is in {artifacts} too"
        )
    try:
        artifacts.mkdir(parents=True, exist_ok=True)
        link = _new_link_name(artifacts)
        link.symlink_to("nothing")
        link.unlink()
    except OSError as error:
        raise ValueError(f"no link can be made in {artifacts}: {error.strerror}") from error


def publish_bundle(
    artifacts: Path, bundle: Path, point: Callable[[Path, str], None] = publish
) -> str:
    """Verifies a bundle, copies it into the store unless it is there, and makes it served.

    `point` makes a version of the store the served one: see `model.artifact.registry`. Returns the
    version. Raises ArtifactError, before anything is written, if it is damaged.
    """
    check_publishable(artifacts)
    manifest = verified_manifest(bundle)
    place = artifacts / manifest.version
    if not place.exists():
        with new_folder(place) as folder:
            shutil.copytree(bundle, folder, dirs_exist_ok=True)
            verified_manifest(folder)
    elif read_manifest(place) != manifest:
        raise ValueError(f"{place} is another bundle of the same version: delete one of the two")
    else:
        verified_manifest(place)
    point(artifacts, manifest.version)
    return manifest.version


def roll_back(
    artifacts: Path,
    version: str | None = None,
    point: Callable[[Path, str], None] = publish,
) -> str:
    """Makes a version served again, by default the one that was served before; returns it.

    `point` is that of `publish_bundle`. Raises ValueError if there is none, ArtifactError if it is
    damaged.
    """
    check_publishable(artifacts)
    wanted = version or previous_version(artifacts)
    if not wanted:
        raise ValueError(f"{artifacts / JOURNAL} names no earlier version that is still there")
    verified_manifest(bundle_of(artifacts, wanted))
    point(artifacts, wanted)
    return wanted


def previous_version(artifacts: Path) -> str | None:
    """Returns the version that was served before the present one, and is still there."""
    served, there = served_version(artifacts), _version_names(artifacts)
    names = [entry.version for entry in read_journal(artifacts)]
    if served in names:
        names = names[: len(names) - 1 - names[::-1].index(served)]
    return next((name for name in reversed(names) if name != served and name in there), None)


def prune(artifacts: Path, keep: int) -> list[str]:
    """Deletes all versions but the served one and the `keep` published or created last.

    Returns the deleted ones, oldest first.
    """
    check_publishable(artifacts)
    with _locked(artifacts):
        for leftover in artifacts.glob(f"{DELETED}*"):  # of a call that was killed
            shutil.rmtree(leftover)
        found = list_versions(artifacts)
        deleted = [one for one in found[: max(len(found) - keep, 0)] if not one.served]
        for one in deleted:
            doomed = artifacts / f"{DELETED}{one.version}"
            os.rename(artifacts / one.version, doomed)  # in one step: no half bundle is ever seen
            shutil.rmtree(doomed)
    return [one.version for one in deleted]


def list_versions(artifacts: Path) -> list[Version]:
    """Returns the versions, ordered by the time of publication or else of creation, oldest first.

    Raises ArtifactError if `artifacts` is no folder.
    """
    journal = read_journal(artifacts)
    published = {entry.version: entry.at for entry in journal}
    order = {entry.version: position for position, entry in enumerate(journal)}
    served = served_version(artifacts)
    names = _version_names(artifacts)
    found = [_describe(artifacts / name, published.get(name), name == served) for name in names]
    return sorted(found, key=lambda v: (v.published or v.created, order.get(v.version, 0)))


def served_version(artifacts: Path) -> str | None:
    """Returns the name of the version that `current` points to; None if there is none."""
    try:
        return (artifacts / "current").resolve(strict=True).name
    except (OSError, RuntimeError):
        return None


def read_journal(artifacts: Path) -> list[Published]:
    """Returns the publications, oldest first. A line that a crash cut off is left out."""
    try:
        lines = (artifacts / JOURNAL).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    entries = []
    for line in lines:
        try:
            entries.append(Published.model_validate_json(line))
        except ValidationError:
            continue
    return entries


def _describe(folder: Path, published: str | None, served: bool) -> Version:
    problem, manifest = None, None
    try:
        manifest = read_manifest(folder)
    except ArtifactError as error:
        problem = str(error)
    return Version(
        version=folder.name,
        created=manifest.created if manifest else "",
        dataset=str(manifest.dataset.get("name", "")) if manifest else "",
        items=int(manifest.dataset.get("items", 0)) if manifest else 0,
        bytes=sum(file.stat().st_size for file in folder.iterdir() if file.is_file()),
        served=served,
        published=published,
        problem=problem,
    )


def _version_names(artifacts: Path) -> list[str]:
    """Returns the names of the complete bundles; those that are being written have a dot first."""
    try:
        folders = sorted(artifacts.iterdir())
    except OSError as error:
        raise ArtifactError(f"{artifacts} can't be listed: {error.strerror}") from error
    return [
        folder.name
        for folder in folders
        if not folder.name.startswith(".")
        and not folder.is_symlink()
        and (folder / "manifest.json").exists()
    ]


def _write_to_journal(artifacts: Path, version: str) -> None:
    entry = Published(version=version, at=datetime.now(UTC).isoformat(timespec="seconds"))
    with (artifacts / JOURNAL).open("a+b") as journal:
        if journal.tell() and _last_byte(artifacts / JOURNAL) != b"\n":
            journal.write(b"\n")  # a crash cut the last line off
        journal.write(json.dumps(entry.model_dump()).encode() + b"\n")
        journal.flush()
        os.fsync(journal.fileno())


def _last_byte(file: Path) -> bytes:
    with file.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1)


def _new_link_name(artifacts: Path) -> Path:
    return artifacts / f".current.{secrets.token_hex(4)}.part"


@contextmanager
def _locked(artifacts: Path) -> Iterator[None]:
    """Waits until no other process publishes or deletes versions, and keeps others out."""
    with (artifacts / LOCK).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
