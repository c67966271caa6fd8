"""The health checks of an instance, asked again and again on new connections.

    python -m loadtest.reliability.probe --port 8000 --seconds 10

It is a process of its own, because the load generator keeps its process busy. Prints JSON: for each
path the largest latency in ms, and the answers by status.
"""

import argparse
import http.client
import json
import time
from collections import Counter, defaultdict

PATHS = ("/healthz", "/readyz", "/metrics")
PAUSE_S = 0.05


def main() -> None:
    """Asks for the given time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = defaultdict(list)
    statuses: dict[str, Counter[int]] = defaultdict(Counter)
    end = time.monotonic() + options.seconds
    while time.monotonic() < end:
        for path in PATHS:
            begun = time.perf_counter()
            statuses[path][ask(options.port, path)] += 1
            seconds[path].append(time.perf_counter() - begun)
            time.sleep(PAUSE_S)
    found = {
        path: {
            "max_ms": max(seconds[path]) * 1000,
            "median_ms": sorted(seconds[path])[len(seconds[path]) // 2] * 1000,
            "statuses": statuses[path],
        }
        for path in seconds
    }
    print(json.dumps(found))


def ask(port: int, path: str) -> int:
    """Returns the status of the answer, 0 if there is none within 10 s."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


if __name__ == "__main__":
    main()
