"""Hides items under load and looks into every answer for them.

    python -m loadtest.serving.bench_hidden --artifacts demo/artifacts

Starts the service on a Redis of its own, with one front end and with two, and asks for batches of
recalls over several connections. Meanwhile items that were just recalled are hidden, over HTTP and
by a job that writes to Redis, and some are shown again. An answer that was begun a second or more
after an item was hidden, and before it is shown again, must not hold it. Prints the number of
answers for each mode, and exits with 1 if one of them held such an item. A request that is not
answered within 30 s ends the run with an error that names its connection.
"""

import argparse
import asyncio
import json
import random
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis.asyncio as aioredis

from loadtest.results import say
from loadtest.serving.servers import python_server, recgpt_serve, redis_server

ITEM_ID = re.compile(rb'"item_id":("(?:[^"\\]|\\.)*")')
RECALLS, K = 64, 20
"""Recalls of one batch, and candidates of a recall."""
CONNECTIONS = 4
OVERLOADED, PAUSE_SECONDS = (429, 504), 0.05
"""Statuses of a service that has too much to do, and the pause before it is asked again."""
PATIENCE_SECONDS = 30.0
"""Time within which every request must be answered."""
HIDE_SECONDS, MAX_HIDDEN = 0.25, 40
"""Pause between two changes, and hidden items from which on the oldest is shown again."""


@dataclass
class Watch:
    """The hidden items, and what the answers had to do with them."""

    grace_seconds: float
    hidden: dict[str, float] = field(default_factory=dict)  # the time since when it is hidden
    seen: set[str] = field(default_factory=set)  # of the last answers
    answers: int = 0
    """Answers that were begun when some item had to be gone."""
    changes: int = 0
    violations: list[str] = field(default_factory=list)

    def due(self, begun: float) -> set[str]:
        """Returns the items that an answer begun at this time must not hold."""
        return {i for i, since in self.hidden.items() if begun >= since + self.grace_seconds}

    def check(self, body: bytes, due: set[str], recalls: int) -> None:
        """Looks into the answers; items that are shown again meanwhile do not count."""
        found = {json.loads(text) for text in set(ITEM_ID.findall(body))}
        wrong = found & due & self.hidden.keys()
        self.violations += [f"{item} after {self.answers:,} answers" for item in wrong]
        self.answers += recalls if due else 0
        self.seen = found


async def run(
    port: int, store: str, answers: int, grace_seconds: float = 1.0, seed: int = 0
) -> Watch:
    """Asks the service for recalls while items are hidden in its store, until it has looked for
    them in this number of answers.

    `grace_seconds` is the time after which a hidden item must be gone.
    """
    watch = Watch(grace_seconds)
    # With a time-out, the client waits by asyncio.wait_for, which in Python 3.11 may swallow the
    # cancellation of `_hide`: a run in six never ended.
    client = aioredis.Redis.from_url(store, socket_timeout=None)
    asking = [
        asyncio.create_task(_ask(port, watch, answers, n, seed + n)) for n in range(CONNECTIONS)
    ]
    hiding = asyncio.create_task(_hide(port, client, watch, seed))
    try:
        waiting: list[asyncio.Future[Any]] = [hiding, asyncio.gather(*asking)]
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            await task  # raises its error
    finally:
        for task in (hiding, *asking):
            task.cancel()
        await asyncio.gather(hiding, *asking, return_exceptions=True)
        await client.aclose()
    return watch


async def _ask(port: int, watch: Watch, answers: int, number: int, seed: int) -> None:
    """Asks for one batch after the other, with histories of items that were recalled."""
    rng = random.Random(seed)
    connection = Connection(port, f"asker {number}")
    try:
        while watch.answers < answers:
            known = sorted(watch.seen) or ["nothing"]
            requests = [
                {"user_id": f"u{n}", "history": rng.choices(known, k=3), "k": K}
                for n in range(RECALLS)
            ]
            due = watch.due(time.monotonic())
            body = json.dumps({"requests": requests}).encode()
            status, content = await connection.request("POST", "/recall/batch", body)
            if status in OVERLOADED:
                await asyncio.sleep(PAUSE_SECONDS)
            elif status != 200:
                raise RuntimeError(f"/recall/batch answered {status}: {content[:300]!r}")
            else:
                watch.check(content, due, RECALLS)
    finally:
        connection.close()


async def _hide(port: int, client: aioredis.Redis, watch: Watch, seed: int) -> None:
    """Hides items of the latest answers in turn over HTTP and in Redis."""
    rng = random.Random(seed)
    connection = Connection(port, "hider")

    async def over_http(method: str, item: str) -> None:
        status, content = await connection.request(method, f"/items/{quote(item, safe='')}/hidden")
        if status != 200:
            raise RuntimeError(f"{method} /items/…/hidden answered {status}: {content[:300]!r}")

    async def in_redis(method: str, item: str) -> None:
        await (client.sadd if method == "PUT" else client.srem)("hidden", item)
        await client.xadd("items:changes", {"item": item}, maxlen=100_000)

    ways: list[Callable[[str, str], Awaitable[None]]] = [over_http, in_redis]
    try:
        while True:
            await asyncio.sleep(HIDE_SECONDS)
            way = ways[watch.changes % 2]
            if new := sorted(watch.seen - watch.hidden.keys()):
                item = rng.choice(new)
                await way("PUT", item)
                watch.hidden[item] = time.monotonic()
                watch.changes += 1
            if len(watch.hidden) > MAX_HIDDEN:
                oldest = next(iter(watch.hidden))
                del watch.hidden[oldest]
                await way("DELETE", oldest)
    finally:
        connection.close()


class Connection:
    """A connection for one request after another, opened when there is none."""

    def __init__(self, port: int, name: str) -> None:
        """Takes the port, and a name for errors."""
        self._port, self._name = port, name
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Returns status and body of the answer. Raises RuntimeError if none comes in time."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await self._request(method, path, body)
        except TimeoutError:
            raise RuntimeError(
                f"{method} {path} was not answered within {PATIENCE_SECONDS:g} s: {self}"
            ) from None
        except (OSError, EOFError) as error:
            raise RuntimeError(f"{method} {path} was not answered ({error!r}): {self}") from error

    def close(self) -> None:
        """Closes the connection if there is one."""
        if self._streams:
            self._streams[1].close()
        self._streams = None

    def __str__(self) -> str:
        own = self._streams[1].get_extra_info("sockname") if self._streams else "not connected"
        return f"{self._name}, {own} to port {self._port}"

    async def _request(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        if not self._streams:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(answer.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        content = await reader.readexactly(length)
        if b"\r\nconnection: close\r\n" in answer:
            self.close()
        return int(answer[9:12]), content


def main() -> None:
    """Runs both modes and reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifacts", type=Path, required=True)
    parser.add_argument("--answers", type=int, default=1_000_000, help="over both modes together")
    options = parser.parse_args()
    wrong = 0
    for workers in ("1", "2"):
        with redis_server() as store:
            arguments = recgpt_serve(options.artifacts, store, "--http-workers", workers)
            with python_server([*arguments, "--deadline-ms", "10000"]) as (port, _):
                started = time.monotonic()
                watch = asyncio.run(run(port, store, options.answers // 2))
                seconds = time.monotonic() - started
        wrong += len(watch.violations)
        say(
            f"{workers} front end(s): {watch.answers:,} answers in {seconds:.0f} s, "
            f"{watch.changes} items hidden, {len(watch.violations)} answers held one a second later"
        )
        for violation in watch.violations[:10]:
            say(f"  {violation}")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
