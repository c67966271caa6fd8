"""Checks of a folder of bundles and of a prepared data set, by the loaders' own functions."""

import os
import pwd
import stat
from pathlib import Path

from index.search import load_index
from model.artifact.bundle import Artifact, load_artifact
from model.artifact.manifest import ArtifactError, Manifest, read_manifest, verify
from model.artifact.versions import find_bundle
from model.data.dataset import Dataset
from service.doctor.findings import Finding, ok, problem, warning

SHOWN = 5
"""Files that one finding names."""


def check_bundle(artifacts: Path) -> list[Finding]:
    """Checks the served bundle as the service loads it: every checksum, sizes, the index."""
    subject = "bundle"
    if closed := check_readable(subject, artifacts):
        return [closed]
    try:
        folder = find_bundle(artifacts)
        if closed := check_readable(subject, folder):
            return [closed]
        manifest = read_manifest(folder)
    except (ArtifactError, OSError) as error:
        return [problem(subject, str(error))]
    found = [check_others_may_read(folder)]
    try:
        artifact = load_artifact(folder)
    except (ArtifactError, OSError) as error:
        faults = _faults(folder, manifest) or [str(error)]
        advice = "copy the bundle again from where it was exported, or export it again"
        return [*found, *(problem(subject, f"{fault}: {advice}") for fault in faults)]
    text = f"{manifest.version}, {artifact.items.height:,} items: every checksum is right"
    return [*found, ok(subject, text), check_index(artifact)]


def _faults(folder: Path, manifest: Manifest) -> list[str]:
    """Returns what is wrong with each file; the loader stops at the first."""
    faults = []
    for name, entry in manifest.files.items():
        try:
            verify(folder / name, entry)
        except (ArtifactError, OSError) as error:
            faults.append(str(error))
    return faults


def check_index(artifact: Artifact) -> Finding:
    """Checks that the index can be loaded and is of the bundle's vectors."""
    vectors_VD = artifact.model.items.weight.numpy()
    try:
        index = load_index(artifact.folder, vectors_VD, artifact.manifest.vectors_sha256)
    except ValueError as error:
        return problem("index", f"{error}: export the run again (recgpt export)")
    return ok("index", f"{index.kind}, of the bundle's vectors")


def check_data(directory: Path) -> list[Finding]:
    """Checks a prepared data set as training loads it."""
    subject = "data set"
    if closed := check_readable(subject, directory):
        return [closed]
    try:
        dataset = Dataset.load(directory)
        size = sum(file.stat().st_size for file in directory.iterdir())
    except (OSError, ValueError) as error:
        return [problem(subject, str(error))]
    if not len(dataset.events):
        return [warning(subject, f"{directory} has no events: prepare it from other logs")]
    counts = f"{dataset.users:,} users, {dataset.catalogue:,} items, {len(dataset.events):,} events"
    return [ok(subject, f"{dataset.name}: {counts}, {size / 1e6:,.1f} MB")]


def check_readable(subject: str, folder: Path) -> Finding | None:
    """Returns a problem if `folder`, or a file in it, can't be read by this user."""
    try:
        if not folder.is_dir():
            return problem(subject, f"{folder} is missing or no folder: check the path")
        paths = [folder, *(sorted(folder.iterdir()) if _may_enter(folder) else ())]
        closed = [path for path in paths if path.exists() and not _may_read(path)]
    except OSError as error:
        return problem(subject, f"{folder} cannot be read: {error.strerror}")
    if not closed:
        return None
    user = f"user {os.geteuid()}"
    return problem(
        subject,
        f"{user} may not read {_listed(closed)}: run as the user who owns it, or give the right "
        f"to read (chmod -R a+rX {folder})",
    )


def check_others_may_read(folder: Path) -> Finding:
    """Checks the modes: a bundle is often exported by one user and served by another."""
    subject = "bundle: modes"
    wanted = [(folder, 0o005), *((file, 0o004) for file in sorted(folder.iterdir()))]
    closed = [path for path, mode in wanted if path.stat().st_mode & mode != mode]
    if not closed:
        return ok(subject, "every user may read it")
    return warning(
        subject,
        f"not every user may read {_listed(closed)}: fine if the service runs as "
        f"{_owner(closed[0])}, else chmod -R a+rX {folder}",
    )


def _may_enter(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK, effective_ids=True)


def _may_read(path: Path) -> bool:
    return _may_enter(path) if path.is_dir() else os.access(path, os.R_OK, effective_ids=True)


def _listed(paths: list[Path]) -> str:
    """Returns the first paths with their modes and owners."""
    shown = [
        f"{path} (mode {stat.S_IMODE(path.stat().st_mode):04o}, of {_owner(path)})"
        for path in paths[:SHOWN]
    ]
    return ", ".join([*shown, *(["…"] if len(paths) > SHOWN else [])])


def _owner(path: Path) -> str:
    number = path.stat().st_uid
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # a container has no name for it
        return f"user {number}"
