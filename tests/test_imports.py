"""Processes load what they need: a front end is small, and a start is quick."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh process has loaded after it has run a line of code."""
    code += "; import sys; print(*sys.modules)"
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
        ("service.observability.tracing", COMPUTING | {"opentelemetry"}),
        ("service.recall.types", COMPUTING | REPORTS | {"fastapi"}),
        ("service.server", COMPUTING | REPORTS | {"fastapi", "numpy", "polars", "uvicorn"}),
    ],
)
def test_a_module_does_not_load(module: str, unwanted: set[str]) -> None:
    loaded = loaded_by(f"import {module}")
    assert module in loaded
    assert not loaded & unwanted


def test_a_bundle_is_read_without_torchs_compiler(artifacts: Path) -> None:
    """It takes more than a second, and an operation on the device "meta" can import it."""
    code = "from pathlib import Path; from model.artifact.bundle import load_artifact"
    loaded = loaded_by(f"{code}; load_artifact(Path({str(artifacts / 'current')!r}))")
    assert "torch" in loaded
    assert not loaded & {"sympy", "torch._dynamo"}
