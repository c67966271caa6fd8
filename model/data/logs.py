"""Finds the files of a log and their format, and refuses those that can't be read as what they are.

Every file is looked at before the first one is read, which may take an hour.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from model.data.config import Format

SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".inter": "tsv",
    ".item": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".txt": "lines",
}
HEAD = 1 << 16
"""Bytes at the start of a text file that tell what it is."""
SIGNATURES = {
    b"PAR1": "a Parquet file: say --format parquet, or give it the suffix .parquet",
    b"\x1f\x8b": "compressed by gzip: decompress it first",
    b"PK\x03\x04": "a ZIP archive or a spreadsheet: save its table as CSV first",
    b"BZh": "compressed by bzip2: decompress it first",
    b"\xfd7zXZ": "compressed by xz: decompress it first",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: decompress it first",
    b"\xff\xfe": "text in UTF-16: save it as UTF-8 (iconv -f UTF-16 -t UTF-8)",
    b"\xfe\xff": "text in UTF-16: save it as UTF-8 (iconv -f UTF-16 -t UTF-8)",
    b"\x00\x00\xfe\xff": "text in UTF-32: save it as UTF-8 (iconv -f UTF-32 -t UTF-8)",
}
"""First bytes of files that are no UTF-8 text, and what they tell."""


def log_files(path: Path, kind: Format | Literal["auto"]) -> list[tuple[Path, Format]]:
    """Returns the file, or all files under the folder in the order of their names, with formats.

    Names that begin with `.` or `_` are left out. Raises ValueError for a file that can't be read
    as what its format says, and for files of several formats.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    if not path.is_dir():
        return [_checked(path, kind)]
    files = [_checked(file, kind) for file in sorted(_walk(path))]
    if not files:
        raise ValueError(f"{path} holds no file")
    formats = sorted({format_ for _, format_ in files})
    if len(formats) > 1:
        raise ValueError(
            f"{path} holds files of several formats ({', '.join(formats)}): "
            "leave only the logs in it, or name their one format"
        )
    return files


def _walk(folder: Path) -> Iterator[Path]:
    """Yields the files under a folder, through links to folders; none of them twice."""

    def refuse(error: OSError) -> None:
        raise ValueError(f"{error.filename} can't be read: {error.strerror}") from error

    seen: set[Path] = set()
    for at, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = Path(at).resolve()
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if name[0] not in "._"]
        yield from (Path(at, name) for name in files if name[0] not in "._")


def _checked(path: Path, kind: Format | Literal["auto"]) -> tuple[Path, Format]:
    """Returns a file and its format. Raises ValueError if it is not a readable file of the kind."""
    if not path.exists():
        raise ValueError(f"{path} is a link to nothing")
    if not path.is_file():
        raise ValueError(f"{path} is a pipe or a device: write the log to a file first")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{path} can't be read: no permission")
    suffix = path.suffix.lower()
    if kind == "auto" and suffix not in SUFFIXES:
        raise ValueError(
            f"{path}: its suffix does not tell the format. Name it: csv, tsv, parquet or lines"
        )
    found = SUFFIXES[suffix] if kind == "auto" else kind
    if found != "parquet":
        _check_text(path)
    return path, found


def _check_text(path: Path) -> None:
    """Raises ValueError for a file that is no text in UTF-8 with the usual line ends."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    for signature, meaning in SIGNATURES.items():
        if head.startswith(signature):
            raise ValueError(f"{path} is {meaning}")
    if head.count(b"\0") > len(head) // 4:
        raise ValueError(f"{path} is text in UTF-16 or UTF-32, or no text at all: save it as UTF-8")
    if b"\r" in head and b"\n" not in head:
        raise ValueError(
            f"{path}: its lines end with a carriage return (CR) alone: "
            "convert the line ends to LF (tr '\\r' '\\n')"
        )
