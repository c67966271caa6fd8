"""Writes tensors to safetensors files; they are read by the library itself."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def write_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes the tensors. Raises OSError if the file cannot be written, as on a full disk."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(plain, path, None if metadata is None else dict(metadata))
    except SafetensorError as error:  # which is no OSError, so that callers would not expect it
        raise OSError(f"{path} can't be written: {error}") from error
