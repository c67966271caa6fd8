"""Processes load what they need: a front end is small, and a start is quick."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def loaded_by(module: str) -> set[str]:
    """The packages that a fresh process has loaded after it has imported a module."""
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return set(printed.stdout.split())


COMPUTING = {"faiss", "llvmlite", "numba", "polars", "scipy", "torch"}
REPORTS = {"PIL", "jinja2", "matplotlib", "tensorboard"}


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("service.processes.frontend", COMPUTING | REPORTS),
        ("service.processes.engine_process", REPORTS),
        ("service.recall.types", COMPUTING | REPORTS | {"fastapi"}),
        ("service.server", COMPUTING | REPORTS | {"fastapi", "numpy", "polars", "uvicorn"}),
    ],
)
def test_a_module_does_not_load(module: str, unwanted: set[str]) -> None:
    loaded = loaded_by(module)
    assert module.partition(".")[0] in loaded
    assert not loaded & unwanted
