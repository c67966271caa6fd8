import subprocess
import sys

CODE = """
import resource
from service.processes.frontend import allow_many_connections
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
allow_many_connections()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
"""


def test_the_limit_of_open_files_is_raised() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True)
