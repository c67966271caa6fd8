"""The environment of a measurement, for the record beside its figures."""

import os
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path


def environment() -> dict[str, str]:
    """Returns the machine, the Python version, the date, the commit and this program's command."""
    module = sys.modules["__main__"].__spec__
    name = module.name if module else Path(sys.argv[0]).name
    describe = ["git", "describe", "--always", "--dirty"]
    return {
        "machine": f"{os.cpu_count()} cores, {_processor()}",
        "python": platform.python_version(),
        "date": date.today().isoformat(),
        "commit": subprocess.run(
            describe, capture_output=True, text=True, check=False
        ).stdout.strip(),
        "command": " ".join(["python -m", name, *sys.argv[1:]]),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
