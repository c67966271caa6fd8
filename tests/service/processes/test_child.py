import subprocess
import sys
from pathlib import Path

CODE = """
import resource
from service.processes.child import allow_many_files
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
allow_many_files()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
"""


def test_the_limit_of_open_files_is_raised() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True)


def test_a_limit_that_is_too_low_is_told(tmp_path: Path) -> None:
    words = f"{sys.executable} -m cli serve --artifacts {tmp_path} --store embedded:{tmp_path}/s"
    command = ["bash", "-c", f"ulimit -n 20; exec {words}"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode != 0
    assert "only 20 files may be open at a time" in ended.stderr
    assert "Traceback" not in ended.stderr
