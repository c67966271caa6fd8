"""A harness that is stopped leaves no server behind."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

SERVER = """
import http.server, sys
address = "127.0.0.1", int(sys.argv[2])
http.server.HTTPServer(address, http.server.SimpleHTTPRequestHandler).serve_forever()
"""
HARNESS = """
import sys, time
from loadtest.serving.servers import python_server

with python_server(["-c", sys.argv[1]]) as (port, process):
    print(process.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_what_a_harness_has_started_ends_with_it(number: signal.Signals) -> None:
    words = [sys.executable, "-c", HARNESS, SERVER]
    with subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True) as harness:
        assert harness.stdout
        server = psutil.Process(int(harness.stdout.readline()))
        harness.send_signal(number)
        assert harness.wait(60) in (128 + number, -number)
    try:
        assert not server.is_running()
    finally:
        if server.is_running():
            os.kill(server.pid, signal.SIGKILL)
