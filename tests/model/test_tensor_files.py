from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.tensor_files import write_tensors


def test_tensors_are_written_as_they_are(tmp_path: Path) -> None:
    view = torch.arange(6.0).reshape(2, 3).T.requires_grad_()
    write_tensors({"a": view, "b": torch.ones(2)}, tmp_path / "t.safetensors", {"m": "1"})
    found = load_file(tmp_path / "t.safetensors")
    assert found["a"].tolist() == view.tolist()
    assert found["b"].tolist() == [1, 1]


def test_a_file_that_cannot_be_written_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"nowhere.*can't be written: .*No such file"):
        write_tensors({"a": torch.ones(2)}, tmp_path / "nowhere" / "t.safetensors")
