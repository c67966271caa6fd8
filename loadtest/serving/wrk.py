"""The closed loop once more, by wrk: a generator in C, which uses less CPU time than ours."""

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("recall.lua")
RATE = re.compile(r"good answers a second: ([\d.]+)")


def wrk_rps(port: int, questions: list[Any], connections: int, seconds: float) -> float | None:
    """Returns good answers per second to these bodies, or None if wrk is not on PATH."""
    printed = run_wrk(port, questions, connections, seconds)
    if printed is None:
        return None
    if not (found := RATE.search(printed)):
        raise RuntimeError(f"wrk did not print the rate that {SCRIPT.name} reports: {printed}")
    return float(found[1])


def run_wrk(port: int, questions: list[Any], connections: int, seconds: float) -> str | None:
    """Sends these bodies in a closed loop; returns what wrk printed, None if it is not on PATH."""
    if not shutil.which("wrk"):
        return None
    with tempfile.NamedTemporaryFile("w") as bodies:
        bodies.writelines(json.dumps(question) + "\n" for question in questions)
        bodies.flush()
        load = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}", "-s", str(SCRIPT)]
        url = f"http://127.0.0.1:{port}"
        command = ["wrk", *load, url, "--", bodies.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
