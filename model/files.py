"""Crash-safe output: a file or folder appears under its name complete, or not at all.

A place is checked before the work that fills it. Links are followed: what a link points to is
replaced, and the link stays. Results get the mode that the umask asks for, whatever the library
that wrote them chose, because the service may run as another user than the training.
"""

import json
import logging
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

log = logging.getLogger(__name__)

OF_THE_FILE_SYSTEM = ("lost+found",)
"""Entries that a fresh volume has: a folder with nothing else is empty, and they stay."""


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to; on success it is synced and renamed to `path`.

    An error leaves the old file as it was. Raises ValueError if the place can't be written to.
    """
    target = _resolved(path)
    _check_file(target, path)
    beside = target.with_name(f".{target.name[:100]}.{os.getpid()}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield beside
        _widen_mode(beside)
        sync(beside)
        os.replace(beside, target)
        sync(target.parent)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yields an empty folder to fill; on success it is synced and stands at `path`.

    The old folder stays until then, and both are kept if the new one can't take its place. A folder
    that can't be renamed (a mount, or in a parent that may not be written to) has its contents
    replaced instead. Raises ValueError if `path` holds something and `overwrite` is false, or if
    the place can't be written to.
    """
    target = _resolved(path)
    place = _place_for(target, path, overwrite)
    new = place / f".{target.name[:100]}.{secrets.token_hex(4)}.part"
    kept = False
    try:
        _make_folder(new, path)
        yield new
        for file in sorted(new.rglob("*")):
            _widen_mode(file)
            sync(file)
        sync(new)
        try:
            _swap_contents(new, target) if place == target else _swap_folders(new, target)
        except OSError as error:
            kept = True
            raise ValueError(
                f"{path} could not be replaced ({error.strerror}) and is as it was. "
                f"The new content is complete and stands in {new}: move it yourself"
            ) from error
        sync(target.parent)
    finally:
        if not kept:
            shutil.rmtree(new, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Writes a model, or a value of JSON's types, as indented JSON, beside and renamed.

    A model's figures that are no numbers, such as a share of nothing, become null.
    """
    if isinstance(value, BaseModel):
        text = value.model_dump_json(indent=2)
    else:
        text = json.dumps(value, indent=2, ensure_ascii=False)
    with new_file(path) as beside:
        beside.write_text(text + "\n", encoding="utf-8")


def check_output(path: Path | None) -> None:
    """Raises ValueError if a file can't be written at `path`: for use before long work."""
    if path is not None:
        _check_file(_resolved(path), path)


def is_empty(folder: Path) -> bool:
    """Returns whether a folder holds nothing but what a fresh volume has."""
    return set(os.listdir(folder)) <= set(OF_THE_FILE_SYSTEM)


def is_mount(path: Path) -> bool:
    """Returns whether something is mounted at `path`; a bind mount and a mounted file count."""
    if os.path.ismount(path):
        return True
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return False
    points = (line.split(" ")[4] for line in mounts.splitlines())
    wanted = str(path)
    for escape in ("\\", " ", "\t", "\n"):
        wanted = wanted.replace(escape, f"\\{ord(escape):03o}")
    return wanted in points


def _resolved(path: Path) -> Path:
    """Returns the absolute path behind all links."""
    try:
        target = path.resolve()
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path} can't be followed: {error}") from error
    if target.is_symlink():  # since Python 3.13, links in a circle are no error of resolve
        raise ValueError(f"{path} can't be followed: its links form a circle")
    return target


def _check_file(target: Path, path: Path) -> None:
    """Raises ValueError if no new file can take the place of `target`, which `path` leads to."""
    if target.is_dir():
        raise ValueError(f"{path} is a folder: name a file")
    if target.exists() and not target.is_file():
        raise ValueError(f"{path} is a device or a pipe: name a file")
    if is_mount(target):
        raise ValueError(f"{path} is mounted as one file: name a file in a mounted folder instead")
    _check_parent(target, path)
    if target.exists() and not _may_rename(target):
        raise ValueError(f"{path} can't be replaced: it belongs to another user")


def _place_for(target: Path, path: Path, overwrite: bool) -> Path:
    """Returns the folder in which the new one is filled: the parent of `target`, or `target`.

    Raises ValueError if the new folder could not take its place afterwards.
    """
    if not target.exists():
        _check_parent(target, path)
        return target.parent
    if not target.is_dir():
        raise ValueError(f"{path} is a file: choose another folder")
    if not os.access(target, os.R_OK | os.W_OK | os.X_OK):
        raise ValueError(
            f"{path} can't be written to: it is read-only or belongs to another user. "
            "Choose another folder, or change its permissions"
        )
    if not overwrite and not is_empty(target):
        raise ValueError(f"{path} exists already: choose another folder, or say --overwrite")
    by_rename = os.access(target.parent, os.W_OK | os.X_OK) and _may_rename(target)
    return target.parent if by_rename and not is_mount(target) else target


def _may_rename(target: Path) -> bool:
    """Returns whether the entry may be renamed in a parent that may be written to.

    In a sticky folder such as /tmp only the owner of the entry or of the folder may.
    """
    parent, user = target.parent.stat(), os.geteuid()
    if not parent.st_mode & stat.S_ISVTX:
        return True
    return user in (0, parent.st_uid, target.stat().st_uid)


def _check_parent(target: Path, path: Path) -> None:
    """Raises ValueError if nothing can be made at `target` and in folders that it still needs."""
    there = next(folder for folder in target.parents if folder.exists())
    if not there.is_dir():
        raise ValueError(f"{path} can't be made: {there} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{path} can't be written: no permission to write to {there}")


def _make_folder(new: Path, path: Path) -> None:
    try:
        new.parent.mkdir(parents=True, exist_ok=True)
        new.mkdir()
    except OSError as error:
        raise ValueError(f"{path} can't be written to: {error.strerror}") from error


def _swap_folders(new: Path, target: Path) -> None:
    """Renames `new` to `target`. Raises OSError, with the old folder in its place, if it can't."""
    old = new.with_suffix(".old")
    if target.exists():
        os.rename(target, old)
    try:
        os.rename(new, target)
    except OSError:
        if old.exists():
            os.rename(old, target)
        raise
    _remove(old)


def _swap_contents(new: Path, target: Path) -> None:
    """Moves the entries of `new`, which lies in `target`, to the place of the old entries.

    Raises OSError, with the old entries in their place, if one can't be moved.
    """
    old = new.with_suffix(".old")
    old.mkdir()
    staying = (new.name, old.name, *OF_THE_FILE_SYSTEM)
    moves = [(target / e, old / e) for e in os.listdir(target) if e not in staying]
    moves += [(new / e, target / e) for e in os.listdir(new)]
    done = []
    try:
        for source, destination in moves:
            os.rename(source, destination)
            done.append((source, destination))
    except OSError:
        for source, destination in reversed(done):
            os.rename(destination, source)
        old.rmdir()
        raise
    sync(target)
    _remove(old)


def _remove(old: Path) -> None:
    """Deletes what was replaced; the new content stands already, so that a failure is only told."""
    if old.exists():
        shutil.rmtree(old, ignore_errors=True)
        if old.exists():
            log.warning("%s holds the old content and could not be deleted: delete it", old)


def _widen_mode(path: Path) -> None:
    """Adds the permissions that the umask allows: safetensors, for one, makes files private."""
    umask = os.umask(0o077)
    os.umask(umask)
    mode = stat.S_IMODE(path.stat().st_mode)
    wanted = mode | ((0o777 if path.is_dir() else 0o666) & ~umask)
    if wanted != mode:
        path.chmod(wanted)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
