"""The manifest: a bundle's description of itself, with the checksum of every other file."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, StringConstraints, ValidationError, field_validator

from model.evaluation.config import ProtocolConfig
from model.files import write_json
from model.kinds import Kind
from model.network.config import BEFORE_GROUPS, GPTConfig, RecallConfig

FORMAT = 3  # 1: before relative positions; 2: user ids in one list; 4: with an ONNX network


class ArtifactError(ValueError):
    """A bundle that is missing, damaged or of another format; the message names the file."""


FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]
"""The name of a file in the bundle: a manifest may not point outside of it."""


class FileEntry(BaseModel, frozen=True):
    """The size and the hash of a file."""

    bytes: int
    sha256: str


class Manifest(BaseModel, frozen=True):
    """The bundle's description of itself."""

    format: int
    version: str
    created: str
    code_version: str
    dataset: dict[str, Any]
    model: GPTConfig
    recall: RecallConfig
    protocol: ProtocolConfig = ProtocolConfig()
    """The events that trained the model, and those that `metrics` are measured with."""
    metrics: dict[str, dict[str, float]]
    vectors_sha256: str
    files: dict[FileName, FileEntry]
    actions: list[str] = []
    """The actions that the network knows, in the order of their numbers, if it reads feedback."""
    item_kinds: dict[str, Kind] = {}
    """The kind of each attribute of the items; one that is missing here is text."""
    additions: list[dict[str, Any]] = []
    """The additions that `recgpt items add` made to the trained bundle, oldest first."""

    @field_validator("model", mode="before")
    @classmethod
    def _read_older_networks(cls, model: Any) -> Any:
        return BEFORE_GROUPS | model if isinstance(model, dict) else model


def seal(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest of a bundle whose other files are complete, with their checksums."""
    files = {file.name: _entry(file) for file in sorted(folder.iterdir())}
    sealed = manifest.model_copy(update={"files": files})
    write_json(folder / "manifest.json", sealed)


def read_manifest(folder: Path) -> Manifest:
    """Returns the manifest. Raises ArtifactError if it can't be read or has another format."""
    file = folder / "manifest.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.get("format") != FORMAT:
            raise ArtifactError(
                f"{file} has format {content.get('format')}, this version reads {FORMAT}: "
                "export the artifact again"
            )
        return Manifest.model_validate(content)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, ValidationError) as error:
        raise ArtifactError(f"{file} is missing or damaged: {error}") from error


def verify(file: Path, entry: FileEntry) -> None:
    """Raises ArtifactError if the file is not the one that the manifest describes."""
    if not file.exists():
        raise ArtifactError(f"{file} is missing")
    if file.stat().st_size != entry.bytes:
        raise ArtifactError(f"{file} has {file.stat().st_size} bytes, not {entry.bytes}")
    if _entry(file).sha256 != entry.sha256:
        raise ArtifactError(f"{file} is damaged: its checksum is not the manifest's")


def _entry(file: Path) -> FileEntry:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileEntry(bytes=file.stat().st_size, sha256=digest)
